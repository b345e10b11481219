"""What fine-tuning writes is loaded by the library that wrote the checkpoint, every tensor of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vitrim
from scratch import drawn_classes

torch = pytest.importorskip("torch", reason="SKIPPED: torch is not installed")
safetensors = pytest.importorskip("safetensors.torch", reason="SKIPPED: safetensors is not installed")

FIXTURES = Path(__file__).resolve().parents[2] / "vitrim-vit/tests/fixtures"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_classes(tmp_path_factory.mktemp("images"), classes=5, each=4)


def tuned(name: str, images: Path, out: Path) -> tuple[Any, Path, dict[str, Any]]:
    """The fixture `name` after a step of fine-tuning, its folder, and its configuration."""
    before = vitrim.load(FIXTURES / name)
    labels = dict(label_order="own") if before.num_classes else {}
    short: dict[str, Any] = dict(images=8, batch=8, log_every=1, evaluate_every=1, progress=False, **labels)
    run = vitrim.finetune(before, images, out=out, split="train", held_out_split="test", **short)
    (config,) = [run.model / file for file in ("config.json", "open_clip_config.json") if (run.model / file).is_file()]
    after = vitrim.load(run.model)
    assert after.fingerprint != before.fingerprint, "it learned"
    return after, run.model, json.loads(config.read_text(encoding="utf-8"))


def agrees(ours: np.ndarray, theirs: Any) -> None:
    theirs = theirs.detach().numpy()
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() <= 1e-4


@pytest.mark.parametrize(
    "name",
    [
        "timm_rectangular",
        "timm_headless",
        "timm_swiglu_reg",
        "timm_geglu",
        "timm_beit3",
        "timm_clip",
        "timm_siglip",
        "timm_dinov3_plus",
        "timm_eva02",
        "timm_eva02_clip",
        "timm_pe_core",
        "timm_naflexvit",
        "timm_naflexvit_map",
    ],
)
def test_timm_loads_it(name: str, images: Path, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="SKIPPED: timm is not installed")
    ours, folder, config = tuned(name, images, tmp_path / "run")
    args = {"num_classes": config["num_classes"], "global_pool": config["global_pool"], **config["model_args"]}
    live = timm.create_model(config["architecture"], **args).eval()
    live.load_state_dict(safetensors.load_file(folder / "model.safetensors"), strict=True)
    pixels = torch.randn(2, 3, *ours.img_size)
    agrees(ours(pixels) if ours.num_classes else ours.features(pixels), live(pixels))


@pytest.mark.parametrize(
    "name",
    [
        "hf_vit",
        "hf_vit_model",
        "hf_vit_mae",
        "hf_beit",
        "hf_ijepa",
        "hf_deit_teacher_sharded",
        "hf_dinov2_swiglu",
        "hf_dinov2_reg",
        "hf_clip",
        "hf_siglip",
        "hf_siglip_full",
        "hf_dinov3",
        "hf_dinov3_geglu",
        "hf_aimv2",
        "hf_aimv2_native",
    ],
)
def test_transformers_loads_it(name: str, images: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="SKIPPED: transformers is not installed")
    ours, folder, config = tuned(name, images, tmp_path / "run")
    kind = getattr(transformers, config["architectures"][0])
    live, info = kind.from_pretrained(folder, output_loading_info=True)
    for trouble in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not [key for key in info.get(trouble, []) if "position_ids" not in str(key)], (trouble, info[trouble])
    live.eval()
    pixels = torch.randn(2, 3, *ours.img_size)
    with torch.no_grad():
        if hasattr(live, "get_image_features"):
            theirs = live.get_image_features(pixels)
            agrees(ours.embed(pixels), getattr(theirs, "pooler_output", theirs))
            return
        masks = {"noise": torch.arange(16.0).repeat(2, 1)} if name == "hf_vit_mae" else {}
        if masks:
            # Of all patches, none is masked.
            live.config.mask_ratio = 0.0
            theirs = live.vit(pixels, **masks)
        else:
            theirs = live(pixels)
        if ours.num_classes:
            agrees(ours(pixels), theirs.logits)
        else:
            tokens = ours.features(pixels, tokens=True).tokens
            agrees(tokens, theirs.last_hidden_state.flatten(0, 1))


def test_open_clip_loads_it(images: Path, tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip", reason="SKIPPED: open_clip is not installed")
    ours, folder, config = tuned("open_clip", images, tmp_path / "run")
    live = open_clip.CLIP(**config["model_cfg"]).eval()
    stored = safetensors.load_file(folder / "open_clip_model.safetensors")
    # A buffer that is made, and not learned.
    stored |= {key: value for key, value in live.state_dict().items() if key == "attn_mask"}
    live.load_state_dict(stored, strict=True)
    pixels = torch.randn(2, 3, *ours.img_size)
    with torch.no_grad():
        agrees(ours.embed(pixels), live.encode_image(pixels))
