#!/usr/bin/env python3
"""Where a merged token lies under rotary position embeddings: at its destination's place, or at the mean of places.

    python3 scripts/rope_merging.py ../shared/data/cifar10 --seconds 720    # needs torch, timm, pyarrow and pillow

A small DINOv3 of timm's (64 patches of 4 pixels, 5 blocks of width 72) with random weights, then trained for so many
seconds, merges tokens between attention and MLP: similar pairs as ToMe finds them, or random pairs. Printed is D of the
logits to those without merging, for both rules on the same pairs and images, with a paired 95 % interval.
"""

import argparse
import io
import math
import time

import numpy as np
import pyarrow.parquet
import timm
import torch
import torch.nn.functional as F
from PIL import Image

GRID, HEADS = 8, 3
#: Tokens merged at each stage, and the blocks of the stages.
SETTINGS = [(6, (1, 2, 3)), (12, (0, 1, 2)), (16, (0, 1, 2))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of CIFAR-10 in parquet files")
    parser.add_argument("--seconds", type=float, default=720.0, help="time to train for")
    parser.add_argument("--steps", type=int, default=500, help="most steps to train for")
    args = parser.parse_args()
    torch.manual_seed(0)
    images, labels = load(args.data, "validation", 500)
    model = backbone()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.0)
    compare(model, images, "random")
    model = trained(args, *load(args.data, "train", 8000))
    with torch.no_grad():
        top1 = (model(images).argmax(1) == labels).float().mean()
    print(f"trained: {100 * top1:.1f} % top-1")
    compare(model, images, "trained")


def load(folder, split, count):
    table = pyarrow.parquet.read_table(f"{folder}/{split}-00000-of-00001.parquet").slice(0, count).to_pydict()
    image, label = (next(name for name in table if part in name) for part in ("im", "label"))
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(i["bytes"])).convert("RGB")) for i in table[image]])
    return torch.tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1, torch.tensor(table[label])


def backbone():
    return timm.create_model(
        "vit_small_patch16_dinov3", img_size=4 * GRID, patch_size=4, embed_dim=72, depth=5, num_heads=HEADS,
        num_classes=10, num_reg_tokens=0, init_values=1.0,
    ).eval()


def trained(args, images, labels):
    model, started = backbone().train(), time.time()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
    for step in range(args.steps):
        if time.time() - started > args.seconds:
            print(f"stopped at step {step}")
            break
        rows = torch.randint(0, len(images), (64,))
        batch = images[rows].flip(-1) if torch.rand(()) < 0.5 else images[rows]
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, step / 50) * (0.5 + 0.5 * math.cos(math.pi * step / args.steps))
        loss = F.cross_entropy(model(batch), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def rotate(x, places):
    """Rotates heads `x: [B, heads, n, d]` by the `places: [B, n, 2]` of their tokens, -1 to 1."""
    d = x.shape[-1]
    angles = 2 * math.pi * places[..., None] / 100 ** (2 * torch.arange(d // 4) / (d / 2))
    angles = angles.flatten(2).repeat(1, 1, 2)[:, None]
    half = torch.cat([-x[..., d // 2 :], x[..., : d // 2]], -1)
    return x * angles.cos() + half * angles.sin()


def logits(model, images, merged, stages, mean, random):
    """Logits where `merged` tokens leave in each of `stages`; a merged token lies at the mean of places if `mean`."""
    line = (torch.arange(GRID) + 0.5) / GRID * 2 - 1
    places = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(1, -1, 2).repeat(len(images), 1, 1)
    patches = model.patch_embed(images).reshape(len(images), GRID * GRID, -1)
    tokens = torch.cat([model.cls_token.expand(len(images), -1, -1), patches], 1)
    sizes = torch.ones(tokens.shape[:2])
    generator = torch.Generator().manual_seed(1)
    for l, block in enumerate(model.blocks):
        n = tokens.shape[1]
        qkv = block.attn.qkv(block.norm1(tokens)).reshape(len(images), n, 3, HEADS, -1)
        plain = qkv.permute(2, 0, 3, 1, 4)
        q, k = (torch.cat([x[:, :, :1], rotate(x[:, :, 1:], places)], 2) for x in plain[:2])
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + sizes.log()[:, None, None]
        y = (scores.softmax(-1) @ plain[2]).transpose(1, 2).reshape(tokens.shape)
        tokens = tokens + block.gamma_1 * block.attn.proj(y)
        if l in stages:
            keys = F.normalize(plain[1].mean(1)[:, 1:], dim=-1)
            scores = keys[:, ::2] @ keys[:, 1::2].transpose(-1, -2)
            if random:
                scores = torch.rand(scores.shape, generator=generator)
            patches, places, left = merge(tokens[:, 1:], places, sizes[:, 1:], scores, merged, mean)
            tokens, sizes = torch.cat([tokens[:, :1], patches], 1), torch.cat([sizes[:, :1], left], 1)
        tokens = tokens + block.gamma_2 * block.mlp(block.norm2(tokens))
    weights = sizes[:, 1:, None] / sizes[:, 1:, None].sum(1, keepdim=True)
    return model.head((model.norm(tokens)[:, 1:] * weights).sum(1))


def merge(tokens, places, sizes, scores, merged, mean):
    """Merges the `merged` even tokens with the highest `scores` into odd ones, weighted by size (Bolya et al., 2023)."""
    best, to = scores.max(-1)
    order = best.argsort(1, descending=True)
    leaving, staying = order[:, :merged], order[:, merged:].sort(1).values

    def rows(x, index):
        return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))

    into, weights = to.gather(1, leaving), sizes[:, ::2].gather(1, leaving)
    total = sizes[:, 1::2].scatter_add(1, into, weights)

    def joined(x):
        index = into[..., None].expand(-1, -1, x.shape[-1])
        sums = (x[:, 1::2] * sizes[:, 1::2, None]).scatter_add(1, index, rows(x[:, ::2], leaving) * weights[..., None])
        return sums / total[..., None]

    destination = joined(places) if mean else places[:, 1::2]
    return (
        torch.cat([rows(tokens[:, ::2], staying), joined(tokens)], 1),
        torch.cat([rows(places[:, ::2], staying), destination], 1),
        torch.cat([sizes[:, ::2].gather(1, staying), total], 1),
    )


@torch.no_grad()
def compare(model, images, what):
    def run(*how):
        return torch.cat([logits(model, part, *how) for part in images.split(250)])

    dense = run(0, (), False, False)
    assert torch.allclose(dense, model(images), atol=1e-4), "this pass is timm's"
    # Random logits are spread like trained ones.
    scale = 3.0 / (dense - dense.mean(0)).std() if what == "random" else 1.0
    for random in (False, True):
        for merged, stages in SETTINGS:
            kept, moved = (divergence(dense * scale, run(merged, stages, mean, random) * scale) for mean in (False, True))
            apart = moved - kept
            interval = 1.96 * apart.std() / math.sqrt(len(apart))
            print(
                f"{what} weights, {'random' if random else 'similar'} pairs, {merged} merged after blocks {stages}: D "
                f"{kept.mean():.4f} at the destination, {moved.mean():.4f} at the mean, {apart.mean():+.4f} +- {interval:.4f}"
            )


def divergence(dense, other):
    """D of each image: 9 KL(softmax(dense / 3) || softmax(other / 3))."""
    logs = (other / 3).log_softmax(-1), (dense / 3).log_softmax(-1)
    return 9 * F.kl_div(*logs, log_target=True, reduction="none").sum(-1)


if __name__ == "__main__":
    main()
