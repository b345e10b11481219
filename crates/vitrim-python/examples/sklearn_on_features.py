"""A scikit-learn classifier on the features of a frozen, pruned backbone.

    python sklearn_on_features.py CHECKPOINT IMAGES    # IMAGES/train/class/*.png and IMAGES/test/class/*.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import vitrim


def features(model: vitrim.Model, folder: Path, batch: int = 32) -> tuple[np.ndarray, list[str]]:
    """Pooled features [N, D] of the images in class folders, and the classes' names."""
    files = sorted(file for file in folder.glob("*/*") if file.is_file())
    batches = [files[start : start + batch] for start in range(0, len(files), batch)]
    rows = [model.features(model.preprocess(batch)) for batch in batches]
    return np.concatenate(rows), [file.parent.name for file in files]


def main(checkpoint: str, images: str, policy: str = "cls-attention:0.7") -> float:
    """Trains on `train`, and returns the accuracy on `test`."""
    model = vitrim.load(checkpoint, policy)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(*features(model, Path(images) / "train"))
    accuracy = classifier.score(*features(model, Path(images) / "test"))
    print(f"accuracy {100 * accuracy:.1f} % on features of {model.dim} channels")
    return float(accuracy)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("images")
    parser.add_argument("--policy", default="cls-attention:0.7")
    given = parser.parse_args()
    main(given.checkpoint, given.images, given.policy)
