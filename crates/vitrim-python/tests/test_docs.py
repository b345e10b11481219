"""The documentation's blocks run, in order."""

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


def test_the_blocks_of_the_page_run(
    tiny: Path, data: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    page = REPOSITORY / "docs/python.md"
    text = page.read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) >= 8
    place = tmp_path / "place"
    shutil.copytree(tiny, place / "my/deit")
    shutil.copytree(data, place / "my/images")
    shutil.copy(photo, place / "photo.jpg")
    monkeypatch.chdir(place)
    names: dict[str, Any] = {"__name__": "docs"}
    for block in blocks:
        # Line numbers of the page in what is raised.
        before = text[: block.start(1)].count("\n")
        exec(compile("\n" * before + block.group(1), str(page), "exec"), names)
    printed = capsys.readouterr().out
    assert "<vitrim.Model 'deit', dtype f32, policy: cls-attention:0.700,0.490,0.343>" in printed
    for left in ("runs/my/report.html", "runs/compare/report.html", "runs/my/policy/policy.json"):
        assert (place / left).is_file()


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
