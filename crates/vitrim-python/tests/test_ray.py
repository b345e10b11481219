"""Ray: classes for ``map_batches``, and measuring over workers, one of which is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vitrim

ray = pytest.importorskip("ray", reason="SKIPPED: ray[data] is not installed")
pytest.importorskip("ray.data", reason="SKIPPED: ray[data] is not installed")
pytestmark = pytest.mark.usefixtures("cluster")

POLICY = "cls-attention:0.7"


def images(data: Path) -> list[str]:
    return sorted(str(path) for path in (data / "test").rglob("*.png"))


def embedded(rows: Any, tiny: Path, **options: Any) -> list[dict[str, Any]]:
    """The rows of a pool of two workers."""
    import vitrim.ray

    pool = ray.data.ActorPoolStrategy(size=2)
    mapped = rows.map_batches(
        options.pop("worker", vitrim.ray.Embedder),
        fn_constructor_args=(str(tiny), POLICY),
        fn_constructor_kwargs=options,
        batch_size=4,
        compute=pool,
        num_cpus=1,
    )
    return sorted(mapped.take_all(), key=lambda row: row.get("path", ""))


def test_paths_bytes_and_arrays_give_one_answer(tiny: Path, data: Path) -> None:
    import vitrim.ray

    files = images(data)
    model = vitrim.load(tiny, POLICY)
    wanted = model.features(model.preprocess(files))
    rows = embedded(ray.data.from_items([{"path": path} for path in files]), tiny)
    assert [row["path"] for row in rows] == files
    # Batches are other ones here: equal to rounding.
    np.testing.assert_allclose(np.stack([row["features"] for row in rows]), wanted, atol=1e-5)
    worker = vitrim.ray.Embedder(tiny, POLICY)
    by_path = worker({"path": np.array(files[:4], object)})
    encoded = np.array([Path(path).read_bytes() for path in files[:4]], object)
    by_bytes = worker({"bytes": encoded, "label": np.arange(4)})
    arrays = np.stack([np.asarray(image) for image in map(opened, files[:4])])
    by_array = worker({"image": arrays})
    for other in (by_bytes, by_array):
        assert np.array_equal(other["features"], by_path["features"])
    assert set(by_bytes) == {"label", "features"}, "bytes are not passed on"
    classes = vitrim.ray.Classifier(tiny, POLICY)({"path": np.array(files[:4], object)})
    direct = model.predict(files[:4], top_k=1)
    assert list(classes["class"]) == [answer.classes[0].class_index for answer in direct]
    assert list(classes["gmacs"]) == [answer.gmacs for answer in direct]


def opened(path: str) -> Any:
    from PIL import Image

    return Image.open(path).convert("RGB")


def test_bad_images_and_columns_are_refused_or_left_out(tiny: Path, data: Path) -> None:
    import vitrim.ray

    batch = {"bytes": np.array([Path(images(data)[0]).read_bytes(), b"no image"], object), "key": np.array(["a", "b"])}
    with pytest.raises(vitrim.VitrimError, match="image 1"):
        vitrim.ray.Embedder(tiny)(batch)
    left = vitrim.ray.Embedder(tiny, on_bad_image="skip")(batch)
    assert list(left["key"]) == ["a"] and left["features"].shape[0] == 1
    with pytest.raises(vitrim.VitrimError, match="no column"):
        vitrim.ray.Embedder(tiny)({"label": np.arange(2)})
    with pytest.raises(vitrim.VitrimError, match="features="):
        vitrim.ray.Embedder(tiny, features="tokens")


def slow() -> type:
    """An Embedder that leaves its process id, so that a test can kill it while it works."""

    class Slow:  # Within a function: workers cannot import this file.
        def __init__(self, model: str, policy: str, pids: str) -> None:
            import vitrim.ray

            self.inner = vitrim.ray.Embedder(model, policy)
            (Path(pids) / str(os.getpid())).touch()

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            time.sleep(0.3)
            return self.inner(batch)

    return Slow


def kill_one(pids: Path, killed: list[int]) -> None:
    """Kills the first worker that leaves its id, soon after."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        there = sorted(pids.iterdir())
        if there:
            time.sleep(0.5)
            os.kill(int(there[0].name), signal.SIGKILL)
            killed.append(int(there[0].name))
            return
        time.sleep(0.05)


def test_of_a_killed_worker_nothing_is_lost_or_doubled(tiny: Path, data: Path, tmp_path: Path) -> None:
    files = images(data)
    killed: list[int] = []
    killer = threading.Thread(target=kill_one, args=(tmp_path, killed))
    killer.start()
    rows = embedded(ray.data.from_items([{"path": path} for path in files]), tiny, worker=slow(), pids=str(tmp_path))
    killer.join()
    assert killed and len(list(tmp_path.iterdir())) >= 3, "another worker took the place of the killed one"
    assert [row["path"] for row in rows] == files


def test_evaluate_and_calibrate_give_what_one_process_gives(
    tiny: Path, data: Path, trained: vitrim.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vitrim.ray

    model = vitrim.load(tiny, trained.policy)
    kinds: dict[str, Any] = {"batch": 8, "progress": False}
    one = vitrim.evaluate(model, data, **kinds)
    killed = []
    measurers = vitrim.ray._measurers

    def mortal(*arguments: Any) -> list[Any]:
        """Workers, the first of which dies at once and once more a little later."""
        made = measurers(*arguments)
        for delay in (0.0, 0.7):
            timer = threading.Timer(delay, lambda: (ray.kill(made[0], no_restart=False), killed.append(1)))
            timer.start()
        return made

    monkeypatch.setattr(vitrim.ray, "_measurers", mortal)
    assert vitrim.ray.evaluate(model, data, workers=2, **kinds) == one
    assert killed
    monkeypatch.undo()

    given: dict[str, Any] = {"max_drop": 60.0, "confidence": 0.5, "progress": False}
    one = vitrim.calibrate(model, data, **given)
    read_out = (Path(trained.policy) / "policy.json").read_bytes()
    assert vitrim.ray.calibrate(model, data, workers=2, **given) == one
    assert (Path(trained.policy) / "policy.json").read_bytes() == read_out


def test_what_workers_cannot_measure_is_refused(tiny: Path, data: Path) -> None:
    import vitrim.ray

    model = vitrim.load(tiny)
    with pytest.raises(vitrim.VitrimError, match="workers=0"):
        vitrim.ray.evaluate(model, data, workers=0)
    with pytest.raises(vitrim.VitrimError, match="dtome is fitted"):
        vitrim.ray.evaluate(model, data, workers=1, methods=["dtome"], keep=[0.7], progress=False)
