"""Stopping and reloading under load lose no request: each is counted."""

from __future__ import annotations

import collections
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest

import vitrim
from scratch import tiny_checkpoint

pytest.importorskip("httptools", reason="SKIPPED: httptools is not installed")
pytest.importorskip("uvloop", reason="SKIPPED: uvloop is not installed")
import serve_load  # noqa: E402
from serve_load import UNREACHABLE  # noqa: E402

RATE = 150.0


class Background:
    """Poisson arrivals of single images for some seconds, beside the test."""

    def __init__(self, server: Any, photo: Path, seconds: float) -> None:
        body = photo.read_bytes()
        payload = serve_load.message(server.port, "/predict", body, ["Content-Type: image/jpeg"])
        arrivals = serve_load.poisson(RATE, seconds)
        self.load = serve_load.Load(server.port)

        def work() -> None:
            self.answers, _ = serve_load.run(self.load.open_loop(lambda i: (i, payload), arrivals))

        self.count = len(arrivals)
        self.thread = threading.Thread(target=work)
        self.thread.start()

    def wait(self) -> collections.Counter[int]:
        """The number of requests of each status; negative and 0 are those that no server gave an answer to."""
        self.thread.join()
        statuses = collections.Counter(answer.status for answer in self.answers)
        assert sum(statuses.values()) == self.count, "every request is counted"
        return statuses


def test_sigterm_under_load_loses_nothing(serve: Callable[..., Any], photo: Path) -> None:
    with serve("--drain", "1s") as server:
        load = Background(server, photo, 4.0)
        time.sleep(1.0)
        told = load.load.now()
        server.signal(signal.SIGTERM)
        time.sleep(0.2)
        assert server.get("/v2/health/ready")[0] == 503
        assert server.get("/v2/health/live")[0] == 200
        assert server.process.wait(20) == 0, server.output()
        statuses = load.wait()
    # Those that came in the drain's time are answered. Later ones are refused, by the server or by the closed port: a
    # load balancer, which has seen `ready`, sends none. None is taken and then dropped.
    assert set(statuses) <= {200, 503, UNREACHABLE}, statuses
    in_time = [answer for answer in load.answers if (answer.sent or answer.done) < told + 0.9]
    lost = [(answer.status, answer.due - told, answer.sent - told, answer.body) for answer in in_time if answer.status != 200]
    assert len(in_time) > RATE and not lost, lost
    print(f"SIGTERM under load: {dict(statuses)}, 0 lost of {load.count}")


@pytest.mark.parametrize("by", ["SIGHUP", "the repository's API"])
def test_reloading_under_load_loses_nothing(serve: Callable[..., Any], photo: Path, by: str) -> None:
    with serve() as server:
        load = Background(server, photo, 3.0)
        for _ in range(6):
            time.sleep(0.4)
            if by == "SIGHUP":
                server.signal(signal.SIGHUP)
            else:
                assert server.request("POST", "/v2/repository/models/tiny/load", b"{}")[0] == 200
        statuses = load.wait()
        assert statuses == {200: load.count}, statuses
        assert loads(server, "loaded") >= 3, server.output()
        assert loads(server, "failed") == 0


def test_sigterm_does_not_wait_for_a_reload(serve: Callable[..., Any], bundled: Path) -> None:
    # The warm-up of a reload takes seconds with such a large batch.
    with serve("--drain", "2s", "--batch-gmacs", 15, model=f"scenes={bundled}") as server:
        began = time.monotonic()
        server.signal(signal.SIGHUP)
        time.sleep(0.2)
        server.signal(signal.SIGTERM)
        while server.get("/v2/health/ready")[0] == 200:
            assert time.monotonic() - began < 20
            time.sleep(0.02)
        noticed = time.monotonic() - began
        assert loads(server, "loaded") == 1, f"a reload hid SIGTERM for {noticed:.1f} s"
        assert server.process.wait(30) == 0, server.output()


def test_what_does_not_load_leaves_the_old_one(
    serve: Callable[..., Any], trained: vitrim.Run, tiny: Path, photo: Path, tmp_path: Path
) -> None:
    policy, model = tmp_path / "policy", tmp_path / "model"
    shutil.copytree(trained.folder / "policy", policy)
    shutil.copytree(tiny, model)
    with serve("--policy", policy, model=f"tiny={model}") as server:
        kind = {"content-type": "image/jpeg"}
        before = server.request("POST", "/predict", photo.read_bytes(), kind)[2]
        load = Background(server, photo, 2.0)
        (policy / "policy.json").write_text("{}")
        server.signal(signal.SIGHUP)
        time.sleep(0.5)
        status, _, body = server.request("POST", "/v2/repository/models/tiny/load", b"{}")
        assert 400 <= status < 500 and b"policy" in body, (status, body)
        # A backbone that the policy was not trained for.
        shutil.copytree(trained.folder / "policy", policy, dirs_exist_ok=True)
        (tmp_path / "shallow").mkdir()
        tiny_checkpoint(tmp_path / "shallow", depth=3)
        shutil.copytree(tmp_path / "shallow", model, dirs_exist_ok=True)
        assert 400 <= server.request("POST", "/v2/repository/models/tiny/load", b"{}")[0] < 500
        assert load.wait() == {200: load.count}
        assert server.request("POST", "/predict", photo.read_bytes(), kind)[2] == before
        assert loads(server, "failed") == 3 and server.get("/v2/health/ready")[0] == 200


def loads(server: Any, outcome: str) -> float:
    """How often models were loaded with this outcome, from the metrics."""
    lines = server.get("/metrics")[1].decode().splitlines()
    mark = f'outcome="{outcome}"'
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vitrim_loads_total") and mark in line)
