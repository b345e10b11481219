"""Backbones from folders, and from live timm modules."""

from __future__ import annotations

import json
import math
import os
import tempfile
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np

from vitrim import _vitrim

if TYPE_CHECKING:
    import numpy.typing as npt

    from vitrim import Model, Pruner
    from vitrim._vitrim import Dtype

    Policy = Union[str, "os.PathLike[str]", Pruner]

#: What a timm ``VisionTransformer`` of plain blocks has, and other models of timm lack in one place or another.
PLAIN = (
    "patch_embed.proj",
    "patch_embed.img_size",
    "blocks.0.attn.qkv",
    "blocks.0.attn.num_heads",
    "blocks.0.mlp.fc1",
    "blocks.0.mlp.act",
    "fc_norm",
    "global_pool",
    "embed_dim",
    "num_classes",
)


def load(
    model: Union[str, os.PathLike[str]],
    policy: Optional[Policy] = None,
    dtype: Dtype = "f32",
    threads: Optional[int] = None,
    img_size: Union[int, tuple[int, int], None] = None,
) -> Model:
    """Opens a checkpoint folder, with who shall decide which tokens stay.

    Args:
        model: Folder as the Hugging Face Hub has it (``config.json``, ``model.safetensors``).
        policy: Folder of a trained policy; or a hand-made method with its keep ratio, ``"cls-attention:0.7"`` (also
            ``random``, ``evit``, ``ats``, ``similarity``, ``tome``, ``tome-plain``; one ratio is taken to the power
            of the stage, several are one a stage); or an instance of a subclass of :class:`vitrim.Pruner`; or None
            for the dense model.
        dtype: In what the backbone multiplies. A drop is certified in the dtype that the policy was calibrated in;
            in another, a ``UserWarning`` says so.
        threads: Threads of this model's own; those of the process, one a core, if left out.
        img_size: Another input size than the checkpoint's, pixels: a side, or height and width; position embeddings are
            resampled as the checkpoint's own library does it.

    Raises:
        VitrimError: If the checkpoint or the policy cannot be read, or do not fit.
    """
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    return _vitrim.load(model, policy, dtype=dtype, threads=threads, img_size=size)


def from_timm(
    module: Any,
    policy: Optional[Policy] = None,
    dtype: Dtype = "f32",
    threads: Optional[int] = None,
) -> Model:
    """Takes a live timm ``VisionTransformer``: its weights as they are now, its geometry and its preprocessing.

    The weights are copied; training the module further does not change the model. The other arguments are those of
    :func:`load`.

    Raises:
        TypeError: If it is no timm Vision Transformer.
        VitrimError: If its geometry is not one that vitrim runs.
    """
    config = timm_config(module)
    weights = {name: np.ascontiguousarray(_array(value)) for name, value in module.state_dict().items()}
    origin = f"timm:{config['architecture']}"
    with tempfile.TemporaryDirectory(prefix="vitrim-timm-") as folder:
        _vitrim.write_checkpoint(folder, json.dumps(config), list(weights.items()))
        # The weights are packed when it returns: nothing reads the folder again.
        try:
            return _vitrim.load(folder, policy, dtype=dtype, threads=threads, origin=origin)
        except _vitrim.VitrimError as error:
            # Nobody else knows that folder.
            raise _vitrim.VitrimError(str(error).replace(folder, origin)) from None


def timm_config(module: Any) -> dict[str, Any]:
    """``config.json`` of a live timm module, as timm itself would push it to the Hub."""
    for part in PLAIN:
        try:
            attrgetter(part)(module)
        except AttributeError:
            name = type(module).__qualname__
            raise TypeError(f"{name} is no timm VisionTransformer of plain blocks (it has no {part})") from None
    pretrained = dict(getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None) or {})
    distilled = getattr(module, "dist_token", None) is not None
    architecture = pretrained.get("architecture")
    unnamed = "deit_tiny_distilled_patch16_224" if distilled else "vit_tiny_patch16_224"
    block, norm = module.blocks[0], _final_norm(module)
    if norm is None or abs(norm.eps - 1e-6) > 1e-9:
        given = "none" if norm is None else f"a {type(norm).__name__} of epsilon {norm.eps}"
        raise _vitrim.VitrimError(f"the final norm is {given}; vitrim runs timm's LayerNorm of epsilon 1e-6")
    args: dict[str, Any] = {
        "img_size": list(module.patch_embed.img_size),
        "patch_size": list(module.patch_embed.patch_size),
        "embed_dim": module.embed_dim,
        "depth": len(module.blocks),
        "num_heads": block.attn.num_heads,
        "mlp_ratio": _ratio(block.mlp.fc1.out_features, module.embed_dim),
        "num_classes": module.num_classes,
        "global_pool": module.global_pool,
        "in_chans": module.patch_embed.proj.in_channels,
        "class_token": getattr(module, "cls_token", None) is not None,
        "qkv_bias": block.attn.qkv.bias is not None,
        "fc_norm": _is_norm(module.fc_norm),
    }
    # What is off in a plain Vision Transformer is only said where it is on.
    scale = getattr(getattr(block, "ls1", None), "gamma", None)
    mlp, activation = type(block.mlp).__name__, type(block.mlp.act).__name__
    gated = (mlp, activation) == ("GluMlp", "SiLU")
    # DINOv2's giant has a SwiGLU by name.
    by_name = gated and "giant" in (architecture or "") and "dinov2" in (architecture or "")
    unusual: dict[str, Any] = {
        "init_values": None if scale is None else 1e-5,
        "qk_norm": _is_norm(getattr(block.attn, "q_norm", None)),
        "reg_tokens": getattr(module, "num_reg_tokens", 0),
        "no_embed_class": bool(getattr(module, "no_embed_class", False)),
        "pre_norm": _is_norm(getattr(module, "norm_pre", None)),
        "pool_include_prefix": bool(getattr(module, "pool_include_prefix", False)),
        "mlp_layer": None if mlp == "Mlp" or by_name else mlp,
        "act_layer": None if activation == "GELU" or by_name else activation,
    }
    args.update({key: value for key, value in unusual.items() if value})
    return {
        "architecture": architecture or unnamed,
        "num_classes": module.num_classes,
        "global_pool": module.global_pool,
        "model_args": args,
        "pretrained_cfg": json.loads(json.dumps(pretrained, default=lambda _: None)),
    }


def _final_norm(module: Any) -> Any:
    """The norm before or after pooling, whichever there is."""
    norms = [getattr(module, name, None) for name in ("norm", "fc_norm")]
    return next((norm for norm in norms if hasattr(norm, "eps")), None)


def _is_norm(module: Any) -> bool:
    """Whether timm built something there, and not its ``Identity``."""
    return type(module).__name__ not in ("Identity", "NoneType")


def _ratio(hidden: int, dim: int) -> float:
    """The ratio that timm's ``int(dim * ratio)`` makes `hidden` of."""
    ratio = hidden / dim
    while int(dim * ratio) < hidden:
        ratio = math.nextafter(ratio, math.inf)
    return ratio


def _array(value: Any) -> npt.NDArray[np.float32]:
    """A tensor of any float type as float32."""
    array: npt.NDArray[np.float32] = value.detach().cpu().float().numpy()
    return array
