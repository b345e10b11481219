"""Measures the loss and the savings of pruning on given images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

from vitrim import _vitrim
from vitrim.progress import Teller

if TYPE_CHECKING:
    from vitrim import Model
    from vitrim.training import LabelOrder, OnBadImage

    PathOrStr = Union[str, os.PathLike[str]]


def evaluate(
    model: Model,
    data: PathOrStr,
    *,
    split: Optional[str] = None,
    images: Optional[int] = None,
    methods: Optional[Sequence[str]] = None,
    keep: Optional[Sequence[float]] = None,
    speed: Optional[float] = None,
    batch: Optional[int] = None,
    on_bad_image: Optional[OnBadImage] = None,
    label_map: Optional[PathOrStr] = None,
    label_order: Optional[LabelOrder] = None,
    report: Optional[PathOrStr] = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Compares the model's policy with the dense model and with hand-made methods at its cost: ``vitrim eval``.

    Args:
        model: A loaded model, with a policy or a hand-made method.
        data: Data set.
        split: ``"test"``, ``"calibration"``, ``"train"``, or a split of the data set's own; test, else calibration, if
            left out.
        images: Number of images to use, the first ones.
        methods: Methods to compare; the policy, ``random`` and ``cls-attention`` if left out.
        keep: For a dense model, the keep ratio of the hand-made methods.
        speed: Seconds to measure each method's images/s for; not measured if left out.
        batch: Images per batch; 64 if left out.
        on_bad_image: What to do with an image that cannot be decoded; ``"fail"`` if left out.
        label_map: File that says which of the backbone's classes each class of the data set is: JSON, CSV, or its class
            names, one a line. If left out: by name, else by number or in order.
        label_order: How class names that the backbone does not know are its classes: ``"own"`` (the data set's order),
            ``"number"`` (the order of the numbers in the names) or ``"index"`` (the number is the class, from 0).
        report: Run folder to write a report of these figures into; needs a calibrated policy.
        progress: Whether to write progress to ``sys.stderr``.

    Returns:
        The figures, under the names that ``vitrim eval --json`` has; among them ``label_notes`` and ``layout_notes``, what
        was guessed of the labels and of the data set's layout.
    """
    return _vitrim.evaluate(
        model,
        data,
        split=split,
        images=images,
        methods=None if methods is None else list(methods),
        keep=None if keep is None else list(keep),
        speed=speed,
        batch=batch,
        on_bad_image=on_bad_image,
        label_map=label_map,
        label_order=label_order,
        report=report,
        teller=Teller(progress),
    )


def calibrate(
    model: Model,
    data: PathOrStr,
    *,
    policy: Optional[PathOrStr] = None,
    out: Optional[PathOrStr] = None,
    max_drop: Optional[float] = None,
    max_drift: Optional[float] = None,
    confidence: Optional[float] = None,
    split: Optional[str] = None,
    images: Optional[int] = None,
    balance: bool = True,
    on_bad_image: Optional[OnBadImage] = None,
    label_map: Optional[PathOrStr] = None,
    label_order: Optional[LabelOrder] = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Chooses the threshold that keeps the drop within a limit on held-out images: ``vitrim calibrate``.

    The policy's folder, or ``out/policy``, gets the threshold and the record, and the model uses it from now on.

    Args:
        model: A model; its dtype is the one that is certified.
        data: Data set with images that the policy was not trained on.
        policy: Policy folder, or, with ``out``, also ``"universal"``, an ``hf://`` reference, or the name of a hand-made
            method, as in ``"dtome"``, which is first fitted to training images if it needs that. Left out, the policy that
            the model was loaded with.
        out: Run folder to write the calibrated policy to, in its ``policy/``; needed with a policy for every backbone and
            with a hand-made method. Left out, the policy's own folder is changed.
        max_drop: Loss of top-1 that is allowed, percentage points; that of the last calibration, else 0.4, if left out.
        max_drift: For a backbone without classes: drift of its pooled features that is allowed, 100 (1 - cos), percent.
        confidence: Confidence of the bound on the loss; 0.5 takes the measured value; 0.9 if left out.
        split: Images to calibrate on, ``images`` at most; the first 10,000 of ``"calibration"`` if left out.
        balance: Whether the stages of a policy for every backbone are balanced first, on up to 64 images of the split
            ``train``, without their labels.
        on_bad_image: What to do with an image that cannot be decoded; ``"fail"`` if left out.
        label_map: File that says which of the backbone's classes each class of the data set is: JSON, CSV, or its class
            names, one a line. If left out: by name, else by number or in order.
        label_order: How class names that the backbone does not know are its classes: ``"own"`` (the data set's order),
            ``"number"`` (the order of the numbers in the names) or ``"index"`` (the number is the class, from 0).
        progress: Whether to write progress to ``sys.stderr``.

    Returns:
        The calibration record, as ``policy.json`` has it, with ``label_notes`` and ``layout_notes``: what was guessed of the
        labels and of the data set's layout.
    """
    return _vitrim.calibrate(
        model,
        data,
        policy=policy,
        balance=balance,
        out=out,
        max_drop=max_drop,
        max_drift=max_drift,
        confidence=confidence,
        split=split,
        images=images,
        on_bad_image=on_bad_image,
        label_map=label_map,
        label_order=label_order,
        teller=Teller(progress),
    )


def compare(
    model: Model,
    data: PathOrStr,
    *,
    report: Optional[PathOrStr] = None,
    policies: Sequence[PathOrStr] = (),
    rivals: Optional[Mapping[str, Union[PathOrStr, Sequence[PathOrStr]]]] = None,
    split: Optional[str] = None,
    images: Optional[int] = None,
    sweep_split: Optional[str] = None,
    sweep_images: Optional[int] = None,
    methods: Optional[Sequence[str]] = None,
    costs: Optional[Sequence[float]] = None,
    drops: Optional[Sequence[float]] = None,
    near: Optional[int] = None,
    studies: Optional[Sequence[str]] = None,
    speed: Optional[float] = None,
    batch: Optional[int] = None,
    on_bad_image: Optional[OnBadImage] = None,
    label_map: Optional[PathOrStr] = None,
    label_order: Optional[LabelOrder] = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Compares whole fronts of methods, and methods at the same cost and the same drop: ``vitrim compare``.

    Args:
        model: A model with a calibrated policy, or without one to compare the hand-made methods.
        data: Data set.
        report: Folder for the figures and ``report.html``, ``runs/compare`` if left out; an interrupted comparison
            continues from it.
        policies: Folders of the same policy from other seeds; means over all of them and the model's own are compared.
        rivals: Other trained policies by name: a folder, or several of different seeds. A rival is calibrated, or
            has the read-out ``sample``.
        split: Images to compare on, the first ``images``; test, else calibration, if left out.
        sweep_split: Images to sweep the methods' settings on, the first ``sweep_images``; 1,000 of ``"calibration"`` if
            left out.
        methods: Methods to compare; all if left out.
        costs: Costs to compare at, as shares of the dense MACs; from 0.9 to 0.5 if left out.
        drops: Drops to compare at, percentage points; 0.4 and 1 if left out.
        near: Settings to measure on either side of each of these costs and drops; whole fronts if left out.
        studies: What is studied of the policies: every image with their mean budgets (``fixed-budgets``), and hand-made
            selections with their budgets of each image (``selection``); both if left out.
        speed: Seconds to measure each setting's images/s for; not at all if left out.
        batch: Images per batch; 64 if left out.
        on_bad_image: What to do with an image that cannot be decoded; ``"fail"`` if left out.
        label_map: File that says which of the backbone's classes each class of the data set is: JSON, CSV, or its class
            names, one a line. If left out: by name, else by number or in order.
        label_order: How class names that the backbone does not know are its classes: ``"own"`` (the data set's order),
            ``"number"`` (the order of the numbers in the names) or ``"index"`` (the number is the class, from 0).
        progress: Whether to write progress to ``sys.stderr``.

    Returns:
        The figures, under the names that ``vitrim compare --json`` has; among them ``label_notes`` and ``layout_notes``, if
        something was guessed.
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
        methods=None if methods is None else list(methods),
        costs=None if costs is None else list(costs),
        drops=None if drops is None else list(drops),
        near=near,
        studies=None if studies is None else list(studies),
        speed=speed,
        batch=batch,
        on_bad_image=on_bad_image,
        label_map=label_map,
        label_order=label_order,
        teller=Teller(progress),
    )


def report(run: PathOrStr) -> Path:
    """Writes the page of a run folder with its figures, and returns the page's path: ``vitrim report``."""
    return Path(_vitrim.report(run))
