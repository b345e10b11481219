"""Batch inference over many processes with Ray Data: every worker loads the model once and keeps its cores busy.

    pip install "ray[data]"
    python ray_map_batches.py CHECKPOINT IMAGES --workers 2
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import ray
import vitrim


class Classifier:
    """A worker: loaded once, called with every batch."""

    def __init__(self, checkpoint: str, policy: str, threads: int) -> None:
        self.model = vitrim.load(checkpoint, policy, threads=threads)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        answers = self.model.predict(list(batch["image"]), top_k=1)
        return {
            "path": batch["path"],
            "class": np.array([answer.classes[0].class_index for answer in answers]),
            "probability": np.array([answer.classes[0].probability for answer in answers]),
            "gmacs": np.array([answer.gmacs for answer in answers]),
        }


def classify(checkpoint: str, images: str, policy: str, workers: int) -> list[dict[str, Any]]:
    """One row per image below the folder `images`."""
    found = ray.data.read_images(images, include_paths=True, mode="RGB")
    rows = found.map_batches(
        Classifier,
        fn_constructor_args=(checkpoint, policy, 1),
        batch_size=16,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
    )
    return rows.take_all()


def main(checkpoint: str, images: str, policy: str = "cls-attention:0.7", workers: int = 2) -> list[dict[str, Any]]:
    """Classifies with Ray on this machine."""
    # One core per worker, and one for Ray to read images.
    ray.init(num_cpus=workers + 1, include_dashboard=False, ignore_reinit_error=True)
    try:
        rows = classify(checkpoint, images, policy, workers)
    finally:
        ray.shutdown()
    for row in rows[:5]:
        print(f"{row['path']}: class {row['class']}, {100 * row['probability']:.1f} %, {row['gmacs']:.4f} GMACs")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("images")
    parser.add_argument("--policy", default="cls-attention:0.7")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    main(given.checkpoint, given.images, given.policy, given.workers)
