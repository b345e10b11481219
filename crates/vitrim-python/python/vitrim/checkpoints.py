"""Backbones from folders, and from live timm modules."""

from __future__ import annotations

import json
import math
import os
import tempfile
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np

from vitrim import _vitrim

if TYPE_CHECKING:
    import numpy.typing as npt

    from vitrim import Model, Pruner
    from vitrim._vitrim import Dtype

    Policy = Union[str, "os.PathLike[str]", Pruner]

def load(
    model: Union[str, os.PathLike[str]],
    policy: Optional[Policy] = None,
    dtype: Dtype = "f32",
    threads: Optional[int] = None,
    img_size: Union[int, tuple[int, int], None] = None,
    classes: Union[str, os.PathLike[str], None] = None,
) -> Model:
    """Opens a checkpoint folder, with a pruner.

    Args:
        model: Folder in the layout of the Hugging Face Hub (``config.json``, ``model.safetensors``).
        policy: Folder of a trained policy; or a hand-made method with its keep ratio, ``"cls-attention:0.7"`` (also
            ``random``, ``evit``, ``ats``, ``similarity``, ``tome``, ``tome-plain``; one ratio is taken to the power
            of the stage, several are one per stage); or an instance of a subclass of :class:`vitrim.Pruner`; or None
            for the dense model.
        dtype: Data type of the backbone's arithmetic. A drop is certified only for the dtype of the calibration; for
            another dtype there is a ``UserWarning``.
        threads: Size of this model's own thread pool; the process's threads, one per core, if left out.
        img_size: Another input size than the checkpoint's, pixels: a side, or height and width; position embeddings are
            resampled as the checkpoint's own library does.
        classes: File of text embeddings (safetensors or npz) with names and a scale, with which an image tower (CLIP,
            SigLIP) becomes a classifier.

    Raises:
        VitrimError: If the checkpoint or the policy cannot be read, or do not fit.
    """
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    return _vitrim.load(model, policy, dtype=dtype, threads=threads, img_size=size, classes=classes)


def restored(
    place: str,
    policy: Optional[Policy],
    dtype: Dtype,
    threads: Optional[int],
    img_size: Optional[tuple[int, int]],
    dialled: dict[str, Any],
    fingerprint: str,
    classes: Optional[str] = None,
) -> Model:
    """A pickled model, loaded again from where it came, with the same policy and settings.

    Raises:
        VitrimError: If it cannot be loaded, or has other weights than when it was pickled.
    """
    model = _vitrim.load(place, policy, dtype=dtype, threads=threads, img_size=img_size, classes=classes)
    if model.fingerprint != fingerprint:
        raise _vitrim.VitrimError(
            f"{place}: has other weights than when the model was pickled; load it with vitrim.load and pickle it again"
        )
    if dialled:
        model.dial(**dialled)
    return model


def from_timm(
    module: Any,
    policy: Optional[Policy] = None,
    dtype: Dtype = "f32",
    threads: Optional[int] = None,
) -> Model:
    """Opens a live timm ``VisionTransformer`` or ``Eva``: its current weights, its geometry and its preprocessing.

    It may be compiled (``torch.compile``) or wrapped (``DataParallel``), as a whole or in parts. The weights are
    copied; training the module further does not change the model. The other arguments are those of :func:`load`.

    Raises:
        TypeError: If it is not a timm Vision Transformer.
        VitrimError: If its geometry is not supported.
    """
    module = _bare(module)
    config = timm_config(module)
    weights = {_bare_name(name): np.ascontiguousarray(_array(value)) for name, value in module.state_dict().items()}
    origin = f"timm:{config['architecture']}"
    with tempfile.TemporaryDirectory(prefix="vitrim-timm-") as folder:
        _vitrim.write_checkpoint(folder, json.dumps(config), list(weights.items()))
        # The weights are packed when ``load`` returns: nothing reads the folder again.
        try:
            return _vitrim.load(folder, policy, dtype=dtype, threads=threads, origin=origin)
        except _vitrim.VitrimError as error:
            # The temporary folder means nothing to the user.
            raise _vitrim.VitrimError(str(error).replace(folder, origin)) from None


#: Attributes by which a wrapper holds the module: of ``torch.compile``, and of ``DataParallel`` and its relatives.
_WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "AveragedModel": "module",
}


def _bare(module: Any) -> Any:
    """The module inside wrappers."""
    while (name := _WRAPPERS.get(type(module).__name__)) and hasattr(module, name):
        module = getattr(module, name)
    return module


def _bare_name(name: str) -> str:
    """The name of a tensor without the steps of wrappers of parts, as in ``blocks.0._orig_mod.norm1.weight``."""
    return ".".join(step for step in name.split(".") if step not in _WRAPPERS.values())


def timm_config(module: Any) -> dict[str, Any]:
    """``config.json`` of a live timm module, with the fields that timm pushes to the Hub."""
    unnamed, questions = _vitrim.timm_questions([kind.__name__ for kind in type(module).__mro__])
    pretrained = dict(getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None) or {})
    answers = {argument: _answer(module, how, paths) for argument, how, paths in questions}
    return {
        "architecture": pretrained.get("architecture") or unnamed,
        "num_classes": answers["num_classes"],
        "model_args": answers,
        "pretrained_cfg": json.loads(json.dumps(pretrained, default=lambda _: None)),
    }


def _answer(module: Any, how: str, paths: list[str]) -> Any:
    """The value of an argument of `module`, read from the attributes `paths` in the way `how`."""
    if how == "first":
        found = (_optional(module, path) for path in paths)
        return next((value for value in found if value is not None), None)
    if how == "any":
        return any(_is_built(_optional(module, path)) for path in paths)
    if how == "ratio":
        *overs, under = paths
        over = next((path for path in overs if _optional(module, path) is not None), overs[0])
        return _ratio(_attribute(module, over, required=True), _attribute(module, under, required=True))
    values = [_attribute(module, path, required=how != "built") for path in paths]
    if how == "value":
        return values[0]
    if how == "length":
        return len(values[0])
    if how == "class":
        return type(values[0]).__name__
    assert how == "built", how
    return _is_built(values[0])


def _is_built(value: Any) -> bool:
    """Whether `value` is something: timm's ``Identity`` means that nothing was built."""
    return type(value).__name__ not in ("Identity", "NoneType")


def _optional(module: Any, path: str) -> Any:
    """The attribute at `path`; None if a step is missing."""
    try:
        return _attribute(module, path, required=True)
    except TypeError:
        return None


def _attribute(module: Any, path: str, required: bool) -> Any:
    """The attribute at `path`; None if only the last step is missing and it is not required."""
    *parents, last = path.split(".")
    value = module
    for step in parents:
        value = _step(module, value, step, path)
    return _step(module, value, last, path) if required else _bare(getattr(value, last, None))


def _step(module: Any, value: Any, step: str, path: str) -> Any:
    try:
        return _bare(value[int(step)] if step.isdigit() else getattr(value, step))
    except (AttributeError, IndexError, TypeError):
        name = type(module).__qualname__
        raise TypeError(f"{name} is no timm VisionTransformer of plain blocks (it has no {path})") from None


def _ratio(hidden: int, dim: int) -> float:
    """A ratio for which timm's ``int(dim * ratio)`` is `hidden`."""
    ratio = hidden / dim
    while int(dim * ratio) < hidden:
        ratio = math.nextafter(ratio, math.inf)
    return ratio


def _array(value: Any) -> npt.NDArray[np.float32]:
    """A tensor of any float type as float32."""
    array: npt.NDArray[np.float32] = value.detach().cpu().float().numpy()
    return array
