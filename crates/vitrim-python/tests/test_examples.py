"""Every example runs on small data."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

import pytest

import vitrim

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    tested = {"sklearn_on_features", "serve_client", "ray_map_batches"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_scikit_learn_on_features(tiny: Path, data: Path) -> None:
    pytest.importorskip("sklearn", reason="SKIPPED: scikit-learn is not installed")
    accuracy = example("sklearn_on_features").main(str(tiny), str(data))
    assert accuracy > 0.8, "three colours are easy to tell apart, chance is 0.33"


def test_serve_client(serve: Callable[..., Any], tiny: Path, photo: Path, capsys: Any) -> None:
    client = example("serve_client")
    direct = vitrim.load(tiny).predict(photo, top_k=1)[0]
    with serve() as server:
        url = f"http://127.0.0.1:{server.port}"
        client.main(url, str(photo))
        best = direct.classes[0]
        assert capsys.readouterr().out.startswith(f"{photo}: {best.name}, {best.probability:.0%}; ")
        answer = client.Client(url).predict(photo.read_bytes(), top_k=2, survivors="true")
        assert [one["class"] for one in answer["classes"]][0] == best.class_index and len(answer["classes"]) == 2
        assert answer["gmacs"] == direct.gmacs and answer["queue_ms"] >= 0.0
        with pytest.raises(RuntimeError, match="415: .*neither JPEG"):
            client.Client(url).predict(b"hello")


def test_ray_map_batches_with_two_workers(tiny: Path, data: Path, cluster: None) -> None:
    rows = example("ray_map_batches").main(str(tiny), str(data / "test"), workers=2).take_all()
    model = vitrim.load(tiny, "cls-attention:0.7")
    assert len(rows) == 36
    for row in rows[::7]:
        (direct,) = model.predict(row["path"], top_k=1)
        assert row["class"] == direct.classes[0].class_index
        assert row["probability"] == pytest.approx(direct.classes[0].probability)
