"""Fixtures of the tests: the shared folder, the bundled backbone, and small generated data."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import pytest
from PIL import Image

import vitrim
from scratch import drawn_classes, tiny_checkpoint

REPOSITORY = Path(__file__).resolve().parents[3]
# The servers and loads of the scripts that measure.
sys.path.insert(0, str(REPOSITORY / "scripts"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Adds a skipped test to the file that VITRIM_SKIPS names, as the Rust tests do (crate vitrim-skips)."""
    note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """The same for a file that is skipped whole."""
    note(report)


def note(report: pytest.TestReport | pytest.CollectReport) -> None:
    file = os.environ.get("VITRIM_SKIPS")
    if file and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ").removeprefix("SKIPPED: ")
        with open(file, "a") as skips:
            skips.write(f"{report.nodeid}: {reason}\n")


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(os.environ.get("VITRIM_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"SKIPPED: no shared folder at {folder}; set VITRIM_SHARED")
    return folder


@pytest.fixture(scope="session")
def bundled() -> Path:
    """A trained Vision Transformer of 8 blocks on 144 patch tokens, in every checkout."""
    return REPOSITORY / "crates/vitrim/assets/backbone"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights: 4 blocks on 16 patch tokens of 32 channels, 3 classes."""
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled images for `tiny`: train, validation and test folders of three classes."""
    return drawn_classes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def trained(tiny: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> vitrim.Run:
    """A short run on them, calibrated to a drop that everything passes."""
    out = tmp_path_factory.mktemp("run") / "run"
    return vitrim.train(tiny, data, out=out, max_drop=100.0, confidence=0.5, progress=False, **SHORT)


#: A few updates of agents that leave and do not merge: only then are survivors the whole story.
SHORT = {"preset": "drop", "updates": 4, "images_per_update": 8, "reward": {"reference_images": 16}}


@pytest.fixture()
def photo(tmp_path: Path) -> Path:
    """A JPEG of no particular size."""
    values = np.random.default_rng(5).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    path = tmp_path / "photo.jpg"
    Image.fromarray(values).resize((131, 97)).save(path, quality=95)
    return path


@pytest.fixture(scope="session")
def binary() -> Path:
    """The program `vitrim`, which has the server."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    path = Path(os.environ.get("VITRIM_BINARY", target / "release/vitrim"))
    if not path.is_file():
        pytest.skip(f"SKIPPED: no {path}; run `cargo build --release --workspace --bin vitrim`, or set VITRIM_BINARY")
    return path


@pytest.fixture(scope="session")
def serve(binary: Path, tiny: Path) -> Callable[..., Any]:
    """Makes a server of `tiny`, with more options; `with serve() as server`. It listens on `port` and on `grpc_port`."""
    from serve_process import Server, free_port

    def start(*options: object, model: object = None) -> Server:
        port, grpc_port = free_port(), free_port()
        command = [binary, "serve", "--model", model or f"tiny={tiny}", "--threads", 2, "--port", port]
        # No load balancer has to be told, unless a test says otherwise.
        server = Server([*command, "--grpc-port", grpc_port, *options], port, env={"VITRIM_SERVE_DRAIN": "0s"})
        server.grpc_port = grpc_port
        return server

    return start


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any]) -> Iterator[Any]:
    """A server of `tiny` for the tests of one file."""
    with serve() as running:
        yield running


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A local Ray of three CPUs with a small object store."""
    ray = pytest.importorskip("ray", reason="SKIPPED: ray[data] is not installed")
    pytest.importorskip("ray.data", reason="SKIPPED: ray[data] is not installed")
    options = {"include_dashboard": False, "object_store_memory": 100 << 20, "log_to_driver": False}
    ray.init(num_cpus=3, ignore_reinit_error=True, **options)
    yield
    ray.shutdown()
