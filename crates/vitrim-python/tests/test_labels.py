"""Which of the backbone's classes the classes of a data set are, and what was guessed of that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import vitrim
from conftest import SHORT
from scratch import drawn_classes

#: Class folders whose order by text (1, 10, 2) is not their order by number.
FOLDERS = ("a1", "a2", "a10")


@pytest.fixture(scope="module")
def unknown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn classes under names that the backbone does not know."""
    data = drawn_classes(tmp_path_factory.mktemp("unknown"))
    for split in data.iterdir():
        for label, name in enumerate(FOLDERS):
            (split / f"class_{label}").rename(split / name)
    return data


def top1(model: vitrim.Model, data: Path, classes: dict[str, int]) -> float:
    """Top-1 of `model` on the test images of `data`, percent, if `classes` says what the folders are."""
    right = [
        answer.classes[0].class_index == class_index
        for name, class_index in classes.items()
        for answer in model.predict(data / "test" / name, top_k=1)
    ]
    return 100 * sum(right) / len(right)


def test_an_order_and_a_map_decide_what_a_class_is(tiny: Path, unknown: Path, tmp_path: Path) -> None:
    model = vitrim.load(tiny)

    def measured(**labels: Any) -> dict[str, Any]:
        return vitrim.evaluate(model, unknown, methods=["random"], keep=[1.0], progress=False, **labels)

    with pytest.raises(vitrim.VitrimError, match="two orders.*--label-order"):
        measured()
    with pytest.raises(vitrim.VitrimError, match="no such order of classes"):
        measured(label_order="alphabet")
    by_number = dict(zip(FOLDERS, range(3)))
    as_text = {name: sorted(FOLDERS).index(name) for name in FOLDERS}
    turned = {name: (label + 1) % 3 for name, label in by_number.items()}
    expected = {top1(model, unknown, classes) for classes in (by_number, as_text, turned)}
    assert len(expected) > 1, "the three readings give the same figure"
    label_map = tmp_path / "map.json"
    label_map.write_text(json.dumps(turned))
    for labels, classes in (
        ({"label_order": "number"}, by_number),
        ({"label_order": "own"}, as_text),
        ({"label_map": label_map}, turned),
    ):
        figures = measured(**labels)
        assert figures["dense_top1"] == pytest.approx(top1(model, unknown, classes))
        assert (figures["label_notes"], figures["layout_notes"]) == ([], [])
    with pytest.raises(vitrim.VitrimError, match="exclude each other"):
        measured(label_map=label_map, label_order="own")


def test_every_job_takes_them(tiny: Path, unknown: Path, tmp_path: Path) -> None:
    with pytest.raises(vitrim.VitrimError, match="--label-order"):
        vitrim.train(tiny, unknown, out=tmp_path / "refused", progress=False, **SHORT)
    order = {"label_order": "number", "progress": False}
    run = vitrim.train(tiny, unknown, out=tmp_path / "run", max_drop=100.0, confidence=0.5, **order, **SHORT)
    assert (run.label_notes, run.layout_notes) == ([], [])
    model = vitrim.load(tiny, run.policy)
    record = vitrim.calibrate(model, unknown, max_drop=100.0, confidence=0.5, **order)
    assert record["label_notes"] == []
    statement = vitrim.compare(
        model, unknown, report=tmp_path / "compare", methods=["random"], costs=[0.8], drops=[5.0],
        sweep_images=12, studies=[], **order,
    )  # fmt: skip
    assert statement["labelled"]
    assert "label_order=&quot;number&quot;" in (tmp_path / "compare/report.html").read_text()
    tuned = vitrim.finetune(
        vitrim.load(tiny), unknown, out=tmp_path / "tuned", images=16, batch=8, held_out_images=4, **order
    )
    assert tuned.label_notes == []


def test_what_was_guessed_is_in_the_results(tiny: Path, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "data"
    other.mkdir()
    for split in data.iterdir():
        (other / split.name).symlink_to(split)
    (other / "notes.png").write_bytes(next((data / "test/class_0").iterdir()).read_bytes())
    model = vitrim.load(tiny)
    figures = vitrim.evaluate(model, other, methods=["random"], keep=[0.5], progress=False)
    comparison = vitrim.compare(
        model, other, report=tmp_path / "compare", methods=["random"], costs=[0.8], drops=[5.0],
        sweep_images=12, progress=False,
    )  # fmt: skip
    written = json.loads((tmp_path / "compare/comparison.json").read_text())
    for result in (figures, comparison, written):
        (spelling,) = result["label_notes"]
        assert "`class_0` is `class 0`" in spelling
        (beside,) = result["layout_notes"]
        assert str(other) in beside
