"""Models and answers in other processes: pickle, copy, spawn, joblib."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

import vitrim
from scratch import tiny_checkpoint
from vitrim import _vitrim


class EveryOther(vitrim.Pruner):
    """A pruner with a state, which other processes can import."""

    stages = [1]

    def __init__(self, step: int) -> None:
        self.step = step

    def decide(self, stage, tokens, offsets, origins, cls_attention):  # type: ignore[no-untyped-def]
        return origins % self.step == 0


@pytest.fixture()
def pixels() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(3, 3, 32, 32)).astype(np.float32)


def test_a_pickled_model_is_loaded_with_the_same_settings(
    tiny: Path, pixels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.parent)
    wide = np.random.default_rng(4).normal(size=(2, 3, 40, 48)).astype(np.float32)
    models = [
        (vitrim.load(tiny.name), pixels),
        (vitrim.load(tiny, "tome:0.8", dtype="bf16", threads=2), pixels),
        (vitrim.load(tiny, "random:0.5,0.25,0.2", img_size=(40, 48)), wide),
        (vitrim.load(tiny, EveryOther(3)), pixels),
    ]
    pickles = [pickle.dumps(model) for model, _ in models]
    assert all(len(pickled) < 2000 for pickled in pickles), "the weights stay where they are"
    # Wherever it is loaded again.
    monkeypatch.chdir(tmp_path)
    for (model, given), pickled in zip(models, pickles):
        again = pickle.loads(pickled)
        assert np.array_equal(again(given), model(given))
        for name in ("policy", "dtype", "img_size", "stages", "fingerprint", "class_names"):
            if not (name == "policy" and "EveryOther" in model.policy):
                assert getattr(again, name) == getattr(model, name), name


def test_a_dialled_policy_stays_dialled(trained: vitrim.Run, tiny: Path, pixels: np.ndarray) -> None:
    model = vitrim.load(tiny, trained.policy)
    front = trained.calibration["front"]["points"]
    answers = []
    for point in (front[0], front[-1]):
        model.dial(gmacs=point["gmacs"])
        answers.append(model(pixels))
        assert np.array_equal(pickle.loads(pickle.dumps(model))(pixels), answers[-1])
        assert np.array_equal(copy.deepcopy(model)(pixels), answers[-1])
    assert not np.array_equal(answers[0], answers[1])


def test_a_copy_has_a_pruner_of_its_own_over_the_same_weights(
    trained: vitrim.Run, tiny: Path, pixels: np.ndarray
) -> None:
    front = trained.calibration["front"]["points"]
    model = vitrim.load(tiny, trained.policy)
    model.dial(gmacs=front[0]["gmacs"])
    before = model(pixels)
    for twin in (copy.copy(model), copy.deepcopy(model), copy.deepcopy({"nested": [model]})["nested"][0]):
        twin.dial(gmacs=front[-1]["gmacs"])
        assert not np.array_equal(twin(pixels), before)
        assert np.array_equal(model(pixels), before)
    pruner = EveryOther(2)
    twin = copy.deepcopy(vitrim.load(tiny, pruner))
    expected = twin(pixels)
    pruner.step = 4
    assert np.array_equal(twin(pixels), expected), "the copy's pruner is a copy"


def test_a_model_from_memory_is_copied_but_not_pickled(tiny: Path, pixels: np.ndarray) -> None:
    model = _vitrim.load(tiny, origin="timm:vit_tiny_patch16_224")
    with pytest.raises(pickle.PicklingError, match="timm:vit_tiny_patch16_224 .* in memory.*vitrim.load"):
        pickle.dumps(model)
    assert np.array_equal(copy.deepcopy(model)(pixels), model(pixels))


def test_what_has_changed_or_gone_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    tiny_checkpoint(folder)
    pickled = pickle.dumps(vitrim.load(folder))
    tiny_checkpoint(folder, depth=3)
    with pytest.raises(vitrim.VitrimError, match="other weights than when the model was pickled"):
        pickle.loads(pickled)
    shutil.rmtree(folder)
    with pytest.raises(vitrim.VitrimError, match="no such folder"):
        pickle.loads(pickled)


def test_spawned_processes_get_the_model_and_give_answers(tiny: Path, data: Path, pixels: np.ndarray) -> None:
    model = vitrim.load(tiny, "cls-attention:0.7", threads=1)
    files = sorted((data / "test").rglob("*.png"))[:4]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert np.array_equal(pool.apply(model, (pixels,)), model(pixels))
        answers = pool.map(model.predict, files)
        tokens = pool.apply(model.features, (pixels,), {"tokens": True})
    for (answer,), (expected,) in zip(answers, map(model.predict, files)):
        assert repr(answer) == repr(expected) and answer.macs == expected.macs
        assert [stage.positions.tolist() for stage in answer.stages] == [
            stage.positions.tolist() for stage in expected.stages
        ]
    here = model.features(pixels, tokens=True)
    for name in ("tokens", "offsets", "positions", "pooled"):
        assert np.array_equal(getattr(tokens, name), getattr(here, name)), name


def test_joblib_shares_the_work(tiny: Path, pixels: np.ndarray) -> None:
    joblib = pytest.importorskip("joblib", reason="SKIPPED: joblib is not installed")
    model = vitrim.load(tiny, "cls-attention:0.7")
    answers = joblib.Parallel(n_jobs=2)(joblib.delayed(model)(pixels[i : i + 1]) for i in range(3))
    assert np.allclose(np.concatenate(answers), model(pixels), atol=1e-5)
