"""A server as a process of this machine: started, waited for, watched, stopped."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path


def free_port():
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """Runs `command` and waits until `GET ready` on `port` answers 200.

    A context manager: at the end the process gets SIGTERM and has to end within `patience` seconds.
    """

    def __init__(self, command, port, ready="/v2/health/ready", patience=60.0, env=None):
        self.command, self.port, self.ready, self.patience = [str(word) for word in command], port, ready, patience
        self.env = {**os.environ, **(env or {})}

    def __enter__(self):
        self.log = tempfile.NamedTemporaryFile("w+", prefix="server-", suffix=".log")
        self.process = subprocess.Popen(
            self.command, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL, env=self.env, start_new_session=True
        )
        try:
            self.wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.stop()
        self.kill()

    def wait_until_ready(self):
        end = time.monotonic() + self.patience
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.command} ended with {self.process.returncode}:\n{self.output()}")
            try:
                if self.get(self.ready)[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"{self.command} was not ready after {self.patience} s:\n{self.output()}")

    def request(self, method, path, body=None, headers=None, timeout=30.0):
        """One request on a connection of its own: status, headers (names in lower case), body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def get(self, path):
        status, _, body = self.request("GET", path)
        return status, body

    def output(self):
        """What the process printed."""
        return Path(self.log.name).read_text(errors="replace")

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self):
        """SIGTERM; returns the exit status."""
        self.signal(signal.SIGTERM)
        return self.process.wait(self.patience)

    def kill(self):
        """Ends what is left of the process and of its children."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def processes(self):
        """The process and its descendants: ids."""
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
                except (OSError, ValueError):
                    continue
        family = {self.process.pid}
        while more := {child for child, parent in parents.items() if parent in family} - family:
            family |= more
        return family

    def resident(self):
        """Resident memory of the process and its descendants, bytes."""
        return sum(field(process, "VmRSS") for process in self.processes()) * 1024

    def cpu_seconds(self):
        """Processor time of the process and its descendants so far."""
        ticks = 0
        for process in self.processes():
            try:
                stat = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            ticks += int(stat[11]) + int(stat[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def field(process, name):
    """A number from /proc/PID/status; 0 if the process is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name + ":")), 0)
