"""Live timm modules. CI installs neither torch nor timm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import vitrim

torch = pytest.importorskip("torch", reason="SKIPPED: torch is not installed")
timm = pytest.importorskip("timm", reason="SKIPPED: timm is not installed")

SMALL = dict(img_size=64, embed_dim=96, depth=4, num_heads=3, num_classes=7)


def module(name: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    live = timm.create_model(name, **{**SMALL, **changes}).eval()
    # As trained ones are: nothing at its initial value.
    for parameter in live.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return live


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", dict(img_size=(64, 96), patch_size=8)),
        ("vit_tiny_patch16_224", dict(global_pool="avg", class_token=False)),
        ("vit_tiny_patch16_224", dict(qkv_bias=False, mlp_ratio=3)),
        ("vit_tiny_patch16_224", dict(qk_norm=True)),
        ("deit_tiny_distilled_patch16_224", {}),
        ("deit3_small_patch16_224", {}),
        ("vit_small_patch14_reg4_dinov2", dict(img_size=70)),
        ("vit_giant_patch14_dinov2", dict(img_size=70)),
        ("vit_tiny_patch16_224", dict(num_classes=0)),
        ("vit_tiny_patch16_224", dict(global_pool="map")),
        ("vit_tiny_patch16_224", dict(norm_layer=torch.nn.LayerNorm, act_layer="gelu_tanh")),
        ("vit_tiny_patch16_224", dict(mlp_layer=timm.layers.SwiGLUPacked, act_layer=torch.nn.SiLU)),
        ("vit_tiny_patch16_224", dict(mlp_layer=timm.layers.SwiGLUPacked, global_pool="map")),
        ("vit_tiny_patch16_224", dict(mlp_layer=timm.layers.SwiGLU, act_layer="gelu_tanh", mlp_ratio=2.5)),
        ("vit_giant_patch14_dinov2", dict(img_size=70, act_layer="gelu")),
        ("aimv2_large_patch14_224", dict(img_size=70)),
        ("vit_tiny_patch16_224", dict(scale_attn_norm=True)),
        ("beit3_base_patch16_224", {}),
        ("vit_base_patch16_clip_224", {}),
        ("vit_base_patch16_clip_quickgelu_224", {}),
        ("vit_base_patch16_siglip_224", {}),
        ("vit_so400m_patch16_siglip_gap_256", {}),
        ("eva02_tiny_patch14_224", dict(img_size=70)),
        ("eva02_base_patch14_224", dict(img_size=70, num_classes=0)),
        ("eva02_base_patch16_clip_224", {}),
        ("vit_small_patch16_dinov3", dict(num_classes=0)),
        ("vit_small_plus_patch16_dinov3_qkvb", dict(img_size=(64, 80))),
        ("vit_pe_core_base_patch16_224", dict(embed_dim=96, num_heads=3)),
        ("naflexvit_base_patch16_gap", {}),
        ("naflexvit_base_patch16_par_gap", dict(pos_embed_grid_size=(9, 9), class_token=True)),
        ("naflexvit_base_patch16_map", {}),
        ("naflexvit_so150m2_patch16_reg1_gap", dict(patch_size=32)),
        ("naflexvit_base_patch16_siglip", {}),
    ],
)
def test_a_live_module_gives_its_own_logits(name: str, changes: dict[str, Any]) -> None:
    live = module(name, **changes)
    model = vitrim.from_timm(live)
    pixels = torch.randn(3, 3, *model.img_size)
    with torch.no_grad():
        theirs = live(pixels).numpy()
    ours = model(pixels) if model.num_classes else model.features(pixels)
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() <= 1e-4
    assert model.origin == f"timm:{name}"


@pytest.mark.parametrize("wrap", ["whole", "blocks", "parallel", "both"])
def test_a_compiled_or_wrapped_module_is_the_module_inside(wrap: str) -> None:
    plain = module("deit_tiny_distilled_patch16_224")
    live = module("deit_tiny_distilled_patch16_224")
    live.load_state_dict(plain.state_dict())
    if wrap == "blocks":
        for i, block in enumerate(live.blocks):
            live.blocks[i] = torch.compile(block)
    if wrap in ("parallel", "both"):
        live = torch.nn.DataParallel(live)
    if wrap in ("whole", "both"):
        live = torch.compile(live)
    pixels = torch.randn(2, 3, 64, 64)
    expected, model = vitrim.from_timm(plain), vitrim.from_timm(live)
    assert np.array_equal(model(pixels), expected(pixels)) and model.fingerprint == expected.fingerprint
    assert model.origin == "timm:deit_tiny_distilled_patch16_224"


@pytest.mark.parametrize(
    "changes",
    [dict(rope_type="mixed", use_rot_pos_emb=True), dict(use_post_norm=True), dict(rope_type="cat", rope_rotate_half=True)],
)
def test_what_is_not_run_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises((vitrim.VitrimError, TypeError), match="not supported"):
        vitrim.from_timm(module("eva02_tiny_patch14_224", img_size=70, **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(pos_embed="factorized"), "factorized"),
        (dict(pos_embed_grid_size=(4, 8)), "not a square grid"),
        (dict(rope_type="axial"), "rope_type"),
    ],
)
def test_other_naflexvits_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(vitrim.VitrimError, match=words):
        vitrim.from_timm(module("naflexvit_base_patch16_gap", **changes))


def test_plain_ones_are_never_refused() -> None:
    live = module("vit_tiny_patch16_224").to(torch.bfloat16)
    model = vitrim.from_timm(live, "cls-attention:0.7", dtype="bf16", threads=1)
    assert (model.num_classes, model.depth, model.dtype) == (7, 4, "bf16")
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 7)


def test_a_tensor_that_cannot_be_taken_is_refused() -> None:
    model = vitrim.from_timm(module("vit_tiny_patch16_224"))
    with pytest.raises(TypeError, match=r"detach\(\)"):
        model(torch.randn(1, 3, 64, 64, requires_grad=True))
    with pytest.raises(TypeError, match="float16"):
        model(torch.randn(1, 3, 64, 64).half())
    with pytest.raises(ValueError, match="contiguous"):
        model(torch.randn(1, 3, 64, 64).transpose(2, 3))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(global_pool="avg", pool_include_prefix=True), ["pool_include_prefix"]),
        (dict(global_pool="avgmax"), ["avgmax"]),
        (dict(act_layer="relu"), ["ReLU"]),
        (dict(mlp_layer=timm.layers.GluMlp, act_layer=torch.nn.SiLU), ["gate_last", "not supported"]),
        (dict(mlp_layer=timm.layers.GluMlp, act_layer="sigmoid"), ["Sigmoid", "not supported"]),
        (dict(mlp_layer=timm.layers.GatedMlp), ["GatedMlp", "not supported"]),
    ],
)
def test_other_geometries_are_refused_by_name(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(vitrim.VitrimError) as refusal:
        vitrim.from_timm(module("vit_tiny_patch16_224", **changes))
    for word in words:
        assert word in str(refusal.value), str(refusal.value)
    assert "vitrim-timm-" not in str(refusal.value), "a folder that nobody has seen"


def test_what_is_no_vision_transformer_is_refused() -> None:
    parallel = module("vit_tiny_patch16_224", block_fn=timm.models.vision_transformer.ParallelScalingBlock)
    for live in (torch.nn.Linear(2, 2), timm.create_model("resnet10t"), parallel):
        with pytest.raises(TypeError, match="no timm VisionTransformer"):
            vitrim.from_timm(live)
