"""The stubs agree with the compiled module."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import vitrim
from vitrim import _vitrim

PACKAGE = Path(vitrim.__file__).parent


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file() and (PACKAGE / "_vitrim.pyi").is_file()


def test_stubs_and_module_have_the_same_names() -> None:
    stubs = ast.parse((PACKAGE / "_vitrim.pyi").read_text(encoding="utf-8"))
    classes = {node.name: node for node in stubs.body if isinstance(node, ast.ClassDef)}
    functions = {node.name: node for node in stubs.body if isinstance(node, ast.FunctionDef)}
    only_types = {"SupportsDlpack", "PilImage", "Readable"}
    public = {name for name in dir(_vitrim) if not name.startswith("_")}
    assert (classes.keys() | functions.keys()) - only_types == public
    for name, stub in functions.items():
        signature = inspect.signature(getattr(_vitrim, name))
        stubbed = [arg.arg for arg in [*stub.args.args, *stub.args.kwonlyargs]]
        assert stubbed == list(signature.parameters), name
    for name in classes.keys() - only_types - {"VitrimError"}:
        members = {node.name for node in classes[name].body if isinstance(node, ast.FunctionDef)}
        there = {member for member in vars(getattr(_vitrim, name)) if not member.startswith("_")}
        assert {member for member in members if not member.startswith("_")} == there, name


def test_mypy_agrees(tmp_path: Path) -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("SKIPPED: mypy is not installed")
    # As whoever has installed the package: by its name, and from a folder of his own.
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--package", "vitrim"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
