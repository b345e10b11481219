"""Clients that vanish, stall, lie and bomb: the server lives, answers the others, and says why in one line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from serve_process import field

#: An image of the model's size as a JPEG.
JPEG = io.BytesIO()
Image.fromarray(np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(JPEG, "JPEG")
PHOTO = JPEG.getvalue()
#: Limits of time that the test of slow clients can wait for.
SLOW = ("--header-timeout", "1s", "--body-timeout", "2s")
#: How the server's log begins the line about a panic.
PANIC = "a bug in vitrim"


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def vanish(client: socket.socket) -> None:
    """Resets the connection, as a killed client's does."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def head(length: int, path: str = "/predict", kind: str = "image/jpeg") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode()


def status_of(client: socket.socket) -> int:
    """The status of the answer that comes; 0 if the connection ends without one, or in frames of HTTP/2."""
    try:
        line = client.recv(4096)
    except ConnectionError:
        return 0
    return int(line.split()[1]) if line.startswith(b"HTTP/1") else 0


def answers(server: Any) -> bool:
    status, _, body = server.request("POST", "/predict", PHOTO, {"content-type": "image/jpeg"})
    return status == 200 and len(json.loads(body)["images"][0]["classes"]) == 3


def refused(server: Any, body: bytes, *statuses: int, path: str = "/predict", **headers: str) -> str:
    """Sends what must be refused with one of `statuses`; returns the line that says why."""
    given = {"content-type": "image/jpeg", **{name.replace("_", "-"): value for name, value in headers.items()}}
    status, _, answer = server.request("POST", path, body, given)
    assert status in statuses, (status, answer[:300])
    line = json.loads(answer)["error"]
    assert isinstance(line, str) and line and "\n" not in line and "panic" not in line, line
    return line


@contextlib.contextmanager
def others(server: Any) -> Iterator[list[float]]:
    """A well-behaved client beside the block: every request has to be answered. Yields the seconds that each took."""
    took: list[float] = []
    failed: list[str] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            before = time.monotonic()
            try:
                if not answers(server):
                    failed.append("not answered")
            except OSError as error:
                failed.append(repr(error))
            took.append(time.monotonic() - before)
            time.sleep(0.01)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield took
    finally:
        ended.set()
        thread.join()
    assert took and not failed, failed[:3]


def descriptors(server: Any) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def settles(value: Callable[[], int], at_most: int, seconds: float = 20.0) -> int:
    """Waits until `value` has fallen; returns it."""
    end = time.monotonic() + seconds
    while value() > at_most and time.monotonic() < end:
        time.sleep(0.1)
    return value()


def test_a_thousand_clients_connect_and_vanish(server: Any) -> None:
    assert answers(server)
    before = descriptors(server)
    with others(server):
        for i in range(1000):
            client = connect(server.port)
            if i % 4 == 1:
                client.sendall(b"POST /pre")
            elif i % 4 == 2:
                client.sendall(head(len(PHOTO)) + PHOTO[: len(PHOTO) // 2])
            elif i % 4 == 3:
                client.sendall(head(len(PHOTO)) + PHOTO)
            vanish(client)
    assert settles(lambda: descriptors(server), before + 3) <= before + 3, "connections are left open"
    assert answers(server)


def test_hundreds_of_clients_that_stay_connected_do_not_keep_others_out(server: Any) -> None:
    with contextlib.ExitStack() as stack, others(server):
        for _ in range(300):
            stack.enter_context(connect(server.port))
        for _ in range(50):
            stack.enter_context(connect(server.port)).sendall(head(10_000) + bytes(5_000))
        time.sleep(0.5)


def test_slow_headers_and_bodies_are_cut_off(serve: Callable[..., Any]) -> None:
    with serve(*SLOW) as server, others(server) as took:
        clients = [connect(server.port) for _ in range(30)]
        # Perhaps the beginning of HTTP/2.
        for client in clients[5:10]:
            client.sendall(b"PRI * HTTP")
        for client in clients[10:20]:
            client.sendall(b"POST /predict HTTP/1.1\r\nX: ")
        for client in clients[20:]:
            client.sendall(head(10_000))
        before, open_still = time.monotonic(), set(range(30))
        while open_still and time.monotonic() - before < 20:
            for i in sorted(open_still):
                try:
                    # The first ten say nothing more.
                    clients[i].sendall(b"a" * (i >= 10))
                    clients[i].settimeout(0.001)
                    if clients[i].recv(100):
                        # An answer, 408: the server closes after it.
                        continue
                    open_still.discard(i)
                except socket.timeout:
                    continue
                except OSError:
                    open_still.discard(i)
            time.sleep(0.1)
        assert not open_still, f"slow clients are still connected: {sorted(open_still)}"
    assert max(took) < 5.0


def test_clients_that_are_killed_while_they_send(server: Any) -> None:
    script = (
        "import socket, sys, time\n"
        "s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "s.sendall(b'POST /predict HTTP/1.1\\r\\nHost: x\\r\\nContent-Type: image/jpeg\\r\\nContent-Length: 900000\\r\\n\\r\\n')\n"
        "print('sending', flush=True)\n"
        "while True:\n"
        "    s.sendall(b'x' * 1000); time.sleep(0.05)\n"
    )
    before = descriptors(server)
    with others(server):
        clients = [
            subprocess.Popen([sys.executable, "-c", script, str(server.port)], stdout=subprocess.PIPE) for _ in range(8)
        ]
        for client in clients:
            assert client.stdout is not None and client.stdout.readline() == b"sending\n"
            client.send_signal(signal.SIGKILL)
            client.wait()
            client.stdout.close()
    assert settles(lambda: descriptors(server), before + 3) <= before + 3, "connections are left open"


def png_of_one_colour(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A small PNG of many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = 1 + (width * depth * {0: 1, 2: 3}[colour] + 7) // 8
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(row)) for _ in range(height)) + packer.flush()
    about = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", about) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_bombs_of_a_hundred_megapixels_take_no_memory(server: Any) -> None:
    assert answers(server)
    grey, tall = png_of_one_colour(10_000, 10_000, 1, 0), png_of_one_colour(16_000, 6_500, 1, 0)
    assert len(grey) < 100_000
    colour = bytearray(png_of_one_colour(10, 10))
    colour[16:24] = struct.pack(">II", 100_000, 100_000)
    colour[29:33] = struct.pack(">I", zlib.crc32(colour[12:29]))
    before = field(server.process.pid, "VmHWM")
    with others(server):
        for bomb in [grey, tall, bytes(colour)] * 4:
            line = refused(server, bomb, 413)
            assert "pixel" in line, line
    grown = (field(server.process.pid, "VmHWM") - before) / 1024
    assert grown < 64, f"the peak of resident memory grew by {grown:.0f} MiB"


def hostile_images() -> dict[str, bytes]:
    """Images that are not whole, or not images."""
    image = Image.fromarray(np.random.default_rng(4).integers(0, 256, (64, 48, 3), dtype=np.uint8))
    found = {"empty": b"", "text": b"hello\n", "html": b"<html><body>404</body></html>" * 100, "zeros": bytes(5000)}
    found["noise"] = np.random.default_rng(5).bytes(5000)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        file = io.BytesIO()
        image.save(file, kind)
        whole = file.getvalue()
        for share in (0.02, 0.3, 0.6):
            found[f"{kind} cut at {share}"] = whole[: int(len(whole) * share)]
    file = io.BytesIO()
    image.save(file, "PNG")
    wrong = bytearray(file.getvalue())
    wrong[len(wrong) // 2] ^= 0xFF
    found["PNG with a wrong byte"] = bytes(wrong)
    found["PNG without pixels"] = b"\x89PNG\r\n\x1a\n" + bytes(40)
    found["SVG"] = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"
    return found


@pytest.mark.parametrize("name", hostile_images())
def test_images_that_are_damaged_are_refused_in_one_line(server: Any, name: str) -> None:
    refused(server, hostile_images()[name], 413, 415, 422)
    assert answers(server)


INFER = "/v2/models/tiny/infer"


def tensor(shape: Any, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "pixel_values", "shape": shape, "datatype": "FP32", **more}]}


def hostile_requests() -> dict[str, tuple[bytes, dict[str, str]]]:
    """Bodies for the route of tensors, each with its headers."""
    values = [0.0] * (3 * 32 * 32)
    plain = {"content_type": "application/json"}
    bodies = {
        "no JSON": b"{",
        "an array": b"[]",
        "deep nesting": b'{"inputs":' + b"[" * 100_000,
        "deep data": json.dumps(tensor([1, 3, 32, 32]))[:-3].encode() + b',"data":' + b"[" * 50_000 + b"]" * 50_000 + b"}]}",
        "no inputs": b'{"inputs":[]}',
        "another name": json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [0]}]}).encode(),
        "too few values": json.dumps(tensor([1, 3, 32, 32], data=values[:-1])).encode(),
        "no batch": json.dumps(tensor([0, 3, 32, 32], data=[])).encode(),
        "another size": json.dumps(tensor([1, 3, 16, 192], data=values)).encode(),
        "a negative side": json.dumps(tensor([-1, 3, 32, 32], data=values)).encode(),
        "a product beyond 64 bits": json.dumps(tensor([2**62, 3, 32, 32], data=values)).encode(),
        "words": json.dumps(tensor([1, 3, 32, 32], data=["a"] * len(values))).encode(),
        "NaN": json.dumps(tensor([1, 3, 32, 32], data=[float("nan"), *values[1:]])).encode(),
        "an infinite number": json.dumps(tensor([1, 3, 32, 32], data=values)).encode().replace(b"0.0", b"1e999", 1),
        "another datatype": json.dumps(tensor([1, 3, 32, 32], data=values)).replace("FP32", "INT64").encode(),
    }
    found = {name: (body, plain) for name, body in bodies.items()}
    about = json.dumps(tensor([1, 3, 32, 32], parameters={"binary_data_size": 4 * len(values)})).encode()
    binary = {"content_type": "application/octet-stream"}
    pixels = np.zeros(len(values), np.float32).tobytes()
    for name, length, body in [
        ("a header length beyond the body", str(10**9), about + pixels),
        ("a header length that is no number", "-1", about + pixels),
        ("a binary tensor that is cut off", str(len(about)), about + pixels[:-4]),
        ("bytes that belong to no tensor", str(len(about)), about + pixels + b"1234"),
    ]:
        found[name] = (body, {**binary, "inference_header_content_length": length})
    nan = np.full(len(values), np.nan, np.float32).tobytes()
    found["NaN in a binary tensor"] = (about + nan, {**binary, "inference_header_content_length": str(len(about))})
    for name, body in {
        "a length beyond the bytes": struct.pack("<I", 2**31) + PHOTO,
        "half a length": b"\x01\x00",
        "no images": b"",
    }.items():
        images = {"name": "images", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(body)}}
        about = json.dumps({"inputs": [images]}).encode()
        found[f"BYTES: {name}"] = (about + body, {**binary, "inference_header_content_length": str(len(about))})
    return found


@pytest.mark.parametrize("name", hostile_requests())
def test_tensors_that_lie_are_refused_in_one_line(server: Any, name: str) -> None:
    body, headers = hostile_requests()[name]
    refused(server, body, 400, 413, 415, 422, path=INFER, **headers)
    assert answers(server)


def test_bodies_beyond_the_limit_are_refused_before_they_are_sent(server: Any) -> None:
    with connect(server.port) as client:
        client.sendall(head(10**12))
        assert status_of(client) == 413
    with connect(server.port) as client:
        client.sendall(head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
        with contextlib.suppress(OSError):
            for _ in range(2000):
                client.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
        status = status_of(client)
        assert status in (0, 413), status
    assert answers(server)


def test_broken_http_is_refused(server: Any) -> None:
    for request in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(10_000)) + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(range(256)) * 10,
    ]:
        with connect(server.port) as client:
            with contextlib.suppress(OSError):
                client.sendall(request)
            status = status_of(client)
            assert status == 0 or 400 <= status < 500, (status, request[:50])
    assert answers(server)


def test_noise_on_the_port_of_grpc(server: Any) -> None:
    for seed in range(20):
        client = connect(server.grpc_port)
        with contextlib.suppress(OSError):
            client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" * (seed % 2) + np.random.default_rng(seed).bytes(2000))
        vanish(client)
    assert answers(server)


def test_silent_and_stalled_clients_do_not_hold_up_the_end(serve: Callable[..., Any]) -> None:
    with serve("--shutdown", "3s") as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server.port)) for _ in range(50)]
        for client in clients[:25]:
            client.sendall(head(10_000) + b"x")
        assert answers(server)
        before = time.monotonic()
        assert server.stop() == 0, server.output()
        assert time.monotonic() - before < 8, "at the latest after --shutdown"
        assert PANIC not in server.output()


def test_the_server_did_not_panic(server: Any) -> None:
    assert answers(server) and PANIC not in server.output()
