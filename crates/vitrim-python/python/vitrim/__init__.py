"""Faster Vision Transformers: learned token pruning, with real speed-ups on the CPU.

>>> import vitrim
>>> model = vitrim.load("path/to/checkpoint", policy="runs/my/policy")  # doctest: +SKIP
>>> logits = model(pixel_values)  # doctest: +SKIP

Everything is computed by the library behind the ``vitrim`` command line, with the GIL released. Arrays are NumPy's;
arrays of PyTorch and other libraries are read by DLPack.
"""

from vitrim._vitrim import (
    ClassProbability,
    Model,
    Prediction,
    Survivors,
    Tokens,
    VitrimError,
    __version__,
)
from vitrim.checkpoints import from_timm, load
from vitrim.measuring import calibrate, compare, evaluate, report
from vitrim.pruner import Pruner
from vitrim.training import MetricRun, Run, TunedRun, finetune, train, train_metric

__all__ = [
    "ClassProbability",
    "MetricRun",
    "Model",
    "Prediction",
    "Pruner",
    "Run",
    "Survivors",
    "Tokens",
    "TunedRun",
    "VitrimError",
    "__version__",
    "calibrate",
    "compare",
    "evaluate",
    "finetune",
    "from_timm",
    "load",
    "report",
    "train",
    "train_metric",
]
