"""What pruning costs and gains on given images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

from vitrim import _vitrim
from vitrim.progress import Teller

if TYPE_CHECKING:
    from vitrim import Model
    from vitrim.training import OnBadImage

    PathOrStr = Union[str, os.PathLike[str]]

#: Every method that can be compared with a policy.
ALL_METHODS = ("policy", "random", "cls-attention", "evit", "ats", "similarity", "tome", "tome-plain")


def evaluate(
    model: Model,
    data: PathOrStr,
    *,
    split: Optional[str] = None,
    images: Optional[int] = None,
    methods: Sequence[str] = ("policy", "random", "cls-attention"),
    keep: Optional[Sequence[float]] = None,
    speed: Optional[float] = None,
    batch: int = 64,
    on_bad_image: OnBadImage = "fail",
    report: Optional[PathOrStr] = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Measures the model's policy beside the dense model and hand-made methods at its cost: ``vitrim eval``.

    Args:
        model: A loaded model; one with a hand-made method measures that.
        data: Data set.
        split: ``"test"``, ``"calibration"``, ``"train"``, or a split of the data set's own; test, else calibration, if
            left out.
        images: Only the first so many.
        methods: Methods to compare.
        keep: For a dense model, the keep ratio of the hand-made methods.
        speed: Seconds to measure each method's images/s for; not at all if left out.
        batch: Images a batch.
        on_bad_image: What a corrupt image does.
        report: Run folder to write a report of these figures into; needs a calibrated policy.
        progress: Whether to write to ``sys.stderr`` how far it is.

    Returns:
        The figures, under the names that ``vitrim eval --json`` has.
    """
    return _vitrim.evaluate(
        model,
        data,
        split=split,
        images=images,
        methods=list(methods),
        keep=None if keep is None else list(keep),
        speed=speed,
        batch=batch,
        on_bad_image=on_bad_image,
        report=report,
        command=f"vitrim.evaluate({model!r}, {os.fspath(data)!r}, split={split!r}, images={images!r})",
        teller=Teller(progress),
    )


def calibrate(
    model: Model,
    data: PathOrStr,
    *,
    max_drop: Optional[float] = None,
    max_drift: Optional[float] = None,
    confidence: float = 0.9,
    split: str = "calibration",
    images: int = 10_000,
    on_bad_image: OnBadImage = "fail",
    progress: bool = True,
) -> dict[str, Any]:
    """Chooses the threshold that keeps the drop within a limit on held-out images: ``vitrim calibrate``.

    The policy's folder gets the threshold and the record, and the model uses it from now on.

    Args:
        model: A model that was loaded with a trained policy; its dtype is the one that is certified.
        data: Data set with images that the policy was not trained on.
        max_drop: Percentage points; that of the last calibration, else 0.4, if left out.
        max_drift: For a backbone without classes: drift of its pooled features, 100 (1 - cos), percent.
        confidence: How sure to be that it is not exceeded; 0.5 is the point estimate.
        split: Images to calibrate on, ``images`` at most.
        on_bad_image: What a corrupt image does.
        progress: Whether to write to ``sys.stderr`` how far it is.

    Returns:
        The calibration record, as ``policy.json`` has it.
    """
    return _vitrim.calibrate(
        model,
        data,
        max_drop=max_drop,
        max_drift=max_drift,
        confidence=confidence,
        split=split,
        images=images,
        on_bad_image=on_bad_image,
        teller=Teller(progress),
    )


def compare(
    model: Model,
    data: PathOrStr,
    *,
    report: PathOrStr = "runs/compare",
    policies: Sequence[PathOrStr] = (),
    rivals: Optional[Mapping[str, Union[PathOrStr, Sequence[PathOrStr]]]] = None,
    split: Optional[str] = None,
    images: Optional[int] = None,
    sweep_split: str = "calibration",
    sweep_images: int = 1_000,
    methods: Sequence[str] = ALL_METHODS,
    costs: Sequence[float] = (0.9, 0.8, 0.7, 0.6, 0.5),
    drops: Sequence[float] = (0.4, 1.0),
    near: Optional[int] = None,
    studies: Sequence[str] = ("fixed-budgets", "selection"),
    speed: Optional[float] = None,
    batch: int = 64,
    on_bad_image: OnBadImage = "fail",
    progress: bool = True,
) -> dict[str, Any]:
    """Compares whole fronts of methods, and methods at the same cost and the same drop: ``vitrim compare``.

    Args:
        model: A model with a calibrated policy, or without one to compare the hand-made methods.
        data: Data set.
        report: Folder that the figures and ``report.html`` go to; an interrupted comparison goes on from it.
        policies: Folders of the same policy from other seeds; means over all of them and the model's own are compared.
        rivals: Other trained policies by name: a folder, or several of different seeds. A rival is calibrated, or samples.
        split: Images to compare on, the first ``images``; test, else calibration, if left out.
        sweep_split: Images to sweep the methods' settings on, the first ``sweep_images``.
        methods: Methods to compare.
        costs: Costs to compare at, as shares of the dense MACs.
        drops: Drops to compare at, percentage points.
        near: Settings to measure on either side of each of these costs and drops; whole fronts if left out.
        studies: What is studied of the policies: every image with their mean budgets (``fixed-budgets``), and hand-made
            selections with their budgets of each image (``selection``).
        speed: Seconds to measure each setting's images/s for; not at all if left out.
        batch: Images a batch.
        on_bad_image: What a corrupt image does.
        progress: Whether to write to ``sys.stderr`` how far it is.

    Returns:
        The figures, under the names that ``vitrim compare --json`` has.
    """
    given = rivals or {}
    several = {name: [value] if isinstance(value, (str, os.PathLike)) else value for name, value in given.items()}
    return _vitrim.compare(
        model,
        data,
        report=report,
        policies=list(policies),
        rivals=[(name, folder) for name, folders in several.items() for folder in folders],
        split=split,
        images=images,
        sweep_split=sweep_split,
        sweep_images=sweep_images,
        methods=list(methods),
        costs=list(costs),
        drops=list(drops),
        near=near,
        studies=list(studies),
        speed=speed,
        batch=batch,
        on_bad_image=on_bad_image,
        command=f"vitrim.compare({model!r}, {os.fspath(data)!r}, split={split!r}, images={images!r})",
        teller=Teller(progress),
    )


def report(run: PathOrStr) -> Path:
    """Lays out a run folder as one page with its figures, and returns the page's path: ``vitrim report``."""
    return Path(_vitrim.report(run))
