#!/usr/bin/env python3
"""Runs a command by two MPI ranks in two network namespaces, as if on two machines, over a link with a delay and a rate.

    python3 scripts/two_machines.py --delay 1 --rate 1gbit target/release/vitrim train ...

Each namespace has a host name and a TUN device. This program carries packets between the two devices and holds each for
--delay ms; `tc` limits the --rate of each device. (Linux's own `netem` would do both, where the kernel has it.) Open MPI
starts the second rank through an agent that enters the other namespace, and uses TCP alone. Needs root.
"""

import argparse
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque

TUNSETIFF, IFF_TUN, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 1, 0x1000, 0x40000000
SPACES, MTU = ("vitrim-a", "vitrim-b"), 9000
ADDRESSES = ("10.213.7.1", "10.213.7.2")


def run(*command):
    subprocess.run(command, check=True)


def device(space, address, rate):
    """A TUN device in the namespace, by its file; made there by a child that passes the file on."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        with open(f"/run/netns/{space}", encoding="utf-8") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
                os._exit(1)
        tun = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", b"vitrim0", IFF_TUN | IFF_NO_PI))
        run("ip", "addr", "add", f"{address}/24", "dev", "vitrim0")
        run("ip", "link", "set", "vitrim0", "mtu", str(MTU), "txqueuelen", "10000", "up")
        run("ip", "link", "set", "lo", "up")
        run("tc", "qdisc", "add", "dev", "vitrim0", "root", "tbf", "rate", rate, "burst", "256kb", "limit", "16mb")
        socket.send_fds(theirs, [b"tun"], [tun])
        os._exit(0)
    _, files, _, _ = socket.recv_fds(ours, 16, 1)
    os.waitpid(child, 0)
    return files[0]


def carry(source, target, delay):
    """Carries packets from one device to the other, each `delay` seconds after it came."""
    waiting, some = deque(), threading.Condition()

    def deliver():
        while True:
            with some:
                some.wait_for(lambda: waiting)
                due, packet = waiting.popleft()
            time.sleep(max(0.0, due - time.monotonic()))
            os.write(target, packet)

    threading.Thread(target=deliver, daemon=True).start()
    while True:
        packet = os.read(source, MTU + 100)
        with some:
            waiting.append((time.monotonic() + delay, packet))
            some.notify()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=1.0, help="of each packet, ms")
    parser.add_argument("--rate", default="1gbit", help="of each direction, as tc takes it")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    for space in SPACES:
        run("ip", "netns", "add", space)
    try:
        tuns = [device(space, address, args.rate) for space, address in zip(SPACES, ADDRESSES)]
        for source, target in (tuns, tuns[::-1]):
            threading.Thread(target=carry, args=(source, target, args.delay / 1000), daemon=True).start()
        with tempfile.NamedTemporaryFile("w", suffix=".sh", delete=False) as agent:
            agent.write('#!/bin/sh\nshift\nexec ip netns exec vitrim-b unshare --uts sh -c "hostname vitrim-b; $*"\n')
        os.chmod(agent.name, 0o755)
        mpirun = ["mpirun", "--allow-run-as-root", "--bind-to", "none", "--mca", "plm_rsh_agent", agent.name,
                  "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "vitrim0", "--mca", "oob_tcp_if_include", "vitrim0",
                  "--host", "vitrim-a:1,10.213.7.2:1", "-n", "2", *args.command]
        start = ["ip", "netns", "exec", SPACES[0], "unshare", "--uts", "sh", "-c", 'hostname vitrim-a; exec "$@"', "sh"]
        code = subprocess.run([*start, *mpirun], check=False).returncode
        os.unlink(agent.name)
    finally:
        for space in SPACES:
            subprocess.run(["ip", "netns", "del", space], check=False)
    sys.exit(code)


if __name__ == "__main__":
    main()
