"""Towers with text embeddings, and tokens after a block."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

import vitrim
from scratch import read_safetensors

TOWERS = Path(__file__).resolve().parents[2] / "vitrim-vit/tests/fixtures"


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("name", ["hf_siglip_full", "open_clip"])
def test_texts_make_a_classifier(name: str) -> None:
    model = vitrim.load(TOWERS / name, classes=TOWERS / name / "classes.safetensors")
    expected = read_safetensors(TOWERS / name / "zero_shot.safetensors")
    assert difference(model(expected["pixel_values"]), expected["logits"]) <= 1e-4
    assert model.class_names == ["ant", "bee", "cat", "dog", "elk"]
    tower = vitrim.load(TOWERS / name)
    pixels = expected["pixel_values"]
    assert np.array_equal(model.embed(pixels), tower.embed(pixels)) and model.fingerprint != tower.fingerprint


def test_npz_and_prompts_are_read(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(3, 2, 12))
    file = tmp_path / "texts.npz"
    names = np.array(["ant", "bee", "zebu"])
    np.savez(file, anything=rows, names=names, logit_scale=np.float32(50.0), logit_bias=np.array([-2.0]))
    model = vitrim.load(TOWERS / "open_clip", classes=file)
    pixels = read_safetensors(TOWERS / "open_clip" / "zero_shot.safetensors")["pixel_values"]
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    texts = unit(unit(rows).mean(1))
    assert difference(model(pixels), 50.0 * unit(model.embed(pixels)) @ texts.T - 2.0) <= 1e-4
    assert model.class_names == list(names)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again(pixels), model(pixels))
    np.savez(file, anything=rows, names=names)
    with pytest.raises(vitrim.VitrimError, match="no logit_scale"):
        vitrim.load(TOWERS / "open_clip", classes=file)


def test_a_policy_is_trained_for_texts(data: Path, tmp_path: Path) -> None:
    tower = shutil.copytree(TOWERS / "open_clip", tmp_path / "tower")
    names = sorted(folder.name for folder in (data / "train").iterdir())
    np.savez(tmp_path / "texts.npz", t=np.eye(len(names), 12), names=np.array(names), logit_scale=30.0)
    run = vitrim.train(
        vitrim.load(tower, classes=tmp_path / "texts.npz"),
        data=data,
        out=tmp_path / "run",
        max_drop=100.0,
        progress=False,
        updates=1,
        images_per_update=8,
        reward={"reference_images": 8},
    )
    assert "--classes" in (tmp_path / "run/command.txt").read_text(encoding="utf-8")
    model = vitrim.load(tower, policy=run.policy, classes=tmp_path / "texts.npz")
    figures = vitrim.evaluate(model, data, split="test", progress=False)
    assert {method["method"] for method in figures["methods"]} >= {"policy"}
    with pytest.raises(vitrim.VitrimError, match="not for this backbone"):
        vitrim.load(tower, policy=run.policy)


def test_tokens_after_a_block_are_raw_patches() -> None:
    model = vitrim.load(TOWERS / "hf_clip", "tome:0.5")
    pixels = read_safetensors(TOWERS / "hf_clip" / "expected.safetensors")["pixel_values"]
    last, final = model.features(pixels, tokens=True, block=-1), model.features(pixels, tokens=True)
    patches = final.positions >= 0
    # CLIP's final tokens have no norm.
    assert np.array_equal(last.tokens, final.tokens[patches]) and np.array_equal(last.sizes, final.sizes[patches])
    assert np.array_equal(last.positions, final.positions[patches]) and last.sizes.sum() == 16 * len(pixels)
    assert last.pooled.shape == (len(pixels), 0)
    dense = vitrim.load(TOWERS / "hf_clip").features(pixels, tokens=True, block=0)
    assert dense.offsets.tolist() == [0, 16, 32] and dense.tokens.shape == (32, model.dim)
    with pytest.raises(vitrim.VitrimError, match="give 0 to 1"):
        model.features(pixels, tokens=True, block=2)
    with pytest.raises(vitrim.VitrimError, match="tokens=True"):
        model.features(pixels, block=0)  # type: ignore[call-overload]
