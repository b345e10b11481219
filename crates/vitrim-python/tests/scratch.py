"""Checkpoints and images made on the spot, and what safetensors files hold."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from vitrim import _vitrim

DTYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64}


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """A file's tensors by name; bf16 widened to float32."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        start, end = about["data_offsets"]
        raw = data[8 + length + start : 8 + length + end]
        if about["dtype"] == "BF16":
            values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, DTYPES[about["dtype"]])
        tensors[name] = values.reshape(about["shape"])
    return tensors


def tiny_checkpoint(
    folder: Path,
    *,
    classes: int = 3,
    img: int = 32,
    patch: int = 8,
    dim: int = 32,
    depth: int = 4,
    heads: int = 2,
    crop_pct: float = 1.0,
) -> Path:
    """Writes a plain Vision Transformer of random weights, large enough for its logits to differ between images."""
    rng = np.random.default_rng(0)
    tokens = (img // patch) ** 2 + 1
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, tokens, dim),
        "patch_embed.proj.weight": (dim, 3, patch, patch),
        "patch_embed.proj.bias": (dim,),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
        "head.weight": (classes, dim),
        "head.bias": (classes,),
    }
    for i in range(depth):
        for name, shape in {
            "norm1.weight": (dim,),
            "norm1.bias": (dim,),
            "attn.qkv.weight": (3 * dim, dim),
            "attn.qkv.bias": (3 * dim,),
            "attn.proj.weight": (dim, dim),
            "attn.proj.bias": (dim,),
            "norm2.weight": (dim,),
            "norm2.bias": (dim,),
            "mlp.fc1.weight": (4 * dim, dim),
            "mlp.fc1.bias": (4 * dim,),
            "mlp.fc2.weight": (dim, 4 * dim),
            "mlp.fc2.bias": (dim,),
        }.items():
            shapes[f"blocks.{i}.{name}"] = shape
    weights = []
    for name, shape in shapes.items():
        scale = 1.0 if name.endswith("embed") or "token" in name else 1.5 / np.sqrt(np.prod(shape[1:]) or 1)
        values = rng.normal(0.0, scale, shape)
        if "norm" in name and name.endswith("weight"):
            values = 1.0 + 0.1 * values
        elif name.endswith("bias"):
            values = 0.1 * values
        weights.append((name, values.astype(np.float32)))
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": classes,
        "global_pool": "token",
        "model_args": {"img_size": img, "patch_size": patch, "embed_dim": dim, "depth": depth, "num_heads": heads},
        "pretrained_cfg": {
            "input_size": [3, img, img],
            "crop_pct": crop_pct,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "label_names": [f"class {i}" for i in range(classes)],
        },
    }
    _vitrim.write_checkpoint(folder, json.dumps(config), weights)
    return folder


def drawn_classes(folder: Path, *, classes: int = 3, each: int = 12, img: int = 32) -> Path:
    """Writes PNG images as split/class/*.png; each class has a colour of its own, no two images are alike."""
    rng = np.random.default_rng(1)
    for split in ("train", "validation", "test"):
        for label in range(classes):
            place = folder / split / f"class_{label}"
            place.mkdir(parents=True)
            for i in range(each):
                values = rng.integers(0, 120, (img, img, 3), dtype=np.uint8)
                # From the fourth class on, two channels are lighter.
                for channel in {label % 3, (label + label // 3) % 3}:
                    values[..., channel] += 130
                Image.fromarray(values).save(place / f"{i}.png")
    return folder
