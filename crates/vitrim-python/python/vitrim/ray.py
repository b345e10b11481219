"""Many processes with Ray: classes for Ray Data's ``map_batches``, and ``evaluate`` and ``calibrate`` over several workers.

>>> import ray, vitrim.ray
>>> rows = ray.data.read_binary_files("photos", include_paths=True)  # doctest: +SKIP
>>> rows = rows.map_batches(vitrim.ray.Embedder, fn_constructor_args=("my/deit",),
...                         compute=ray.data.ActorPoolStrategy(size=4), num_cpus=2)  # doctest: +SKIP

Images are decoded inside the worker, so that pixels never enter the object store. Ray runs the tasks of a worker that
died again, and takes the result of each once.
"""

from __future__ import annotations

import logging
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, Iterator, Optional

import numpy as np
import ray  # type: ignore[import-not-found, unused-ignore]

from vitrim import _vitrim
from vitrim.checkpoints import load
from vitrim.progress import Teller

if TYPE_CHECKING:
    from vitrim import Model
    from vitrim._vitrim import Dtype
    from vitrim.checkpoints import Policy
    from vitrim.measuring import PathOrStr
    from vitrim.training import LabelOrder, OnBadImage

    Columns = dict[str, Any]

#: Columns that may hold the images, as Ray's readers call them: arrays, encoded files, paths.
_IMAGES = ("image", "bytes", "path", "item")
#: Shares of a pass for each worker: with several, one that is slow or died costs less time.
_SHARES = 4
#: Seconds between two looks at what has arrived.
_PATIENCE = 0.2


class _Worker:
    """A model that answers the images of a batch, on as many threads as Ray gives the worker."""

    def __init__(
        self,
        model: PathOrStr,
        policy: Optional[Policy] = None,
        *,
        column: Optional[str] = None,
        on_bad_image: OnBadImage = "fail",
        dtype: Dtype = "f32",
        threads: Optional[int] = None,
        img_size: Any = None,
        classes: Optional[PathOrStr] = None,
    ) -> None:
        """Loads the model.

        Args:
            model: Checkpoint folder, or ``hf://owner/name``.
            policy: As for :func:`vitrim.load`.
            column: Column with the images: paths, bytes of image files, or uint8 arrays [H, W, 3]; the first of
                ``image``, ``bytes``, ``path`` and ``item`` if left out. Its pixels and bytes are not passed on, paths are.
            on_bad_image: ``"skip"`` leaves out the rows of images that cannot be decoded, and logs each.
            dtype: As for :func:`vitrim.load`, like the arguments below.
            threads: Threads of this worker; the CPUs that Ray has given it (``num_cpus``) if left out.
        """
        if on_bad_image not in ("fail", "skip"):
            raise _vitrim.VitrimError(f'on_bad_image={on_bad_image!r}: use "fail" or "skip"')
        self.column = column
        self.skips = on_bad_image == "skip"
        self.model = load(model, policy, dtype, threads or _cpus(), img_size, classes)

    def __call__(self, batch: Columns) -> Columns:
        """The other columns of `batch` with the answers."""
        column = self.column or next((name for name in _IMAGES if name in batch), None)
        if column is None or column not in batch:
            wanted = column or "image, bytes, path or item"
            raise _vitrim.VitrimError(f"no column {wanted} among {', '.join(batch)}; name the images with column=")
        images = list(batch[column])
        try:
            answers = self.answer(images)
        except _vitrim.VitrimError:
            if not self.skips:
                raise
            good = [place for place, image in enumerate(images) if self._decodes(image)]
            batch = {name: values[good] for name, values in batch.items()}
            answers = self.answer([images[place] for place in good])
        paths = [isinstance(image, str) for image in images]
        kept = {name: values for name, values in batch.items() if name != column or all(paths)}
        return {**kept, **answers}

    def answer(self, images: list[Any]) -> Columns:
        """The columns for `images`."""
        raise NotImplementedError

    def _decodes(self, image: Any) -> bool:
        try:
            self.model.preprocess([image])
        except _vitrim.VitrimError as error:
            logging.getLogger(__name__).warning("left out: %s", error)
            return False
        return True


class Classifier(_Worker):
    """Adds ``class``, ``class_name``, ``probability`` and ``gmacs`` of each image."""

    def answer(self, images: list[Any]) -> Columns:
        answers = self.model.predict(images, top_k=1)
        return {
            "class": np.array([answer.classes[0].class_index for answer in answers], np.int64),
            "class_name": np.array([answer.classes[0].name or "" for answer in answers], object),
            "probability": np.array([answer.classes[0].probability for answer in answers], np.float64),
            "gmacs": np.array([answer.gmacs for answer in answers], np.float64),
        }


class Embedder(_Worker):
    """Adds ``features``, float32 [D] of each image: the pooled ones or, with ``features="embedding"``, those that are compared
    with texts (CLIP, SigLIP). The other arguments are those of :class:`Classifier`.
    """

    def __init__(self, model: PathOrStr, policy: Optional[Policy] = None, *, features: str = "pooled", **more: Any) -> None:
        if features not in ("pooled", "embedding"):
            raise _vitrim.VitrimError(f'features={features!r}: use "pooled" or "embedding"')
        super().__init__(model, policy, **more)
        self.compute: Callable[[Any], Any] = self.model.features if features == "pooled" else self.model.embed

    def answer(self, images: list[Any]) -> Columns:
        return {"features": self.compute(self.model.preprocess(images))}


def evaluate(
    model: Model,
    data: PathOrStr,
    *,
    workers: int,
    num_cpus: int = 1,
    split: Optional[str] = None,
    images: Optional[int] = None,
    methods: Optional[list[str]] = None,
    keep: Optional[list[float]] = None,
    batch: Optional[int] = None,
    label_map: Optional[PathOrStr] = None,
    label_order: Optional[LabelOrder] = None,
    progress: bool = True,
) -> dict[str, Any]:
    """:func:`vitrim.evaluate` by several workers of `num_cpus` threads each: the same figures, bit for bit, on processors of
    the same kind. Every worker opens `model` and `data` by their paths. An image that cannot be decoded ends the work, no
    speeds are measured, and methods that are fitted to images are refused.
    """
    measurers = _measurers(model, data, split, label_map, label_order, workers, num_cpus)
    teller = Teller(progress)
    with _gathering(measurers, teller) as gather:
        return _vitrim.evaluate(
            model,
            data,
            split=split,
            images=images,
            methods=None if methods is None else list(methods),
            keep=None if keep is None else list(keep),
            speed=None,
            batch=batch,
            on_bad_image=None,
            label_map=label_map,
            label_order=label_order,
            report=None,
            teller=teller,
            gather=gather,
        )


def calibrate(
    model: Model,
    data: PathOrStr,
    *,
    workers: int,
    num_cpus: int = 1,
    out: Optional[PathOrStr] = None,
    max_drop: Optional[float] = None,
    max_drift: Optional[float] = None,
    confidence: Optional[float] = None,
    split: Optional[str] = None,
    images: Optional[int] = None,
    label_map: Optional[PathOrStr] = None,
    label_order: Optional[LabelOrder] = None,
    progress: bool = True,
) -> dict[str, Any]:
    """:func:`vitrim.calibrate` by several workers of `num_cpus` threads each: the same record, bit for bit, on processors of
    the same kind. Every worker opens `model` and `data` by their paths; only this process writes the policy. An image that
    cannot be decoded ends the work.
    """
    measurers = _measurers(model, data, split or "calibration", label_map, label_order, workers, num_cpus)
    teller = Teller(progress)
    with _gathering(measurers, teller) as gather:
        return _vitrim.calibrate(
            model,
            data,
            out=out,
            max_drop=max_drop,
            max_drift=max_drift,
            confidence=confidence,
            split=split,
            images=images,
            on_bad_image=None,
            label_map=label_map,
            label_order=label_order,
            teller=teller,
            gather=gather,
        )


class _Measurer:
    """A worker that measures shares of a data set."""

    def __init__(self, restored: Any, arguments: tuple[Any, ...], data: PathOrStr, *reading: Any) -> None:
        self.share = _vitrim.Share(restored(*arguments), data, *reading)

    def measure(self, task: str, first: int, images: int) -> bytes:
        return self.share.measure(task, first, images)


def _measurers(
    model: Model,
    data: PathOrStr,
    split: Optional[str],
    label_map: Optional[PathOrStr],
    label_order: Optional[str],
    workers: int,
    num_cpus: int,
) -> list[Any]:
    """The workers; Ray starts one that dies again, and repeats what it was doing."""
    if workers < 1 or num_cpus < 1:
        raise _vitrim.VitrimError(f"workers={workers}, num_cpus={num_cpus}: give at least 1 of each")
    reduced: Any = model.__reduce__()
    restored, (place, policy, dtype, _threads, *more) = reduced
    worker = ray.remote(num_cpus=num_cpus, max_restarts=-1, max_task_retries=-1)(_Measurer)
    arguments = (place, policy, dtype, num_cpus, *more)
    return [worker.remote(restored, arguments, data, split, label_map, label_order) for _ in range(workers)]


@contextmanager
def _gathering(measurers: list[Any], teller: Teller) -> Iterator[Callable[[str, int, int], list[bytes]]]:
    """What asks the `measurers` for the figures of a pass, in order. Ctrl-C ends it, and the workers end with the block."""
    stop = threading.Event()

    def gather(task: str, images: int, batch: int) -> list[bytes]:
        batches = -(-images // batch)
        step = batch * max(1, -(-batches // (_SHARES * len(measurers))))
        firsts = range(0, images, step)
        shares = [
            measurers[place % len(measurers)].measure.remote(task, first, min(step, images - first))
            for place, first in enumerate(firsts)
        ]
        waiting = shares
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_PATIENCE)
            ray.get(done)  # An error ends the work at once.
            if stop.is_set():
                raise KeyboardInterrupt
            teller.step("measuring shares", len(shares) - len(waiting), len(shares))
        return list(ray.get(shares))

    def interrupt(number: int, frame: Any) -> None:
        stop.set()
        raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, interrupt) if in_main else None
    try:
        yield gather
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)
        for measurer in measurers:
            ray.kill(measurer)


def _cpus() -> int:
    """The CPUs that Ray has given this actor; 1 elsewhere."""
    context: Any = ray.get_runtime_context() if ray.is_initialized() else None
    if context is None or context.get_actor_id() is None:
        return 1
    return max(1, int(context.get_assigned_resources().get("CPU", 1)))
