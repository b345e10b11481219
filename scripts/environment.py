"""A virtual environment of its own for a script that needs packages."""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path


def enter(folder, packages):
    """Continues the running script in the virtual environment `folder`, after `packages` are installed there.

    The environment is made if need be. A mark in it says which packages it has, so that pip runs once.
    """
    folder = Path(folder)
    python = folder / "bin" / "python"
    mark = folder / f".has-{hashlib.sha256(' '.join(packages).encode()).hexdigest()[:16]}"
    if not mark.exists():
        print(f"installing {', '.join(packages)} into {folder}", file=sys.stderr, flush=True)
        if not python.exists():
            venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, stdout=sys.stderr)
        mark.touch()
    if Path(sys.prefix).resolve() != folder.resolve():
        os.execv(python, [str(python), *sys.argv])
