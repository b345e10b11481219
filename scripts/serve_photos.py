"""Photos as a client sends them: the files' own bytes, or pixels that are ready for the model."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SYNSETS = Path(__file__).resolve().parents[1] / "crates/vitrim-data/assets/imagenet_synsets.txt"


@dataclass
class Photo:
    path: Path
    encoded: bytes
    #: ImageNet's class number if the folder is named by a synset, else `None`.
    label: int | None


def read(folder, limit=None):
    """The JPEG files below `folder`, in the order of their names."""
    classes = {name: number for number, name in enumerate(SYNSETS.read_text().split())}
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not paths:
        raise SystemExit(f"error: no JPEG files below {folder}")
    return [Photo(path, path.read_bytes(), classes.get(path.parent.name)) for path in paths[:limit]]


@dataclass
class Transform:
    """timm's evaluation transform: shorter side to `size / crop_pct`, bicubic; centre crop; mean and standard deviation."""

    size: int = 224
    crop_pct: float = 0.9
    mean: tuple = (0.485, 0.456, 0.406)
    std: tuple = (0.229, 0.224, 0.225)

    @classmethod
    def of(cls, model):
        """That of a checkpoint folder of timm."""
        config = json.loads((Path(model) / "config.json").read_text())["pretrained_cfg"]
        return cls(config["input_size"][1], config["crop_pct"], tuple(config["mean"]), tuple(config["std"]))

    def __call__(self, encoded):
        """Pixels [3, size, size] of an encoded image."""
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
        scale = int(self.size / self.crop_pct) / min(image.size)
        image = image.resize([round(side * scale) for side in image.size], Image.BICUBIC)
        left, top = ((side - self.size) // 2 for side in image.size)
        image = image.crop((left, top, left + self.size, top + self.size))
        mean, std = np.float32(self.mean), np.float32(self.std)
        pixels = (np.asarray(image, np.float32) / np.float32(255.0) - mean) / std
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
