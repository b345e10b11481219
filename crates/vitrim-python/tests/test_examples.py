"""Every example runs on small data."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

import vitrim

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    tested = {"sklearn_on_features", "fastapi_service", "ray_map_batches"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_scikit_learn_on_features(tiny: Path, data: Path) -> None:
    pytest.importorskip("sklearn", reason="SKIPPED: scikit-learn is not installed")
    accuracy = example("sklearn_on_features").main(str(tiny), str(data))
    assert accuracy > 0.8, "three colours are easy to tell apart, chance is 0.33"


def test_fastapi_service(tiny: Path, photo: Path) -> None:
    pytest.importorskip("fastapi", reason="SKIPPED: fastapi is not installed")
    pytest.importorskip("httpx", reason="SKIPPED: httpx is not installed")
    from fastapi.testclient import TestClient

    model = vitrim.load(tiny, "cls-attention:0.7")
    with TestClient(example("fastapi_service").create(model)) as client:
        kind = {"content-type": "application/octet-stream"}
        answer = client.post("/predict", params={"top_k": 2}, content=photo.read_bytes(), headers=kind)
        assert answer.status_code == 200, answer.text
        with Image.open(photo) as image:
            (direct,) = model.predict([image], top_k=2)
        body = answer.json()
        assert [best["class"] for best in body["classes"]] == [best.class_index for best in direct.classes]
        assert body["classes"][0]["probability"] == pytest.approx(direct.classes[0].probability)
        assert body["kept"] == [11, 8, 5] and body["gmacs"] == direct.gmacs
        assert client.get("/model").json()["policy"].startswith("cls-attention")
        refused = client.post("/predict", content=b"hello", headers=kind)
        assert refused.status_code == 400 and "not an image" in refused.text


def test_ray_map_batches_with_two_workers(tiny: Path, data: Path) -> None:
    pytest.importorskip("ray.data", reason="SKIPPED: ray[data] is not installed")
    rows = example("ray_map_batches").main(str(tiny), str(data / "test"), workers=2)
    model = vitrim.load(tiny, "cls-attention:0.7")
    assert len(rows) == 36
    for row in rows[::7]:
        (direct,) = model.predict(row["path"], top_k=1)
        assert row["class"] == direct.classes[0].class_index
        assert row["probability"] == pytest.approx(direct.classes[0].probability)
