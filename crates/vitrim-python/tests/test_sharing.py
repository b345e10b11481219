"""Models shared by threads, in forks and in long-running processes."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Optional

import numpy as np
import pytest

import vitrim


def test_two_threads_calling_one_model_get_right_answers(bundled: Path) -> None:
    model = vitrim.load(bundled, "cls-attention:0.7")
    rng = np.random.default_rng(4)
    height, width = model.img_size
    batches = [rng.normal(size=(n, 3, height, width)).astype(np.float32) for n in (1, 2, 3, 4)]
    alone = [model(batch) for batch in batches]
    start = threading.Barrier(2)

    def worker(order: list[int]) -> None:
        start.wait()
        for _ in range(10):
            for i in order:
                assert np.array_equal(model(batches[i]), alone[i])

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(worker, [0, 1, 2, 3]), threads.submit(worker, [3, 1, 0, 2])]:
            done.result()


def test_a_dial_in_one_thread_leaves_calls_in_another_whole(trained: vitrim.Run, tiny: Path) -> None:
    model = vitrim.load(tiny, trained.policy)
    pixels = np.random.default_rng(6).normal(size=(4, 3, 32, 32)).astype(np.float32)
    front = trained.calibration["front"]["points"]
    answers = []
    for point in (front[0], front[-1]):
        model.dial(gmacs=point["gmacs"])
        answers.append(model(pixels))
    assert not np.array_equal(answers[0], answers[1])
    stop = threading.Event()

    def turn() -> None:
        while not stop.is_set():
            for point in (front[0], front[-1]):
                model.dial(gmacs=point["gmacs"])

    turner = threading.Thread(target=turn)
    turner.start()
    try:
        for _ in range(200):
            logits = model(pixels)
            assert any(np.array_equal(logits, answer) for answer in answers)
    finally:
        stop.set()
        turner.join()


def test_the_gil_is_released_while_it_computes(bundled: Path) -> None:
    model = vitrim.load(bundled, threads=1)
    height, width = model.img_size
    pixels = np.zeros((64, 3, height, width), np.float32)
    model(pixels)
    done = threading.Event()
    worker = threading.Thread(target=lambda: (model(pixels), done.set()))
    turns, started = 0, time.perf_counter()
    worker.start()
    while not done.is_set():
        time.sleep(0.001)
        turns += 1
    seconds = time.perf_counter() - started
    worker.join()
    assert turns > 3, f"this thread had {turns} turns in {seconds:.3f} s"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="SKIPPED: /proc and fork are Linux's")
def test_memory_stays_flat_over_10_000_calls(tiny: Path) -> None:
    model = vitrim.load(tiny, "cls-attention:0.7", threads=2)
    rng = np.random.default_rng(0)
    pixels = [rng.normal(size=(n, 3, 32, 32)).astype(np.float32) for n in (1, 2, 3)]
    images = [rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(2)]

    def calls(count: int) -> None:
        for i in range(count):
            model(pixels[i % 3])
            if i % 10 == 0:
                model.predict(images)
                model.features(pixels[0], tokens=True)
                with pytest.raises(ValueError):
                    model(pixels[0][:, :1])

    calls(1_000)
    before = resident()
    calls(10_000)
    grown = resident() - before
    assert grown < 2 << 20, f"{grown / 2**20:.2f} MiB more after 10,000 calls"


def resident() -> int:
    """Resident memory of this process, bytes."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="SKIPPED: /proc and fork are Linux's")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_a_fork_computes_with_threads_of_its_own(threads: Optional[int], tiny: Path) -> None:
    model = vitrim.load(tiny, "cls-attention:0.7", threads=threads)
    pixels = np.random.default_rng(8).normal(size=(3, 3, 32, 32)).astype(np.float32)
    image = np.random.default_rng(9).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    logits, probability = model(pixels), model.predict(image)[0].classes[0].probability
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def answer() -> None:
        loaded = vitrim.load(tiny, "cls-attention:0.7", threads=threads)
        same = [np.array_equal(model(pixels), logits), np.array_equal(loaded(pixels), logits)]
        same.append(model.predict(image)[0].classes[0].probability == probability)
        same.append(model.preprocess([image] * 3).shape == (3, 3, 32, 32))
        answers.put(same)

    def child() -> None:
        answer()
        # A fork of the fork.
        grandchild = context.Process(target=answer)
        grandchild.start()
        grandchild.join(60)

    forks = [context.Process(target=child) for _ in range(2)]
    for fork in forks:
        fork.start()
    for fork in forks:
        fork.join(120)
        assert fork.exitcode == 0
    assert [answers.get() for _ in range(4)] == [[True] * 4] * 4
    assert np.array_equal(model(pixels), logits), "the parent's threads are as they were"


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_lower_precisions_stay_near(dtype: str, bundled: Path) -> None:
    height, width = vitrim.load(bundled).img_size
    pixels = np.random.default_rng(1).normal(size=(2, 3, height, width)).astype(np.float32)
    exact, near = vitrim.load(bundled)(pixels), vitrim.load(bundled, dtype=dtype)(pixels)
    difference = np.abs(exact - near).max() / np.abs(exact).max()
    assert 1e-5 < difference < 0.1, "another precision is in use, and it is not far off"


def test_what_cannot_be_loaded_is_refused(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    for arguments, words in [
        (dict(model=tmp_path / "none"), ["none", "no such folder"]),
        (dict(model=tmp_path), ["not a checkpoint"]),
        (dict(model="hf://owner/name"), ["hf://owner/name"]),
        (dict(model=tiny, dtype="f16"), ["f16", "bf16"]),
        (dict(model=tiny, threads=0), ["threads", "at least 1"]),
        (dict(model=tiny, policy="cls-attention"), ["cls-attention:0.7"]),
        (dict(model=tiny, policy="cls-attention:1.7"), ["1.7", "between 0 and 1"]),
        (dict(model=tiny, policy="policy:0.7"), ["not a hand-made method"]),
        (dict(model=tiny, policy=tmp_path / "run"), ["run", "policy.json"]),
    ]:
        with pytest.raises(vitrim.VitrimError) as refusal:
            vitrim.load(**arguments)
        for word in words:
            assert word in str(refusal.value), str(refusal.value)
    for arguments in (dict(model=tiny, policy=7), dict(model=7)):
        with pytest.raises(TypeError, match="int"):
            vitrim.load(**arguments)


def test_a_note_about_the_hub_goes_to_stderr(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = tmp_path / "models--me--tiny"
    shutil.copytree(tiny, repo / "snapshots" / "abc")
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text("abc")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    model = vitrim.load("hf://me/tiny")
    note = "note: http://127.0.0.1:9 does not answer; hf://me/tiny is what the cache has\n"
    assert model.depth == 4 and capsys.readouterr().err == note


def test_a_model_tells_what_it_is(bundled: Path) -> None:
    model = vitrim.load(bundled, "tome:0.8", dtype="bf16", threads=1)
    assert model.grid[0] * model.grid[1] == 144 and model.depth == 8 and model.num_prefix_tokens == 1
    assert model.dtype == "bf16" and model.policy.startswith("tome:0.800,0.640")
    assert len(model.class_names) == model.num_classes == 10
    assert 0 < model.dense_gmacs < 1 and model.origin == str(bundled)
    assert "tome" in repr(model)
