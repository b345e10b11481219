"""Every fixture gives what its own library says, and survivors are what the answers were made from."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import vitrim
from numpy_vit import replay
from scratch import read_safetensors

SHARED = Path(os.environ.get("VITRIM_SHARED", Path(__file__).resolve().parents[4] / "shared"))
#: Towers of images and texts, and later backbones, which the replay in NumPy does not have.
TOWERS = sorted(
    "hf_aimv2 hf_clip_classes hf_clip_full hf_clip_projection hf_clip_vision hf_dinov3 hf_ijepa hf_siglip_classes "
    "hf_siglip_full hf_siglip_vision hf_vit_mae_msn timm_clip timm_clip_quickgelu timm_dinov3 timm_dinov3_qkvb "
    "timm_eva02 timm_pe_core timm_siglip timm_siglip_classes timm_vit_map".split()
)
FIXTURES = sorted(
    config.parent.name
    for config in SHARED.glob("fixtures/*/config.json")
    if config.parent.name not in TOWERS
)


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """max |a - b| / max |b|."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def test_there_are_fixtures(shared: Path) -> None:
    assert len(FIXTURES) >= 10


@pytest.mark.parametrize("name", TOWERS)
def test_every_output_of_towers_agrees(name: str, shared: Path) -> None:
    folder = shared / "fixtures" / name
    expected = read_safetensors(folder / "expected.safetensors")
    model = vitrim.load(folder)
    pixels = expected["pixel_values"]
    survivors = model.features(pixels, tokens=True)
    ours = {
        "logits": lambda: model(pixels),
        "pooled": lambda: survivors.pooled,
        "image_embeds": lambda: model.embed(pixels),
        "features": lambda: survivors.tokens.reshape(expected["features"].shape),
    }
    stored = [output for output in ours if output in expected]
    assert stored
    for output in stored:
        assert difference(ours[output](), expected[output]) <= 1e-4, output


def test_a_backbone_without_embedding_says_so(shared: Path) -> None:
    fixtures = shared / "fixtures"
    pixels = read_safetensors(fixtures / "hf_clip_vision" / "expected.safetensors")["pixel_values"]
    with pytest.raises(vitrim.VitrimError, match="no image embedding"):
        vitrim.load(fixtures / "hf_clip_vision").embed(pixels)


@pytest.mark.parametrize("name", FIXTURES)
def test_logits_and_features_agree(name: str, shared: Path) -> None:
    folder = shared / "fixtures" / name
    expected = read_safetensors(folder / "expected.safetensors")
    model = vitrim.load(folder)
    logits = model(expected["pixel_values"])
    assert (logits.dtype, logits.shape) == (np.float32, expected["logits"].shape)
    assert difference(logits, expected["logits"]) <= 1e-4
    if "features" in expected:
        count, n, dim = expected["features"].shape
        survivors = model.features(expected["pixel_values"], tokens=True)
        assert survivors.offsets.tolist() == [i * n for i in range(count + 1)]
        assert difference(survivors.tokens.reshape(count, n, dim), expected["features"]) <= 1e-4
        assert (survivors.positions[:n] == -1).sum() == model.num_prefix_tokens
        pooled = model.features(expected["pixel_values"])
        assert np.array_equal(pooled, survivors.pooled) and pooled.shape == (count, dim)


@pytest.mark.parametrize("name", FIXTURES)
def test_the_replay_itself_gives_what_the_library_said(name: str, shared: Path) -> None:
    folder = shared / "fixtures" / name
    expected = read_safetensors(folder / "expected.safetensors")
    weights = read_safetensors(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    ours = replay(weights, config, expected["pixel_values"][0].astype(np.float64), {})
    assert difference(ours, expected["logits"][0]) <= 1e-5


@pytest.mark.parametrize("policy", ["cls-attention:0.7", "similarity:0.5", "random:0.6"])
@pytest.mark.parametrize("name", FIXTURES)
def test_survivors_replayed_in_numpy_give_the_same_logits(name: str, policy: str, shared: Path) -> None:
    folder = shared / "fixtures" / name
    model = vitrim.load(folder, policy)
    check_replay(model, folder, np.random.default_rng(7))


@pytest.mark.parametrize("policy", ["cls-attention:0.7", None])
def test_the_bundled_backbone_replays(policy: str | None, bundled: Path) -> None:
    check_replay(vitrim.load(bundled, policy), bundled, np.random.default_rng(8))


def test_a_trained_policy_replays(trained: vitrim.Run, tiny: Path) -> None:
    model = vitrim.load(tiny, trained.policy)
    check_replay(model, tiny, np.random.default_rng(9))


def check_replay(model: vitrim.Model, folder: Path, rng: np.random.Generator) -> None:
    """What `predict` says of two images, against NumPy keeping the survivors that it names."""
    weights = read_safetensors(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    height, width = model.img_size
    images = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2)]
    predictions = model.predict(images, top_k=model.num_classes)
    pixels = model.preprocess(images)
    logits = model(pixels)
    for i, prediction in enumerate(predictions):
        survivors = {stage.block: stage.positions for stage in prediction.stages}
        assert list(survivors) == model.stages
        left = [len(positions) for positions in survivors.values()]
        assert left == sorted(left, reverse=True)
        theirs = replay(weights, config, pixels[i].astype(np.float64), survivors)
        # Random decisions are keyed by the image's crop in `predict`, and by its place in the batch in `model(pixels)`.
        if "random" not in repr(model):
            assert difference(logits[i], theirs) <= 1e-4
        weighed = np.exp(theirs - theirs.max())
        by_class = {best.class_index: best.probability for best in prediction.classes}
        ours = np.array([by_class[c] for c in range(model.num_classes)])
        assert np.abs(ours - weighed / weighed.sum()).max() <= 1e-4
