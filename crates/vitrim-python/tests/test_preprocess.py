"""`Model.preprocess`: what it gives, how much memory it takes, and that Ctrl-C ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitrim
from scratch import tiny_checkpoint


def test_the_crop_is_taken_once(tmp_path: Path) -> None:
    """At a crop of one half, an image of twice the size is not resized: its middle is the answer, exactly."""
    model = vitrim.load(tiny_checkpoint(tmp_path, crop_pct=0.5))
    image = np.random.default_rng(7).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    middle = image[16:48, 16:48].astype(np.float32)
    pixels = model.preprocess(image)
    assert pixels.shape == (1, 3, 32, 32) and pixels.dtype == np.float32 and pixels.flags.c_contiguous
    assert np.array_equal(pixels[0], ((middle / np.float32(255) - np.float32(0.5)) / np.float32(0.5)).transpose(2, 0, 1))
    logits = model(pixels)[0].astype(np.float64)
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    for answer in model.predict(image, top_k=3)[0].classes:
        assert answer.probability == pytest.approx(probabilities[answer.class_index], rel=1e-5)


def test_nothing_gives_an_empty_array(tiny: Path) -> None:
    assert vitrim.load(tiny).preprocess([]).shape == (0, 3, 32, 32)


def test_ctrl_c_ends_it_within_a_second(tiny: Path, tmp_path: Path) -> None:
    model = vitrim.load(tiny, threads=1)
    photo = tmp_path / "large.jpg"
    values = np.random.default_rng(5).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    Image.fromarray(values).resize((2000, 1500)).save(photo)
    started = time.monotonic()
    model.preprocess([photo])
    # A minute of work.
    count = int(60 / (time.monotonic() - started)) + 1
    sent = []

    def interrupt() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.5, interrupt)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            model.preprocess([photo] * count)
    finally:
        timer.cancel()
    assert time.monotonic() - sent[0] < 1.0
    # The model is as good as before.
    assert model.preprocess([photo]).shape == (1, 3, 32, 32)


PEAK = """
import resource, sys
import vitrim

model = vitrim.load(sys.argv[1], threads=2)
model.preprocess([sys.argv[2]])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
pixels = model.preprocess([sys.argv[2]] * 300)
print(pixels.nbytes, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="SKIPPED: ru_maxrss is in KiB on Linux alone")
def test_pixels_are_held_once(tmp_path: Path, photo: Path) -> None:
    model = tiny_checkpoint(tmp_path, img=224, patch=32)
    command = [sys.executable, "-c", PEAK, str(model), str(photo)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    size, grown = map(int, answer)
    assert size == 300 * 3 * 224 * 224 * 4
    assert grown < 1.25 * size, f"{size >> 20} MiB of pixels took {grown >> 20} MiB"
