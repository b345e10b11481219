"""A Vision Transformer in NumPy that keeps chosen tokens between blocks: slow, obvious, and written from timm's.

Checkpoints of transformers are given timm's names first.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def replay(weights: Weights, config: dict[str, Any], pixels: np.ndarray, survivors: dict[int, np.ndarray]) -> np.ndarray:
    """Logits [C] of one image `pixels` [3, H, W], float64.

    Before block l, only the prefix tokens and the patch tokens whose grid positions are `survivors[l]` are kept. What
    the weights hold decides what runs: registers, a distillation token, LayerScale, QK-norm.
    """
    weights = {name: values.astype(np.float64) for name, values in timm_names(weights).items()}
    args = config.get("model_args", config)
    heads, eps = args.get("num_heads") or args["num_attention_heads"], args.get("layer_norm_eps", 1e-6)
    patch = weights["patch_embed.proj.weight"]
    side = patch.shape[-1]
    rows, columns = pixels.shape[1] // side, pixels.shape[2] // side
    patches = pixels.reshape(3, rows, side, columns, side).transpose(1, 3, 0, 2, 4).reshape(rows * columns, -1)
    x = patches @ patch.reshape(len(patch), -1).T + weights["patch_embed.proj.bias"]

    prefix = [weights[name][0] for name in ("cls_token", "dist_token", "reg_token") if name in weights]
    count = sum(len(tokens) for tokens in prefix)
    places = weights["pos_embed"][0]
    if len(places) == len(x):  # no position embedding on the prefix
        x = np.concatenate([*prefix, x + places])
    elif len(places) == len(x) + count:
        x = np.concatenate([*prefix, x]) + places
    else:
        raise AssertionError(f"{len(places)} position embeddings for {len(x)} patches")
    positions = np.concatenate([np.full(count, -1), np.arange(rows * columns)])

    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    for block in range(depth):
        if block in survivors:
            stays = (positions < 0) | np.isin(positions, survivors[block])
            x, positions = x[stays], positions[stays]
        own = {n.split(".", 2)[2]: w for n, w in weights.items() if n.startswith(f"blocks.{block}.")}
        x = run_block(own, x, heads, eps)
    return head(weights, config, x, count, eps)


def run_block(w: Weights, x: np.ndarray, heads: int, eps: float) -> np.ndarray:
    """One block over the tokens [n, D]."""
    n, d = x.shape
    qkv = linear(w, "attn.qkv", norm(x, w, "norm1", eps)).reshape(n, 3, heads, d // heads)
    q, k, v = (qkv[:, i].transpose(1, 0, 2) for i in range(3))
    if "attn.q_norm.weight" in w:
        q, k = norm(q, w, "attn.q_norm", eps), norm(k, w, "attn.k_norm", eps)
    scores = q @ k.transpose(0, 2, 1) / math.sqrt(d // heads)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    attended = (weights @ v).transpose(1, 0, 2).reshape(n, d)
    x = x + w.get("ls1.gamma", 1.0) * linear(w, "attn.proj", attended)
    hidden = linear(w, "mlp.fc1", norm(x, w, "norm2", eps))
    hidden = 0.5 * hidden * (1.0 + _erf(hidden / math.sqrt(2.0)))
    return x + w.get("ls2.gamma", 1.0) * linear(w, "mlp.fc2", hidden)


def head(w: Weights, config: dict[str, Any], x: np.ndarray, prefix: int, eps: float) -> np.ndarray:
    """Logits [C] of the final tokens [n, D]."""
    if "norm.weight" in w:
        x = norm(x, w, "norm", eps)
    pooled = x[0] if config.get("global_pool", "token") == "token" else x[prefix:].mean(0)
    if config.get("model_type", "").startswith("dinov2"):
        pooled = np.concatenate([pooled, x[prefix:].mean(0)])
    if "fc_norm.weight" in w:
        pooled = norm(pooled, w, "fc_norm", eps)
    logits = linear(w, "head", pooled)
    if "head_dist.weight" in w:
        logits = 0.5 * (logits + linear(w, "head_dist", x[1]))
    return logits


def linear(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def norm(x: np.ndarray, w: Weights, name: str, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


#: What transformers calls timm's parts, in the order in which they are replaced.
RENAMED = (
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.distillation_token", "dist_token"),
    ("embeddings.register_tokens", "reg_token"),
    ("embeddings.cls_token", "cls_token"),
    ("encoder.layer.", "blocks."),
    ("attention.output.dense", "attn.proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"),
    ("layernorm", "norm"),
    ("distillation_classifier", "head_dist"),
    ("cls_classifier", "head"),
    ("classifier", "head"),
)


def timm_names(weights: Weights) -> Weights:
    """The weights of a transformers checkpoint under timm's names; those of timm as they are."""
    if not any("attention.attention.query" in name for name in weights):
        return weights
    renamed = {}
    for name, values in weights.items():
        if name.endswith("mask_token"):
            continue
        for theirs, ours in RENAMED:
            name = name.replace(theirs, ours)
        for model in ("vit.", "deit.", "dinov2.", "dinov2_with_registers."):
            name = name.removeprefix(model)
        renamed[name] = values
    for name in [name for name in renamed if "attention.attention.query" in name]:
        parts = [renamed.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        renamed[name.replace("attention.attention.query", "attn.qkv")] = np.concatenate(parts)
    return renamed
