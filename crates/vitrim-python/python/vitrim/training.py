"""Training a policy or a metric, and fine-tuning the backbone under a policy."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Literal, Optional, Union

from vitrim import _vitrim
from vitrim.checkpoints import load
from vitrim.progress import Teller

if TYPE_CHECKING:
    from vitrim import Model

    PathOrStr = Union[str, os.PathLike[str]]
    OnBadImage = Literal["fail", "skip"]
    LabelOrder = Literal["own", "number", "index"]


def _log(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@dataclass(frozen=True)
class Run:
    """A finished training run."""

    #: The run folder.
    folder: Path
    #: The policy's folder, to be given to :func:`vitrim.load`.
    policy: Path
    #: Updates done.
    updates: int
    #: How the policy is read out, such as ``threshold=0.62``.
    read_out: str
    #: The calibration record: what was measured and chosen; None for an uncalibrated policy.
    calibration: Optional[dict[str, Any]]
    #: What was guessed of the labels, a sentence each.
    label_notes: list[str]
    #: Which layout of the data set was read, and what lies beside the images, a line each.
    layout_notes: list[str]

    @property
    def log(self) -> list[dict[str, Any]]:
        """The figures of every update, oldest first, from ``log.jsonl``."""
        return _log(self.folder)


@dataclass(frozen=True)
class TunedRun:
    """A finished fine-tuning run."""

    #: The run folder.
    folder: Path
    #: The backbone's folder, to be given to :func:`vitrim.load`.
    model: Path
    #: The policy's folder, for that backbone, not calibrated on its weights; None for the dense control.
    policy: Optional[Path]
    #: The written weights on held-out images, as ``vitrim finetune --json`` has them.
    held_out: dict[str, Any]
    #: What was guessed of the labels, a sentence each.
    label_notes: list[str]
    #: Which layout of the data set was read, and what lies beside the images, a line each.
    layout_notes: list[str]

    @property
    def log(self) -> list[dict[str, Any]]:
        """The figures of every entry, oldest first, from ``log.jsonl``."""
        return _log(self.folder)


@dataclass(frozen=True)
class MetricRun:
    """A finished training of a metric."""

    #: The run folder.
    folder: Path
    #: The policy's folder, not calibrated, to be given to :func:`vitrim.load`.
    policy: Path
    #: What was guessed of the labels, a sentence each.
    label_notes: list[str]
    #: Which layout of the data set was read, and what lies beside the images, a line each.
    layout_notes: list[str]

    @property
    def log(self) -> list[dict[str, Any]]:
        """The figures of every entry, oldest first, from ``log.jsonl``."""
        return _log(self.folder)


def train(
    model: Union[PathOrStr, Model],
    data: PathOrStr,
    *,
    out: Optional[PathOrStr] = None,
    max_drop: Optional[float] = None,
    max_drift: Optional[float] = None,
    confidence: Optional[float] = None,
    start: Optional[PathOrStr] = None,
    preset: Optional[str] = None,
    config: Optional[PathOrStr] = None,
    split: Optional[str] = None,
    calibrate: bool = True,
    calibration_split: Optional[str] = None,
    calibration_images: Optional[int] = None,
    device: Optional[Literal["cpu", "gpu"]] = None,
    on_bad_image: Optional[OnBadImage] = None,
    label_map: Optional[PathOrStr] = None,
    label_order: Optional[LabelOrder] = None,
    threads: Optional[int] = None,
    progress: bool = True,
    callback: Optional[Callable[[dict[str, Any]], object]] = None,
    **overrides: Any,
) -> Run:
    """Trains a policy for a frozen backbone and calibrates it: ``vitrim train``.

    Ctrl-C stops the training after the current update, and raises ``KeyboardInterrupt``; so does an exception of
    ``callback``, which is raised then. The same call continues the run, bit for bit as if it had not been stopped.

    Args:
        model: Checkpoint folder, or a loaded model (whose policy does not matter).
        data: Class folders, a flat folder of images, or Hugging Face parquet files.
        out: Run folder; ``runs/`` and the model's name if left out.
        max_drop: Loss of top-1 that is allowed, percentage points; 0.4 if left out.
        max_drift: For a backbone without classes: drift of its pooled features that is allowed, 100 (1 - cos), percent.
        confidence: Confidence of the bound on the loss; 0.5 takes the measured value; 0.9 if left out.
        start: Policy to start from: ``"universal"``, or the folder of a policy for this backbone or for every one
            (``--from`` of the command line).
        preset: ``"default"``, ``"universal"`` (its actor has no input of the backbone's width), ``"drop"`` (the default's
            game with agents that are dropped instead of merged), ``"paper"``, or the controls without reinforcement, ``"gumbel"`` and ``"dynamicvit"``;
            ``config`` is a TOML file whose values override the preset.
        split: Images to train on; ``"train"`` if left out.
        calibrate: False leaves the policy uncalibrated.
        calibration_split: Images to calibrate on, ``calibration_images`` at most; the first 10,000 of
            ``"calibration"`` if left out.
        device: Device that computes the gradients; the CPU if left out.
        on_bad_image: What to do with an image that cannot be decoded; ``"fail"`` if left out.
        label_map: File that says which of the backbone's classes each class of the data set is: JSON, CSV, or its class
            names, one a line. If left out: by name, else by number or in order.
        label_order: How class names that the backbone does not know are its classes: ``"own"`` (the data set's order),
            ``"number"`` (the order of the numbers in the names) or ``"index"`` (the number is the class, from 0).
        threads: Threads of a model that is given as a folder.
        progress: Whether to write progress to ``sys.stderr``.
        callback: Called after every update with its figures (those of ``log.jsonl``, and ``updates``).
        **overrides: Keys of the configuration, ``updates=300`` or ``ppo={"clip": 0.1}``: they override preset and
            file. ``vitrim train --print-config`` shows all keys.

    Raises:
        VitrimError: If the arguments do not fit each other, or a file cannot be read or written.
        KeyboardInterrupt: After Ctrl-C, with all finished updates saved.
    """
    loaded = model if isinstance(model, _vitrim.Model) else load(model, threads=threads)
    name = loaded.origin if isinstance(model, _vitrim.Model) else os.fspath(model)
    finished = _vitrim.train(
        loaded,
        data,
        out=out,
        name=name,
        start=start,
        preset=preset,
        config=config,
        set=settings(overrides),
        max_drop=max_drop,
        max_drift=max_drift,
        confidence=confidence,
        split=split,
        calibrate=calibrate,
        calibration_split=calibration_split,
        calibration_images=calibration_images,
        device=device,
        on_bad_image=on_bad_image,
        label_map=label_map,
        label_order=label_order,
        teller=Teller(progress, callback),
    )
    return Run(
        folder=Path(finished["folder"]),
        policy=Path(finished["policy"]),
        updates=finished["updates"],
        read_out=finished["read_out"],
        calibration=finished["calibration"],
        label_notes=finished["label_notes"],
        layout_notes=finished["layout_notes"],
    )


def train_metric(
    model: Union[PathOrStr, Model],
    data: PathOrStr,
    *,
    out: Optional[PathOrStr] = None,
    config: Optional[PathOrStr] = None,
    split: Optional[str] = None,
    device: Optional[Literal["cpu", "gpu"]] = None,
    on_bad_image: Optional[OnBadImage] = None,
    label_map: Optional[PathOrStr] = None,
    label_order: Optional[LabelOrder] = None,
    threads: Optional[int] = None,
    progress: bool = True,
    callback: Optional[Callable[[dict[str, Any]], object]] = None,
    **overrides: Any,
) -> MetricRun:
    """Learns by gradients which tokens are alike, and merges by it (DTEM): ``vitrim train-metric``.

    The result is a policy that keeps everything until it is given a cost: :func:`vitrim.calibrate` chooses one. Ctrl-C
    stops the training after the current step, and raises ``KeyboardInterrupt``; so does an exception of ``callback``, which
    is raised then. The same call continues the run.

    Args:
        model: Checkpoint folder, or a loaded model (whose policy does not matter).
        data: Data set; labels are not used.
        out: Run folder, ``runs/metric`` if left out; the policy goes to its ``policy/``.
        config: TOML file whose values override the defaults.
        split: Images to train on; ``"train"`` if left out.
        device: Device that computes the gradients; the CPU if left out.
        on_bad_image: What to do with an image that cannot be decoded; ``"fail"`` if left out.
        label_map: File that says which of the backbone's classes each class of the data set is: JSON, CSV, or its class
            names, one a line. If left out: by name, else by number or in order.
        label_order: How class names that the backbone does not know are its classes: ``"own"`` (the data set's order),
            ``"number"`` (the order of the numbers in the names) or ``"index"`` (the number is the class, from 0).
        threads: Threads of a model that is given as a folder.
        progress: Whether to write progress to ``sys.stderr``.
        callback: Called with every entry's figures (those of ``log.jsonl``, and ``steps``).
        **overrides: Keys of the configuration, ``images=4_096`` or ``parts=2``: they override the file.
            ``vitrim train-metric --print-config`` shows all keys.

    Raises:
        VitrimError: If the arguments do not fit each other, or a file cannot be read or written.
        KeyboardInterrupt: After Ctrl-C, with the last finished step saved.
    """
    finished = _vitrim.train_metric(
        model if isinstance(model, _vitrim.Model) else load(model, threads=threads),
        data,
        out=out,
        config=config,
        set=settings(overrides),
        split=split,
        device=device,
        on_bad_image=on_bad_image,
        label_map=label_map,
        label_order=label_order,
        teller=Teller(progress, callback),
    )
    return MetricRun(
        folder=Path(finished["folder"]),
        policy=Path(finished["policy"]),
        label_notes=finished["label_notes"],
        layout_notes=finished["layout_notes"],
    )


def finetune(
    model: Model,
    data: PathOrStr,
    *,
    out: Optional[PathOrStr] = None,
    config: Optional[PathOrStr] = None,
    split: Optional[str] = None,
    held_out_split: Optional[str] = None,
    device: Optional[Literal["cpu", "gpu"]] = None,
    weights: Optional[Literal["f32", "bf16"]] = None,
    on_bad_image: Optional[OnBadImage] = None,
    label_map: Optional[PathOrStr] = None,
    label_order: Optional[LabelOrder] = None,
    progress: bool = True,
    callback: Optional[Callable[[dict[str, Any]], object]] = None,
    **overrides: Any,
) -> TunedRun:
    """Fine-tunes the backbone under its policy, to recover accuracy: ``vitrim finetune``.

    Ctrl-C stops the training after the current step, and raises ``KeyboardInterrupt``; so does an exception of
    ``callback``, which is raised then. The same call continues the run.

    Args:
        model: A model that was loaded from a checkpoint, with a trained policy, whose current point is used; without
            a policy, the dense control is trained. The result keeps the checkpoint's layout (timm's or transformers').
        data: Data set; labels are used if ``label_weight`` is above 0, and to report top-1.
        out: Run folder, ``runs/finetune`` if left out; the backbone goes to its ``model/``, the policy to ``policy/``.
        config: TOML file whose values override the defaults.
        split: Images to train on; ``"train"`` if left out.
        held_out_split: Images for choosing the best weights; ``"calibration"`` if left out.
        device: Device that computes the gradients; the CPU if left out.
        weights: Type of the written weights; f32 if left out.
        on_bad_image: What to do with an image that cannot be decoded; ``"fail"`` if left out.
        label_map: File that says which of the backbone's classes each class of the data set is: JSON, CSV, or its class
            names, one a line. If left out: by name, else by number or in order.
        label_order: How class names that the backbone does not know are its classes: ``"own"`` (the data set's order),
            ``"number"`` (the order of the numbers in the names) or ``"index"`` (the number is the class, from 0).
        progress: Whether to write progress to ``sys.stderr``.
        callback: Called with every entry's figures (those of ``log.jsonl``, and ``steps``).
        **overrides: Keys of the configuration, ``images=100_000`` or ``augment={"crop_padding": 4}``: they override the
            file. ``vitrim finetune --print-config`` shows all keys.

    Raises:
        VitrimError: If the arguments do not fit each other, or a file cannot be read or written.
        KeyboardInterrupt: After Ctrl-C, with the last finished step saved.
    """
    finished = _vitrim.finetune(
        model,
        data,
        out=out,
        config=config,
        set=settings(overrides),
        split=split,
        held_out_split=held_out_split,
        device=device,
        weights=weights,
        on_bad_image=on_bad_image,
        label_map=label_map,
        label_order=label_order,
        teller=Teller(progress, callback),
    )
    return TunedRun(
        folder=Path(finished["folder"]),
        model=Path(finished["model"]),
        policy=None if finished["policy"] is None else Path(finished["policy"]),
        held_out=finished["held_out"],
        label_notes=finished["label_notes"],
        layout_notes=finished["layout_notes"],
    )


def settings(overrides: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested keys as ``a.b=value``, with values in TOML (whose scalars and lists are those of JSON)."""
    lines: list[str] = []
    for key, value in overrides.items():
        if isinstance(value, dict):
            lines += settings(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}={json.dumps(value)}")
    return lines
