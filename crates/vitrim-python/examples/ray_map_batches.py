"""Batch inference over processes with Ray Data: `python ray_map_batches.py CHECKPOINT IMAGES [POLICY]`, after `pip install "ray[data]"`."""

import sys

import ray
import vitrim.ray


def main(checkpoint: str, images: str, policy: str = "cls-attention:0.7", workers: int = 2) -> "ray.data.Dataset":
    """One row per image below the folder `images`: path, class, probability, GMACs."""
    files = ray.data.read_binary_files(images, include_paths=True)
    pool = ray.data.ActorPoolStrategy(size=workers)
    return files.map_batches(vitrim.ray.Classifier, fn_constructor_args=(checkpoint, policy), compute=pool, num_cpus=1)


if __name__ == "__main__":
    main(*sys.argv[1:4]).show(5)
