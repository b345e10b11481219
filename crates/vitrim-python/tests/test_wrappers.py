"""Wrappers of torch around a module, told by their classes' names: CI has no torch. `test_timm.py` has the real ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vitrim.checkpoints import _attribute, _bare, _bare_name


class OptimizedModule:
    """What `torch.compile` returns; of the module it shows nothing but `_orig_mod`."""

    def __init__(self, module: Any) -> None:
        self._orig_mod = module


class DataParallel:
    """What holds a module on several devices."""

    def __init__(self, module: Any) -> None:
        self.module = module


def test_the_module_inside_is_found_in_any_nesting() -> None:
    block = SimpleNamespace(attn=OptimizedModule(SimpleNamespace(num_heads=3)))
    inner = SimpleNamespace(blocks=[DataParallel(OptimizedModule(block))], head=OptimizedModule("a head"))
    assert _bare(OptimizedModule(DataParallel(inner))) is inner and _bare(inner) is inner
    assert _attribute(inner, "blocks.0.attn.num_heads", required=True) == 3
    assert _attribute(inner, "head", required=True) == _attribute(inner, "head", required=False) == "a head"


def test_names_of_tensors_lose_the_steps_of_wrappers() -> None:
    for given in ("blocks.0.norm1.weight", "module._orig_mod.blocks.0.module._orig_mod.norm1.weight"):
        assert _bare_name(given) == "blocks.0.norm1.weight"
