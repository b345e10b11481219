"""Spans of requests arrive at a collector. Needs a `vitrim` with the feature `otel`, which VITRIM_BINARY may name."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Callable

import pytest

pytest.importorskip("grpc", reason="SKIPPED: grpcio is not installed")
pytest.importorskip("opentelemetry.proto", reason="SKIPPED: opentelemetry-proto is not installed")
import otel_sink  # noqa: E402
from serve_process import free_port  # noqa: E402

#: A trace and a span of a caller, in the form of the header `traceparent`.
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
#: Batches leave after so many milliseconds.
OFTEN = {"OTEL_BSP_SCHEDULE_DELAY": "100"}


@pytest.fixture(scope="module")
def traced(binary: Path, tiny: Path, serve: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a server that sends spans to a port of loopback."""
    command = [binary, "serve", "--model", tiny, "--otlp-endpoint", "none"]
    if "without the feature" in subprocess.run(command, capture_output=True, text=True, timeout=30).stderr:
        pytest.skip("SKIPPED: vitrim is built without the feature otel: see docs/serving.md")

    def start(port: int, **env: str) -> Any:
        server = serve("--otlp-endpoint", f"http://127.0.0.1:{port}")
        server.env.update(OFTEN | env)
        return server

    return start


def of_route(sink: Any, route: str) -> list[dict[str, Any]]:
    return [span for span in sink.spans if span["attributes"].get("http.route") == route]


def post(server: Any, body: bytes, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return server.request("POST", "/predict", body, {"Content-Type": "image/jpeg", **headers})


def test_each_request_has_a_span(traced: Callable[..., Any], photo: Path) -> None:
    body = photo.read_bytes()
    with otel_sink.Sink() as sink, traced(sink.port) as server:
        told = post(server, body, traceparent=f"00-{TRACE}-{PARENT}-01")[1]
        assert post(server, body)[0] == 200
        assert post(server, b"no image")[0] in (415, 422)
        assert server.get("/nowhere")[0] == 404
        assert server.stop() == 0, server.output()
    answered, alone, refused = of_route(sink, "/predict")
    assert answered["name"] == "POST /predict" and answered["kind"] == "SPAN_KIND_SERVER" and answered["service"] == "vitrim"
    has = answered["attributes"]
    assert has["http.request.method"] == "POST" and has["http.response.status_code"] == 200
    assert has["model"] == "tiny" and has["operating_point"] == told["x-operating-point"]
    for time_of in ("decode", "queue", "compute"):
        assert has[f"{time_of}_ms"] == pytest.approx(float(told[f"x-{time_of}-time-ms"]), abs=0.001)
    assert has["gmacs"] == pytest.approx(float(told["x-gmacs"]), abs=1e-6)
    assert answered["ms"] >= has["decode_ms"] + has["queue_ms"] + has["compute_ms"]
    assert (answered["trace"], answered["parent"]) == (TRACE, PARENT)
    assert alone["trace"] != TRACE and alone["parent"] == ""
    assert refused["attributes"]["http.response.status_code"] in (415, 422) and "compute_ms" not in refused["attributes"]
    # What a client does wrong is no error of the server's.
    assert refused["status"] == "STATUS_CODE_UNSET"
    (unknown,) = [span for span in sink.spans if span["attributes"].get("http.response.status_code") == 404]
    assert unknown["name"] == "GET" and "/nowhere" not in json.dumps(unknown)
    # Nothing but requests: neither the connections of the server nor that to the collector.
    assert all("http.request.method" in span["attributes"] for span in sink.spans)


def test_grpc_has_spans_too(traced: Callable[..., Any], photo: Path) -> None:
    triton = pytest.importorskip("tritonclient.grpc", reason="SKIPPED: tritonclient[grpc] is not installed")
    np = pytest.importorskip("numpy")
    with otel_sink.Sink() as sink, traced(sink.port) as server:
        client = triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
        images = triton.InferInput("images", [1], "BYTES")
        images.set_data_from_numpy(np.array([photo.read_bytes()], dtype=object))
        client.infer("tiny", [images], headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        client.close()
        server.stop()
    (span,) = of_route(sink, "grpc/ModelInfer")
    assert (span["trace"], span["parent"]) == (TRACE, PARENT)
    assert span["attributes"]["http.response.status_code"] == 200 and span["attributes"]["compute_ms"] > 0


def test_a_trace_that_is_not_sampled_is_not_sent(traced: Callable[..., Any], photo: Path) -> None:
    with otel_sink.Sink() as sink, traced(sink.port) as server:
        assert post(server, photo.read_bytes(), traceparent=f"00-{TRACE}-{PARENT}-00")[0] == 200
        server.stop()
    assert of_route(sink, "/predict") == []


def test_sigterm_sends_what_is_left(traced: Callable[..., Any], photo: Path) -> None:
    body = photo.read_bytes()
    # More than one batch, and none would leave before the end.
    with otel_sink.Sink() as sink, traced(sink.port, OTEL_BSP_SCHEDULE_DELAY="600000") as server:
        for _ in range(700):
            assert post(server, body)[0] == 200
        assert server.stop() == 0, server.output()
    assert len(of_route(sink, "/predict")) == 700


def test_a_dead_collector_is_said_once_and_costs_nothing(traced: Callable[..., Any], photo: Path) -> None:
    body, port = photo.read_bytes(), free_port()
    with traced(port) as server:
        for _ in range(30):
            assert post(server, body)[0] == 200
            time.sleep(0.1)
        assert server.output().count(f"spans do not reach http://127.0.0.1:{port}") == 1, server.output()
        # When it is there again, the server says what was lost, and spans arrive.
        with otel_sink.Sink(port) as sink:
            for _ in range(100):
                assert post(server, body)[0] == 200
                if of_route(sink, "/predict"):
                    break
                time.sleep(0.1)
            assert server.stop() == 0, server.output()
        assert len(of_route(sink, "/predict")) > 0 and server.output().count("again; ") == 1, server.output()


def test_a_collector_that_never_answers_does_not_hold_the_server(traced: Callable[..., Any], photo: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, traced(silent.getsockname()[1]) as server:
        for _ in range(20):
            begun = time.monotonic()
            assert post(server, photo.read_bytes())[0] == 200
            assert time.monotonic() - begun < 5
            time.sleep(0.05)
        begun = time.monotonic()
        assert server.stop() == 0, server.output()
        assert time.monotonic() - begun < 15, "it waits a few seconds for the collector, not longer"
        assert "the last spans were not sent" in server.output()


@pytest.mark.parametrize("endpoint", ["https://127.0.0.1:4317", "127.0.0.1:4317", "http://"])
def test_an_endpoint_that_cannot_be_one_is_refused(traced: Any, binary: Path, tiny: Path, endpoint: str) -> None:
    command = [binary, "serve", "--model", tiny, "--port", str(free_port()), "--otlp-endpoint", endpoint]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0 and done.stderr.count("\n") == 1 and f"--otlp-endpoint {endpoint}: " in done.stderr
