#!/usr/bin/env python3
"""Makes the small checkpoints that the tests open, with the outputs of the libraries that they come from.

    python3 -m venv /tmp/fixtures && /tmp/fixtures/bin/pip install torch torchvision timm transformers open_clip_torch
    /tmp/fixtures/bin/python scripts/make_fixtures.py

Random weights of a tiny geometry. Each folder of crates/vitrim-vit/tests/fixtures holds a checkpoint as its library
writes it, and expected.safetensors: pixel_values [2, 3, H, W], features [2, N, D] (the final tokens), and logits
[2, C] or, without a head, pooled [2, D]. What is expected at another input size than the checkpoint's own is in
expected_HxW.safetensors. crates/vitrim-data/tests/data/processors holds what transformers' image processors make of an
image, and crates/vitrim-vit/tests/timm_geometries.json how large timm's architectures are.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

import open_clip
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from timm.models._hub import save_for_hf

ROOT = Path(__file__).resolve().parent.parent / "crates"
FIXTURES = ROOT / "vitrim-vit/tests/fixtures"
PROCESSORS = ROOT / "vitrim-data/tests/data/processors"
GEOMETRIES = ROOT / "vitrim-vit/tests/timm_geometries.json"

CLASSES = 5
SMALL = dict(img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2.0)
HF = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4, layer_norm_eps=1e-6
)
NAMES = {i: name for i, name in enumerate(["ant", "bee", "cat", "dog", "elk"])}
LABELS = dict(id2label=NAMES, label2id={name: i for i, name in NAMES.items()})


def main():
    torch.manual_seed(0)
    shutil.rmtree(FIXTURES, ignore_errors=True)
    timm_fixtures()
    pickles()
    transformers_fixtures()
    towers()
    published()
    gates_and_sines()
    openais_script()
    naflexvits()
    processors()
    geometries()
    total = sum(f.stat().st_size for f in FIXTURES.rglob("*") if f.is_file())
    print(f"{total / 1024:.0f} KiB in {FIXTURES}")


def lively(model):
    """Random weights with which every part of the model matters to its output."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            one = name.endswith(("gamma", "lambda1")) or ("norm" in name and name.endswith("weight"))
            p.copy_((1.0 if one else 0.0) + 0.2 * torch.randn_like(p))
    return model.eval()


def save(path, tensors):
    save_file({name: t.contiguous().float() for name, t in tensors.items()}, path)


# timm


def timm_outputs(model, height, width):
    x = torch.randn(2, 3, height, width)
    with torch.no_grad():
        features, out = model.forward_features(x), model(x)
    return {"pixel_values": x, "features": features, "logits" if model.num_classes else "pooled": out}


def timm_fixture(folder, architecture, sizes=(), **args):
    """`sizes`: others than the checkpoint's own, at which timm resamples its positions."""
    args = {**SMALL, "num_classes": CLASSES, **args}
    if args["mlp_ratio"] is None:
        del args["mlp_ratio"]
    model = lively(timm.create_model(architecture, **args))
    own = model.patch_embed.img_size
    path = FIXTURES / folder
    # Arguments that timm knows by the name of the architecture are not repeated.
    save_for_hf(model, path, model_args={**args, "img_size": list(own)}, safe_serialization=True)
    save(path / "expected.safetensors", timm_outputs(model, *own))
    for height, width in sizes:
        other = timm.create_model(architecture, **{**args, "img_size": (height, width)}).eval()
        kept = {n: t for n, t in model.state_dict().items()}
        other.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(kept, other))
        save(path / f"expected_{height}x{width}.safetensors", timm_outputs(other, height, width))


def timm_fixtures():
    # 24 channels, which timm's ratio for SwiGLU makes 128 of.
    wide = dict(embed_dim=24, num_heads=3, mlp_ratio=None)
    timm_fixture("timm_swiglu_reg", "vit_giant_patch14_reg4_dinov2", sizes=[(24, 20)], **wide)
    timm_fixture("timm_rectangular", "vit_small_patch16_224", img_size=(16, 24), qkv_bias=False, mlp_ratio=3.0)
    timm_fixture("timm_distilled", "deit_tiny_distilled_patch16_224", sizes=[(24, 32), (12, 8)])
    timm_fixture("timm_headless", "vit_small_patch14_dinov2", num_classes=0)
    timm_fixture(
        "timm_registers_avg", "vit_base_patch16_224", reg_tokens=2, init_values=1e-5, qk_norm=True, global_pool="avg",
        fc_norm=False, sizes=[(12, 20)],
    )


def pickles():
    """As Meta's training writes DeiT: `{"model": state_dict}` beside what it trained with; DeiT-III, with its own names
    for LayerScale."""
    folder, architecture = "deit3_pth", "deit3_small_patch16_224"
    timm_fixture(folder, architecture)
    path = FIXTURES / folder
    weights = load_file(path / "model.safetensors")
    os.remove(path / "model.safetensors")
    renamed = {n.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): t for n, t in weights.items()}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}}
    args = argparse.Namespace(lr=5e-4, output_dir=Path("out"))
    torch.save({"model": renamed, "optimizer": optimizer, "epoch": 299, "args": args}, path / "checkpoint.pth")


# transformers


def hf_outputs(model, height, width, **kwargs):
    x = torch.randn(2, 3, height, width)
    with torch.no_grad():
        out = model(x, output_hidden_states=True, **kwargs)
        outputs = {"pixel_values": x}
        if hasattr(out, "logits"):
            outputs["logits"] = out.logits
            base = getattr(model, model.base_model_prefix)
            outputs["features"] = base(x, **kwargs).last_hidden_state
        else:
            outputs["features"] = out.last_hidden_state
            outputs["pooled"] = out.last_hidden_state[:, 0]
    return outputs


def hf_fixture(folder, model, sizes=(), own=(16, 16), **save_args):
    model = lively(model)
    path = FIXTURES / folder
    model.save_pretrained(path, **save_args)
    interpolate = {} if "dinov2" in model.base_model_prefix else {"interpolate_pos_encoding": True}
    save(path / "expected.safetensors", hf_outputs(model, *own, **interpolate))
    for height, width in sizes:
        expected = hf_outputs(model, height, width, **interpolate)
        save(path / f"expected_{height}x{width}.safetensors", expected)


def transformers_fixtures():
    t = transformers
    plain = dict(intermediate_size=40, **HF)
    hf_fixture("hf_vit", t.ViTForImageClassification(t.ViTConfig(**plain, **LABELS)), sizes=[(24, 20), (8, 12)])
    # torch.save as it was before PyTorch 1.6, which the oldest checkpoints come from.
    path = FIXTURES / "hf_vit_bin"
    shutil.copytree(FIXTURES / "hf_vit", path, ignore=shutil.ignore_patterns("*_*x*"))
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    os.remove(path / "model.safetensors")

    hf_fixture(
        "hf_vit_model", t.ViTModel(t.ViTConfig(qkv_bias=False, **plain)),
    )
    hf_fixture(
        "hf_deit_teacher_sharded",
        t.DeiTForImageClassificationWithTeacher(t.DeiTConfig(**plain, **LABELS)),
        sizes=[(20, 20)],
        max_shard_size="10KB",
    )
    hf_fixture(
        "hf_dinov2_swiglu",
        t.Dinov2ForImageClassification(t.Dinov2Config(use_swiglu_ffn=True, **HF, **LABELS)),
        sizes=[(24, 16)],
    )
    hf_fixture(
        "hf_dinov2_reg",
        t.Dinov2WithRegistersForImageClassification(
            t.Dinov2WithRegistersConfig(num_register_tokens=3, mlp_ratio=2, **HF, **LABELS)
        ),
        sizes=[(24, 20), (8, 12)],
    )
    # DINOv2 is published at 518 pixels and used at the 224 of its processor: as large as that says.
    hf_fixture("hf_dinov2_model", t.Dinov2Model(t.Dinov2Config(mlp_ratio=2, **HF)), own=(12, 12))
    processor = t.BitImageProcessorPil(
        size={"shortest_edge": 14}, crop_size={"height": 12, "width": 12}, resample=3,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )
    processor.save_pretrained(FIXTURES / "hf_dinov2_model")


# Towers of images and texts, and backbones with rotary position embeddings.


def towers():
    torch.manual_seed(1)
    shape = dict(embed_dim=24, num_heads=3, sizes=[(24, 20)])
    for folder, architecture, args in [
        ("timm_clip", "vit_large_patch14_clip_quickgelu_336", {}),
        ("timm_siglip", "vit_so400m_patch16_siglip_256", dict(num_classes=0)),
        ("timm_dinov3_plus", "vit_small_plus_patch16_dinov3", dict(num_classes=0, img_size=(16, 20))),
        ("timm_eva02", "eva02_base_patch14_224", {}),
        ("timm_pe_core", "vit_pe_core_base_patch16_224", {}),
    ]:
        timm_tower(folder, architecture, **{**shape, **args})
    t = transformers
    plain = dict(intermediate_size=40, **HF)
    clip = t.CLIPConfig(
        vision_config=plain,
        text_config=dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9),
        projection_dim=12,
    )
    hf_tower("hf_clip", t.CLIPModel(clip), [(24, 20)], own=(16, 16))
    # Patches of 4 leave 2 pixels of 18 over; heads of 9 channels.
    siglip = t.SiglipVisionConfig(**{**plain, "image_size": 18, "hidden_size": 18})
    hf_tower("hf_siglip", t.SiglipVisionModel(siglip), [(24, 20)], own=(18, 18))
    dinov3 = t.DINOv3ViTConfig(
        use_gated_mlp=True, hidden_act="silu", num_register_tokens=2, mlp_bias=False, proj_bias=False, key_bias=True,
        **plain,
    )
    hf_tower("hf_dinov3", t.DINOv3ViTModel(dinov3), [(24, 20)], own=(16, 16), interpolate=False)
    ijepa = t.IJepaForImageClassification(t.IJepaConfig(**plain, **LABELS))
    hf_tower("hf_ijepa", ijepa, [(24, 20)], own=(16, 16))
    aimv2 = {n: v for n, v in plain.items() if n != "layer_norm_eps"}
    aimv2 = t.Aimv2VisionModel(t.Aimv2VisionConfig(qkv_bias=True, mlp_bias=True, use_head=True, **aimv2))
    hf_tower("hf_aimv2", aimv2, [], own=(16, 16), interpolate=False)


def timm_tower(folder, architecture, sizes, **args):
    args = {**SMALL, "num_classes": CLASSES, **args}
    model = lively(timm.create_model(architecture, **args))
    own, path = model.patch_embed.img_size, FIXTURES / folder
    save_for_hf(model, path, model_args={**args, "img_size": list(own)}, safe_serialization=True)
    save(path / "expected.safetensors", timm_outputs(model, *own))
    for height, width in sizes:
        model.set_input_size(img_size=(height, width))
        save(path / f"expected_{height}x{width}.safetensors", timm_outputs(model, height, width))


def hf_tower(folder, model, sizes, own, interpolate=True):
    model, path = lively(model), FIXTURES / folder
    model.save_pretrained(path)
    kwargs = {"interpolate_pos_encoding": True} if interpolate else {}
    for height, width in [own, *sizes]:
        x = torch.randn(2, 3, height, width)
        outputs = {"pixel_values": x}
        with torch.no_grad():
            if hasattr(model, "get_image_features"):
                features = model.get_image_features(x, **kwargs)
                outputs["image_embeds"] = getattr(features, "pooler_output", features)
            else:
                out = model(x, **kwargs)
                if hasattr(out, "logits"):
                    outputs["logits"] = out.logits
                else:
                    outputs["features"], outputs["pooled"] = out.last_hidden_state, out.pooler_output
        # A model without a head has no pooled features.
        outputs = {n: value for n, value in outputs.items() if value is not None}
        name = "expected" if (height, width) == own else f"expected_{height}x{width}"
        save(path / f"{name}.safetensors", outputs)


# Files as the authors of the models and open_clip publish them, and zero-shot classes.


def published():
    torch.manual_seed(2)
    shape = dict(embed_dim=24, num_heads=3, num_classes=0, sizes=[])
    timm_tower("timm_eva02_clip", "eva02_base_patch16_clip_224", **{**shape, "num_classes": CLASSES, "sizes": [(24, 20)]})
    by_its_authors("apple_aimv2", "aimv2_large_patch14_224", apple, mlp_ratio=2.6667)
    by_its_authors("meta_dinov2_reg", "vit_giant_patch14_reg4_dinov2", meta_dinov2, mlp_ratio=None)
    by_its_authors("meta_dinov3", "vit_small_plus_patch16_dinov3", meta_dinov3)
    by_its_authors("meta_pe_core", "vit_pe_core_base_patch16_224", meta_pe, num_classes=7)

    t = transformers
    plain = dict(intermediate_size=40, **HF)
    mae = lively(t.ViTMAEForPreTraining(t.ViTMAEConfig(
        mask_ratio=0.0, decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=1,
        decoder_intermediate_size=8, **plain,
    )))
    mae.save_pretrained(FIXTURES / "hf_vit_mae")
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        # The noise says in which order patches are masked: none is, and they keep their order.
        features = mae.vit(x, noise=torch.arange(16.0).repeat(2, 1)).last_hidden_state
    save(FIXTURES / "hf_vit_mae" / "expected.safetensors", {"pixel_values": x, "features": features})
    zero_shot()


def gates_and_sines():
    """Gated MLPs without SiLU, and AIMv2 for images of all sizes, in transformers' names and in Apple's."""
    torch.manual_seed(3)
    wide = dict(embed_dim=24, num_heads=3, mlp_ratio=None)
    timm_fixture("timm_geglu", "vit_giant_patch14_reg4_dinov2", act_layer="gelu", **wide)
    timm_fixture("timm_beit3", "beit3_base_patch16_224", sizes=[(24, 20)])
    t = transformers
    beit = t.BeitConfig(use_absolute_position_embeddings=True, intermediate_size=40, **HF, **LABELS)
    hf_fixture("hf_beit", t.BeitForImageClassification(beit), sizes=[(24, 20)])
    plain = {n: v for n, v in HF.items() if n != "layer_norm_eps"}
    dinov3 = t.DINOv3ViTConfig(use_gated_mlp=True, hidden_act="gelu_pytorch_tanh", intermediate_size=40, **plain)
    hf_tower("hf_dinov3_geglu", t.DINOv3ViTModel(dinov3), [], own=(16, 16), interpolate=False)
    native = t.Aimv2VisionConfig(is_native=True, use_head=False, hidden_act="quick_gelu", intermediate_size=40, **plain)
    native = t.Aimv2VisionModel(native)
    hf_tower("hf_aimv2_native", native, [(24, 20)], own=(16, 16), interpolate=False)

    path = FIXTURES / "apple_aimv2_native"
    path.mkdir()
    config = json.loads((FIXTURES / "hf_aimv2_native" / "config.json").read_text())
    known = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size",
             "rms_norm_eps", "qkv_bias", "hidden_act")
    written = {"architectures": ["AIMv2Model"], "model_type": "aimv2", **{key: config[key] for key in known}}
    (path / "config.json").write_text(json.dumps(written, indent=2))
    tensors = native.state_dict()
    for l in range(HF["num_hidden_layers"]):
        parts = [tensors.pop(f"encoder.layers.{l}.attention.{part}_proj.weight") for part in "qkv"]
        tensors[f"encoder.layers.{l}.attention.qkv.weight"] = torch.cat(parts)
    tensors = swapped(tensors, [
        ("encoder.layers.", "trunk.blocks."), ("attention.out_proj", "attn.proj"), ("attention.", "attn."),
        ("rms_norm1", "norm_1"), ("rms_norm2", "norm_2"), ("ffn.gate_proj", "mlp.fc1"), ("ffn.up_proj", "mlp.fc3"),
        ("ffn.down_proj", "mlp.fc2"), ("embeddings.patch_embed.", "preprocessor.patchifier.proj."),
        ("embeddings.rms_norm.", "preprocessor.patchifier.norm."),
    ])
    tensors = {"trunk.post_trunk_norm.weight" if n == "rms_norm.weight" else n: v for n, v in tensors.items()}
    save(path / "model.safetensors", tensors)
    for file in (FIXTURES / "hf_aimv2_native").glob("expected*"):
        shutil.copy(file, path)


def openais_script():
    """CLIP as OpenAI publishes it: a TorchScript archive of 16-bit weights."""
    torch.manual_seed(4)
    path = FIXTURES / "openai_script"
    vision = dict(image_size=16, layers=2, width=16, head_width=8, patch_size=4, mlp_ratio=2.0)
    text = dict(context_length=6, vocab_size=50, width=8, heads=2, layers=1)
    clip = lively(open_clip.CLIP(embed_dim=12, quick_gelu=True, vision_cfg=vision, text_cfg=text)).half().float()
    clip.register_buffer("input_resolution", torch.tensor(16))
    ids, x = torch.randint(3, 50, (2, 6)), torch.randn(2, 3, 16, 16)
    path.mkdir()
    args = dict(img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2.0)
    written = {"architecture": "vit_base_patch32_clip_quickgelu_224", "model_args": args}
    (path / "config.json").write_text(json.dumps(written, indent=2))
    with torch.no_grad():
        save(path / "expected.safetensors", {"pixel_values": x, "image_embeds": clip.encode_image(x)})
    # The archive's weights are the model's own.
    torch.jit.trace(clip, (x, ids), check_trace=False).half().save(path / "clip.pt")


def naflexvits():
    """timm's NaFlexVit for images of one size: positions on a grid of 5 x 5, resampled to that of the input."""
    torch.manual_seed(5)
    for folder, architecture, own, args in [
        ("timm_naflexvit", "naflexvit_base_patch16_par_gap", 24, dict(reg_tokens=2)),
        ("timm_naflexvit_map", "naflexvit_base_patch16_siglip", 20, {}),
    ]:
        args = {**SMALL, "num_classes": CLASSES, "pos_embed_grid_size": (5, 5), **args}
        del args["img_size"]
        model = lively(timm.create_model(architecture, **args))
        model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, own, own)}
        path = FIXTURES / folder
        save_for_hf(model, path, model_args=args, safe_serialization=True)
        save(path / "expected.safetensors", timm_outputs(model, own, own))
        for height, width in [(24, 20), (12, 16)]:
            save(path / f"expected_{height}x{width}.safetensors", timm_outputs(model, height, width))


def by_its_authors(folder, architecture, renamed, **args):
    """A checkpoint of timm's with the tensors as `renamed` gives them, which timm reads as its own."""
    timm_tower(folder, architecture, **{**dict(embed_dim=24, num_heads=3, num_classes=0, sizes=[]), **args})
    path = FIXTURES / folder
    config = json.loads((path / "config.json").read_text())
    ours = load_file(path / "model.safetensors")
    # The authors' projections have no bias, where timm's classifier has one.
    bias = ours["head.bias"].clone() if "head.bias" in ours else 0.0
    ours = {n: torch.zeros_like(t) if n == "head.bias" else t for n, t in ours.items()}
    theirs = renamed(dict(ours))
    model = timm.create_model(architecture, **{n: v for n, v in config["model_args"].items() if n != "mlp_ratio" or v})
    module = timm.models.eva if isinstance(model, timm.models.eva.Eva) else timm.models.vision_transformer
    back = module.checkpoint_filter_fn(dict(theirs), model)
    with torch.no_grad():
        if "register_tokens" in theirs:
            # timm gives the class token's position to the class token.
            model.load_state_dict(back)
            save(path / "expected.safetensors", timm_outputs(model.eval(), *model.patch_embed.img_size))
        else:
            assert back.keys() == ours.keys(), back.keys() ^ ours.keys()
            assert all(torch.equal(back[n], ours[n]) for n in ours)
    if "visual.proj" in theirs:
        # The projection gives the image embedding.
        expected = load_file(path / "expected.safetensors")
        expected["image_embeds"] = expected.pop("logits") - bias
        save(path / "expected.safetensors", expected)
    save(path / "model.safetensors", theirs)


def swapped(tensors, swaps):
    for ours, theirs in swaps:
        tensors = {n.replace(ours, theirs): t for n, t in tensors.items()}
    return tensors


def apple(tensors):
    tensors = swapped(tensors, [
        ("fc1_g", "fc1"), ("fc1_x", "fc3"), ("norm1", "norm_1"), ("norm2", "norm_2"), ("blocks.", "trunk.blocks."),
        ("patch_embed.", "preprocessor.patchifier."), ("pos_embed", "preprocessor.pos_embed"),
    ])
    return {"trunk.post_trunk_norm." + n[5:] if n.startswith("norm.") else n: t for n, t in tensors.items()}


def meta_dinov2(tensors):
    tensors = swapped(tensors, [("mlp.fc1", "mlp.w12"), ("mlp.fc2", "mlp.w3"), ("reg_token", "register_tokens")])
    of_class = 0.2 * torch.randn(1, 1, tensors["pos_embed"].shape[2])
    tensors["pos_embed"] = torch.cat([of_class, tensors["pos_embed"]], 1)
    return {**tensors, "mask_token": torch.zeros(1, tensors["pos_embed"].shape[2])}


def meta_dinov3(tensors):
    tensors = swapped(tensors, [
        ("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma"), ("reg_token", "storage_tokens"),
        ("mlp.fc1_g", "mlp.w1"), ("mlp.fc1_x", "mlp.w2"), ("mlp.fc2", "mlp.w3"),
    ])
    dim = tensors["cls_token"].shape[2]
    for l in range(SMALL["depth"]):
        # All 0 in the distilled models, for which timm has architectures without biases.
        tensors[f"blocks.{l}.attn.qkv.bias"] = torch.zeros(3 * dim)
        tensors[f"blocks.{l}.attn.qkv.bias_mask"] = torch.ones(3 * dim)
    return {**tensors, "mask_token": torch.zeros(1, dim), "rope_embed.periods": torch.ones(2)}


def meta_pe(tensors):
    head, dim = tensors.pop("head.weight"), tensors["cls_token"].shape[2]
    del tensors["head.bias"]
    for kind in ("weight", "bias"):
        parts = [tensors.pop(f"attn_pool.{part}.{kind}") for part in ("q", "kv")]
        tensors[f"attn_pool.attn.in_proj_{kind}"] = torch.cat(parts)
        tensors[f"attn_pool.attn.out_proj.{kind}"] = tensors.pop(f"attn_pool.proj.{kind}")
        tensors[f"attn_pool.layernorm.{kind}"] = tensors.pop(f"attn_pool.norm.{kind}")
    tensors = swapped(tensors, [
        ("attn_pool.latent", "attn_pool.probe"), ("patch_embed.proj", "conv1"), ("blocks.", "transformer.resblocks."),
        ("norm_pre", "ln_pre"), ("norm1", "ln_1"), ("norm2", "ln_2"), ("attn.qkv.", "attn.in_proj_"),
        ("attn.proj", "attn.out_proj"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
    ])
    tensors = {"ln_post." + n[5:] if n.startswith("norm.") else n: t for n, t in tensors.items()}
    tensors["class_embedding"] = tensors.pop("cls_token").reshape(dim)
    tensors["positional_embedding"] = tensors.pop("pos_embed")[0]
    tensors = {"visual." + n: t for n, t in tensors.items()}
    return {**tensors, "visual.proj": head.T.contiguous(), "logit_scale": torch.ones([]), "text_projection": torch.ones(2)}


def classes_file(path, rows, model):
    """As the scripts of docs/checkpoints.md write it."""
    tensors = {"text_embeddings": rows, "logit_scale": model.logit_scale.exp()}
    if getattr(model, "logit_bias", None) is not None:
        tensors["logit_bias"] = model.logit_bias
    tensors = {n: t.detach().clone().contiguous() for n, t in tensors.items()}
    save_file(tensors, path, metadata={"names": json.dumps(list(NAMES.values()))})


def zero_shot():
    """Whole models of images and texts; logits of images among texts, as the libraries give them."""
    t = transformers
    tiny = dict(hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=50)
    ids, x = torch.randint(3, 50, (CLASSES, 6)), torch.randn(2, 3, 16, 16)
    siglip = t.SiglipConfig(
        vision_config=dict(intermediate_size=40, **HF),
        text_config=dict(max_position_embeddings=6, projection_size=16, **tiny),
    )
    siglip, path = lively(t.SiglipModel(siglip)), FIXTURES / "hf_siglip_full"
    siglip.save_pretrained(path)
    with torch.no_grad():
        out = siglip(input_ids=ids, pixel_values=x)
        rows = siglip.get_text_features(input_ids=ids)
    classes_file(path / "classes.safetensors", getattr(rows, "pooler_output", rows), siglip)
    save(path / "expected.safetensors", {"pixel_values": x, "image_embeds": siglip.get_image_features(x).pooler_output.detach()})
    save(path / "zero_shot.safetensors", {"pixel_values": x, "logits": out.logits_per_image})

    config = dict(
        embed_dim=12, quick_gelu=True,
        vision_cfg=dict(image_size=16, layers=2, width=16, head_width=8, patch_size=4, mlp_ratio=2.0),
        text_cfg=dict(context_length=6, vocab_size=50, width=8, heads=2, layers=1),
    )
    clip, path = open_clip.CLIP(**config), FIXTURES / "open_clip"
    clip = lively(clip)
    path.mkdir()
    preprocess = dict(mean=[0.5] * 3, std=[0.25] * 3, interpolation="bicubic", resize_mode="squash")
    written = {"model_cfg": config, "preprocess_cfg": preprocess}
    (path / "open_clip_config.json").write_text(json.dumps(written, indent=2))
    save(path / "open_clip_model.safetensors", {n: v for n, v in clip.state_dict().items() if n != "attn_mask"})
    with torch.no_grad():
        image, rows = clip.encode_image(x), clip.encode_text(ids)
        logits = clip.logit_scale.exp() * torch.nn.functional.normalize(image) @ torch.nn.functional.normalize(rows).T
    classes_file(path / "classes.safetensors", rows, clip)
    save(path / "expected.safetensors", {"pixel_values": x, "image_embeds": image})
    save(path / "zero_shot.safetensors", {"pixel_values": x, "logits": logits})


def processors():
    """What transformers' image processors make of an image, at sizes that keep the files small."""
    import numpy as np
    from PIL import Image

    shutil.rmtree(PROCESSORS, ignore_errors=True)
    PROCESSORS.mkdir(parents=True)
    y, x = np.mgrid[0:40, 0:56]
    image = np.stack([(x * 7 + y * 3) % 256, (x * y) % 256, 128 + 90 * np.sin(x / 5) * np.cos(y / 4)], -1)
    image = Image.fromarray(image.astype(np.uint8))
    image.save(PROCESSORS / "image.png")
    tall = image.transpose(Image.Transpose.ROTATE_90).crop((3, 0, 36, 56))
    tall.save(PROCESSORS / "tall.png")
    made = {
        "vit": transformers.ViTImageProcessor(size={"height": 24, "width": 24}),
        "deit": transformers.DeiTImageProcessor(
            size={"height": 32, "width": 32}, crop_size={"height": 28, "width": 28}
        ),
        "dinov2": transformers.BitImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28},
            image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
        ),
        # AIMv2's processor, too, with other sizes.
        "clip": transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        # SigLIP 2's at fixed sizes, too; both sides may differ.
        "siglip": transformers.SiglipImageProcessor(size={"height": 20, "width": 28}),
        "dinov3": transformers.DINOv3ViTImageProcessor(size={"height": 24, "width": 24}),
    }
    expected = {}
    for name, processor in made.items():
        (PROCESSORS / f"{name}.json").write_text(processor.to_json_string())
        expected[name] = processor(image, return_tensors="pt")["pixel_values"][0]
        expected[f"{name}_tall"] = processor(tall, return_tensors="pt")["pixel_values"][0]
    naflex = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=14)
    (PROCESSORS / "siglip2.json").write_text(naflex.to_json_string())
    for name, picture in [("siglip2", image), ("siglip2_tall", tall)]:
        made = naflex(picture, return_tensors="pt")
        rows, columns = made["spatial_shapes"][0].tolist()
        patches = made["pixel_values"][0, : rows * columns].reshape(rows, columns, 8, 8, 3)
        expected[name] = patches.permute(4, 0, 2, 1, 3).reshape(3, rows * 8, columns * 8).contiguous()
    save(PROCESSORS / "expected.safetensors", expected)


def geometries():
    """Tokens and parameters of every architecture of timm's that vitrim runs, with 1000 classes."""
    import re

    plain = re.compile(
        r"vit_(tiny|small|base|large|huge|giant|gigantic)_patch\d+_\d+"
        r"|deit_(tiny|small|base)(_distilled)?_patch\d+_\d+"
        r"|deit3_(small|medium|base|large|huge)_patch\d+_\d+"
        r"|vit_(small|base|large|giant)_patch14(_reg4)?_dinov2"
        r"|vit_(xsmall|medium|betwixt|base|large|huge|giant|gigantic)_patch\d+(_plus)?_clip(_quickgelu)?_\d+"
        r"|vit_(base|large|so400m|giantopt)_patch\d+_siglip(_gap)?_\d+"
        r"|vit_(tiny|small|small_plus|base|large|huge_plus|7b)_patch16_dinov3(_qkvb)?"
        r"|eva02_(tiny|small|base|large)_patch14_\d+"
        r"|eva02_(base|large)_patch\d+_clip_\d+"
        r"|aimv2_\w+"
        r"|beit3_\w+"
        r"|vit_pe_core_\w+"
    )
    found = {}
    for name in timm.list_models():
        if plain.fullmatch(name):
            with torch.device("meta"):
                model = timm.create_model(name, num_classes=1000)
            parameters = sum(p.numel() for p in model.parameters())
            tokens = model.patch_embed.num_patches + model.num_prefix_tokens
            found[name] = {"parameters": parameters, "tokens": tokens, "heads": model.blocks[0].attn.num_heads}
    GEOMETRIES.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
