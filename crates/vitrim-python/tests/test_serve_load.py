"""The load generator counts what happened, and latency from the intended arrival."""

from __future__ import annotations

import http.server
import threading
import time
from typing import Any, Iterator

import numpy as np
import pytest

pytest.importorskip("httptools", reason="SKIPPED: httptools is not installed")
pytest.importorskip("uvloop", reason="SKIPPED: uvloop is not installed")
import serve_load  # noqa: E402
from serve_load import BROKEN, UNREACHABLE, Load, message, poisson, run, summary  # noqa: E402
from serve_process import free_port  # noqa: E402

#: Seconds that the slow server takes for a request; it takes one at a time.
SLOW = 0.05


@pytest.fixture()
def slow() -> Iterator[int]:
    """The port of a server that takes one request at a time, refuses `/refuse`, and hangs up on `/hang-up`."""
    one = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/hang-up":
                self.close_connection = True
                return
            if self.path != "/refuse":
                with one:
                    time.sleep(SLOW)
            self.send_response(429 if self.path == "/refuse" else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Echo", "yes")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_the_wait_in_the_servers_queue_is_latency(slow: int) -> None:
    payload = message(slow, "/", b"photo")
    answers, share = run(Load(slow).open_loop(lambda i: (i, payload), [0.0] * 5))
    assert [answer.status for answer in answers] == [200] * 5
    assert all(answer.body == b"photo" and answer.headers["x-echo"] == "yes" for answer in answers)
    took = sorted(answer.done - answer.due for answer in answers)
    for place, one in enumerate(took, 1):
        assert one >= place * SLOW * 0.99, "requests that arrived together wait for each other"
    assert 0.0 < share < 1.0


def test_the_wait_for_a_connection_is_latency(slow: int) -> None:
    payload = message(slow, "/", b"photo")
    answers, _ = run(Load(slow, connections=1).open_loop(lambda i: (i, payload), [0.0] * 4))
    assert sorted(answer.done - answer.due for answer in answers)[-1] >= 4 * SLOW * 0.99


def test_every_request_is_counted(slow: int) -> None:
    paths = ["/", "/refuse", "/hang-up", "/"]
    answers, share = run(Load(slow).open_loop(lambda i: (i, message(slow, paths[i], b"x")), [0.0, 0.01, 0.02, 0.3]))
    assert [answer.status for answer in answers] == [200, 429, BROKEN, 200]
    found = summary(answers, 0.0, 1.0, share)
    assert found["statuses"] == {"0": 1, "200": 2, "429": 1}
    assert found["goodput_per_s"] == 2.0 and found["refusal_ms"]["count"] == 1
    nobody = free_port()
    (answer,), _ = run(Load(nobody).open_loop(lambda i: (i, message(nobody, "/", b"")), [0.0]))
    assert answer.status == UNREACHABLE


def test_a_closed_loop_sends_as_many_as_it_should(slow: int) -> None:
    answers, _ = run(Load(slow).closed_loop(lambda i: (i, message(slow, "/refuse", b"x")), 4, None, 50))
    assert sorted(answer.key for answer in answers) == list(range(50))
    assert {answer.status for answer in answers} == {429}


def test_arrivals_are_a_poisson_process() -> None:
    times = np.array(poisson(1000.0, 100.0, seed=1, start=5.0))
    assert times[0] >= 5.0 and times[-1] < 105.0
    gaps = np.diff(times)
    assert len(times) == pytest.approx(100_000, rel=0.02)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.02), "as exponential times have it"
    assert times.tolist() == poisson(1000.0, 100.0, seed=1, start=5.0)
    assert serve_load.quantiles([]) is None
