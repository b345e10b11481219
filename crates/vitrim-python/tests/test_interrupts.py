"""Ctrl-C ends every computation within a second, and leaves the model as it was."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from PIL import Image

import vitrim
from scratch import tiny_checkpoint

#: Images of a batch that takes one thread many seconds.
MANY = 512


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> vitrim.Model:
    folder = tiny_checkpoint(tmp_path_factory.mktemp("small"), img=112, patch=8, dim=384, depth=12, heads=6)
    return vitrim.load(folder, "cls-attention:0.9", threads=1)


@pytest.fixture(scope="module")
def pixels(model: vitrim.Model) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(MANY, 3, *model.img_size)).astype(np.float32)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of nine million pixels."""
    noise = np.random.default_rng(1).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("photos") / "large.jpg"
    Image.fromarray(noise).resize((3000, 3000)).save(path)
    return path


def interrupted_after(work: Callable[[], Any]) -> float:
    """Seconds from Ctrl-C, half a second after the start of `work`, to its end by KeyboardInterrupt."""
    sent = []

    def interrupt() -> None:
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.5, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        work()
        timer.join()
    return time.perf_counter() - sent[0]


@pytest.mark.parametrize("call", ["logits", "features", "tokens", "predict", "preprocess", "one by one"])
def test_every_call_ends_within_a_second(call: str, model: vitrim.Model, pixels: np.ndarray, large: Path) -> None:
    work: dict[str, Callable[[], Any]] = {
        "logits": lambda: model(pixels),
        "features": lambda: model.features(pixels),
        "tokens": lambda: model.features(pixels, tokens=True),
        "predict": lambda: model.predict([large] * 1000),
        "preprocess": lambda: model.preprocess([large] * 1000),
        "one by one": lambda: [model(pixels[:1]) for _ in range(10_000)],
    }
    before = model(pixels[:2])
    assert interrupted_after(work[call]) < 1.0
    assert np.array_equal(model(pixels[:2]), before), "a call that was ended leaves nothing behind"


def test_a_model_without_threads_of_its_own_is_interrupted_too(model: vitrim.Model, pixels: np.ndarray) -> None:
    shared = vitrim.load(model.origin)
    assert interrupted_after(lambda: [shared(pixels) for _ in range(100)]) < 1.0


class StalledHub(BaseHTTPRequestHandler):
    """A Hub that lists a checkpoint, sends half of its weights and then nothing until it is told to go on."""

    go_on = threading.Event()
    size = 1 << 20

    def do_GET(self) -> None:
        listed = [{"rfilename": name, "size": self.size, "blobId": name[:5]} for name in ("config.json", "model.safetensors")]
        answer = json.dumps({"sha": "a" * 40, "siblings": listed}).encode()
        is_listing = self.path.startswith("/api/")
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer) if is_listing else self.size))
        self.end_headers()
        self.wfile.write(answer if is_listing else b" " * (self.size // 2))
        if not is_listing:
            self.wfile.flush()
            self.go_on.wait(20)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_download_ends_and_what_came_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), StalledHub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert interrupted_after(lambda: vitrim.load("hf://me/stalled")) < 1.0
    parts = (tmp_path / "hub/models--me--stalled/blobs").glob("*.part")
    assert {part.stat().st_size for part in parts} == {StalledHub.size // 2}
    # The next load does not wait for the download that was given up longer than that one waits for its server.
    StalledHub.go_on.set()
    with pytest.raises(vitrim.VitrimError, match="broke off"):
        vitrim.load("hf://me/stalled")
    server.shutdown()
