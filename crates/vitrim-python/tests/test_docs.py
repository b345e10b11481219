"""The Python blocks of README and of the guide run, in order."""

from __future__ import annotations

import doctest
import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import vitrim
import vitrim.pruner

REPOSITORY = Path(__file__).resolve().parents[3]


def blocks(page: Path) -> list[Any]:
    """The page's Python blocks, compiled with the page's own line numbers."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    padded = ((text[: block.start(1)].count("\n"), block.group(1)) for block in found)
    return [compile("\n" * before + source, str(page), "exec") for before, source in padded]


def world(place: Path, tiny: Path, data: Path, photo: Path) -> None:
    """`my/deit`, `my/images` and `photo.jpg` in `place`, as the pages have them."""
    shutil.copytree(tiny, place / "my/deit")
    shutil.copytree(data, place / "my/images")
    shutil.copy(photo, place / "photo.jpg")


def test_the_blocks_of_the_guide_run(
    tiny: Path, data: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    place = tmp_path / "place"
    world(place, tiny, data, photo)
    monkeypatch.chdir(place)
    names: dict[str, Any] = {"__name__": "docs"}
    guide = blocks(REPOSITORY / "docs/python.md")
    assert len(guide) >= 8
    for block in guide:
        exec(block, names)
    printed = capsys.readouterr().out
    assert "<vitrim.Model 'deit', dtype f32, policy: cls-attention:0.700,0.490,0.343>" in printed
    for left in ("runs/my/report.html", "runs/compare/report.html", "runs/my/policy/policy.json"):
        assert (place / left).is_file()


def test_the_six_lines_of_the_readme_run(
    tiny: Path,
    data: Path,
    photo: Path,
    trained: vitrim.Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    place = tmp_path / "place"
    world(place, tiny, data, photo)
    shutil.copytree(trained.folder, place / "runs/my")
    monkeypatch.chdir(place)
    (block,) = blocks(REPOSITORY / "README.md")
    exec(block, {"__name__": "docs"})
    name, cost = capsys.readouterr().out.splitlines()
    assert 0.0 < float(name.split()[-1]) <= 1.0, name
    assert re.fullmatch(r"\d+% of the dense model's MACs", cost), cost


def test_the_examples_of_docstrings_run() -> None:
    assert doctest.testmod(vitrim.pruner).failed == 0
    assert doctest.testmod(vitrim.pruner).attempted > 0


def test_everything_public_is_documented() -> None:
    for name in vitrim.__all__:
        thing = getattr(vitrim, name)
        assert name == "__version__" or inspect.getdoc(thing), name
        if inspect.isclass(thing) and not issubclass(thing, Exception):
            for member, value in vars(thing).items():
                if not member.startswith("_") and (callable(value) or inspect.isdatadescriptor(value)):
                    assert inspect.getdoc(value), f"{name}.{member}"
