"""Training, calibration, comparison and reports, called from Python."""

from __future__ import annotations

import ast
import html
import json
import pickle
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vitrim
from conftest import REPOSITORY, SHORT
from vitrim.training import settings


def test_a_run_is_what_the_command_line_leaves(trained: vitrim.Run, tiny: Path) -> None:
    assert (trained.folder / "config.toml").is_file() and (trained.policy / "policy.json").is_file()
    assert trained.updates == 4 and [entry["update"] for entry in trained.log] == [1, 2, 3, 4]
    assert trained.calibration["certified"] and trained.calibration["max_drop"] == 100.0
    assert trained.read_out == f"threshold={trained.calibration['threshold']}"
    model = vitrim.load(tiny, trained.policy)
    assert model.stages == [1, 2, 3] and str(trained.policy) in model.policy
    pixels = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    assert model(pixels).shape == (2, 3)


def test_a_backbone_without_classes_is_held_to_a_drift(data: Path, tmp_path: Path) -> None:
    headless = REPOSITORY / "crates/vitrim-vit/tests/fixtures/timm_headless"
    with pytest.raises(vitrim.VitrimError, match="max-drift"):
        vitrim.train(headless, data, out=tmp_path / "no", max_drop=1.0, progress=False, **SHORT)
    run = vitrim.train(
        headless, data, out=tmp_path / "run", max_drift=50.0, confidence=0.5, progress=False, **SHORT
    )
    assert "a drift of at most 50 %" in run.calibration["choice"]
    model = vitrim.load(headless, run.policy)
    assert "drift" in model.dial(max_drift=40.0, confidence=0.5)
    assert "drift" in model.dial(gmacs=2 * model.dense_gmacs)
    with pytest.raises(vitrim.VitrimError, match="max-drift"):
        model.dial(max_drop=1.0)
    (method,) = vitrim.evaluate(model, data, methods=["policy"], speed=None, progress=False)["methods"]
    assert method["drop_pp"] is None and method["drift"] == pytest.approx(100 * method["fidelity"])
    with pytest.raises(vitrim.VitrimError, match="no classifier head"):
        model(np.zeros((1, 3, *model.img_size), np.float32))


def test_another_size_is_another_grid(tiny: Path, trained: vitrim.Run) -> None:
    model = vitrim.load(tiny, img_size=(40, 48))
    assert model.img_size == (40, 48) and vitrim.load(tiny, img_size=40).img_size == (40, 40)
    assert model(np.zeros((1, 3, 40, 48), np.float32)).shape == (1, 3)
    with pytest.raises(vitrim.VitrimError, match="multiples of"):
        vitrim.load(tiny, img_size=41)
    with pytest.raises(vitrim.VitrimError, match="32x32"):
        vitrim.load(tiny, trained.policy, img_size=40)


def figures(run: vitrim.Run) -> list[dict[str, Any]]:
    """A run's log without what depends on when it was started."""
    clocks = ("seconds", "images_per_s", "play_s", "gather_s", "learn_s", "dense_passes", "time", "wall")
    return [{k: v for k, v in entry.items() if not any(c in k for c in clocks)} for entry in run.log]


def test_an_interrupted_run_goes_on_as_if_it_had_never_stopped(
    trained: vitrim.Run, tiny: Path, data: Path, tmp_path: Path
) -> None:
    seen: list[dict[str, Any]] = []

    def interrupt(entry: dict[str, Any]) -> None:
        seen.append(entry)
        if entry["update"] == 2:
            raise KeyboardInterrupt

    arguments: dict[str, Any] = dict(out=tmp_path / "run", max_drop=100.0, confidence=0.5, progress=False, **SHORT)
    with pytest.raises(KeyboardInterrupt):
        vitrim.train(tiny, data, callback=interrupt, **arguments)
    assert 2 <= len(seen) <= 4 and seen[0]["updates"] == 4 and "keep_ratio" in seen[0]
    run = vitrim.train(tiny, data, **arguments)
    assert figures(run) == figures(trained)
    weights = [(folder / "policy.safetensors").read_bytes() for folder in (run.policy, trained.policy)]
    assert weights[0] == weights[1]


@pytest.mark.skipif(sys.platform == "win32", reason="SKIPPED: signals are not Windows'")
def test_ctrl_c_leaves_a_resumable_run(tiny: Path, data: Path, tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import signal, vitrim
        # Where the tests run in the background, it would be ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        def told(entry):
            print("update", entry["update"], flush=True)
        try:
            vitrim.train({str(tiny)!r}, {str(data)!r}, out={str(tmp_path / "run")!r}, updates=100_000,
                         images_per_update=8, reward={{"reference_images": 16}}, calibrate=False, callback=told)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        for line in child.stdout:
            if line.startswith("update 2"):
                child.send_signal(signal.SIGINT)
                break
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 0 and out.strip().endswith("interrupted"), err
    assert "is saved in" in err and "goes on" in err
    done = len((tmp_path / "run/log.jsonl").read_text().splitlines())
    assert 2 <= done < 100_000

    def enough(entry: dict[str, Any]) -> None:
        assert entry["update"] == done + 1, "it went on where it had stopped"
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        vitrim.train(
            tiny, data, out=tmp_path / "run", updates=100_000, images_per_update=8,
            reward={"reference_images": 16}, calibrate=False, callback=enough, progress=False,
        )  # fmt: skip


def test_progress_is_written_to_stderr(tiny: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    run = vitrim.train(tiny, data, out=tmp_path / "run", calibrate=False, **{**SHORT, "preset": "default"})
    told = capsys.readouterr()
    assert "images to train on" in told.err and "update 4/4" in told.err and told.out == ""
    assert run.calibration is None
    model = vitrim.load(tiny, run.policy)
    assert model.stages == [0, 1, 2], "agents that merge act early"
    answer = model.predict(np.zeros((32, 32, 3), np.uint8))[0]
    assert 0 < len(answer.stages[-1].positions) < 16, "some have joined others"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(preset="papr"), ["papr", "paper"]),
        (dict(updats=3), ["updats", "updates"]),
        (dict(ppo={"clip": "wide"}), ["ppo.clip"]),
        (dict(updates=0), ["updates must be at least 1"]),
        (dict(max_drop=-1.0), ["max-drop -1"]),
        (dict(confidence=1.5), ["1.5"]),
        (dict(split="none"), ["none"]),
        (dict(on_bad_image="ignore"), ["ignore", "skip"]),
        (dict(device="tpu"), ["tpu"]),
    ],
)
def test_wrong_settings_are_refused(
    arguments: dict[str, Any], words: list[str], tiny: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(vitrim.VitrimError) as refusal:
        vitrim.train(tiny, data, out=tmp_path / "run", progress=False, **arguments)
    for word in words:
        assert word in str(refusal.value), str(refusal.value)


def test_nested_settings_become_keys() -> None:
    nested = {"updates": 3, "ppo": {"clip": 0.1, "epochs": 2}, "stages": [1, 2], "reward": {"kind": "paper"}}
    assert settings(nested) == ["updates=3", "ppo.clip=0.1", "ppo.epochs=2", "stages=[1, 2]", 'reward.kind="paper"']


def test_the_dial_finds_points_of_the_record(trained: vitrim.Run, tiny: Path) -> None:
    model = vitrim.load(tiny, trained.policy)
    points = trained.calibration["front"]["points"]
    assert "certified" in model.dial(max_drop=100.0, confidence=0.5)
    for point in points[:: max(1, len(points) // 4)]:
        answer = model.dial(gmacs=point["gmacs"])
        first = next(p for p in points if p["gmacs"] <= point["gmacs"])
        assert float(answer.split()[1]) == first["setting"]
        assert float(model.policy.rsplit("threshold=", 1)[1]) == first["setting"]
    assert "GMACs" in model.dial(keep=1.0)
    mildest = points[0]["gmacs"]
    for arguments, words in [
        (dict(), ["one thing"]),
        (dict(keep=0.5, gmacs=1.0), ["one thing"]),
        (dict(gmacs=1e-9), ["no threshold on record", "ask for at least"]),
        (dict(keep=1.5), ["between 0 and 1"]),
        (dict(max_drop=-1.0), ["max-drop"]),
    ]:
        with pytest.raises(vitrim.VitrimError) as refusal:
            model.dial(**arguments)
        for word in words:
            assert word in str(refusal.value), str(refusal.value)
    assert mildest > 0
    with pytest.raises(vitrim.VitrimError, match="only a calibrated policy"):
        vitrim.load(tiny, "evit:0.7").dial(max_drop=1.0)


def test_another_dtype_warns(trained: vitrim.Run, tiny: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vitrim.load(tiny, trained.policy)
    with pytest.warns(UserWarning, match="calibrated in f32, so that no drop is certified in bf16"):
        vitrim.load(tiny, trained.policy, dtype="bf16")


def test_calibrate_writes_the_record(trained: vitrim.Run, tiny: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    for file in trained.policy.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    model = vitrim.load(tiny, folder)
    record = vitrim.calibrate(model, data, max_drop=5.0, confidence=0.5, split="test", progress=False)
    assert record["max_drop"] == 5.0 and record["split"] == "test" and record["front"]["images"] == 36
    (spelling,) = record.pop("label_notes")
    assert "`class_0` is `class 0`" in spelling and record.pop("layout_notes") == []
    assert json.loads((folder / "policy.json").read_text())["calibration"] == record
    assert model.policy.endswith(f"threshold={record['threshold']}")
    folder.rename(tmp_path / "moved")
    with pytest.raises(vitrim.VitrimError, match="cannot be written there"):
        vitrim.calibrate(model, data, progress=False)
    with pytest.raises(vitrim.VitrimError, match="calibrate needs a policy.*universal.*dtome"):
        vitrim.calibrate(vitrim.load(tiny), data, progress=False)


def test_a_policy_is_certified_by_its_name(tiny: Path, data: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = dict(max_drop=100.0, confidence=0.5, split="test", progress=False)
    for name, more in [("dtome", {}), ("universal", {"balance": False}), ("universal", {})]:
        model = vitrim.load(tiny)
        with pytest.raises(vitrim.VitrimError, match="--out"):
            vitrim.calibrate(model, data, policy=name, **given)
        folder = tmp_path / f"{name}{len(more)}" / "policy"
        record = vitrim.calibrate(model, data, policy=name, out=folder.parent, **given, **more)
        assert record["front"]["images"] == 36 and str(folder) in model.policy
        written = json.loads((folder / "policy.json").read_text())
        assert ("offsets" in written) == (name == "universal" and not more)
        assert vitrim.load(tiny, policy=folder).dial(max_drop=100, confidence=0.5)
    with pytest.raises(vitrim.VitrimError, match="give --policy tome"):
        vitrim.calibrate(vitrim.load(tiny), data, policy="tome:0.7", out=tmp_path / "tome", **given)


def test_the_bundled_policy_needs_no_training(tiny: Path, data: Path, tmp_path: Path) -> None:
    model = vitrim.load(tiny, policy="universal")
    (uncalibrated,) = model.predict(next((data / "test").rglob("*.png")))
    assert 0 < uncalibrated.gmacs <= 1.2 * model.dense_gmacs
    assert pickle.loads(pickle.dumps(model)).policy == model.policy
    with pytest.raises(vitrim.VitrimError, match="for every backbone.*--out"):
        vitrim.calibrate(model, data, max_drop=100.0, confidence=0.5, split="test", progress=False)
    quick = tmp_path / "quick"
    record = vitrim.calibrate(
        model, data, out=quick, max_drop=100.0, confidence=0.5, split="test", progress=False
    )
    assert record["certified"] and record["front"]["images"] == 36
    assert str(quick / "policy") in model.policy
    again = vitrim.load(tiny, policy=quick / "policy")
    assert again.dial(max_drop=100, confidence=0.5)
    run = vitrim.train(
        tiny, data, out=tmp_path / "from", start="universal", calibrate=False, progress=False,
        **{**SHORT, "preset": "default"},
    )
    assert json.loads((run.policy / "policy.json").read_text())["observation"]["relative"] is True


def test_evaluate_and_report(trained: vitrim.Run, tiny: Path, data: Path, capsys: Any) -> None:
    model = vitrim.load(tiny, trained.policy)
    evaluation = vitrim.evaluate(model, data, report=trained.folder, progress=False)
    assert evaluation["images"] == 36 and evaluation["split"] == "test" and evaluation["dtype"] == "f32"
    assert [m["method"] for m in evaluation["methods"]] == ["policy", "random", "cls-attention"]
    assert 0 < evaluation["methods"][0]["cost"] <= 1.1
    page = trained.folder / "report.html"
    assert "vitrim.evaluate" in page.read_text()
    page.unlink()
    assert vitrim.report(trained.folder) == page and page.is_file()
    assert capsys.readouterr().err == ""
    with pytest.raises(vitrim.VitrimError, match="no such folder"):
        vitrim.report(trained.folder / "none")


def test_evaluate_measures_a_hand_made_method(tiny: Path, data: Path) -> None:
    evaluation = vitrim.evaluate(vitrim.load(tiny, "evit:0.5"), data, methods=[], progress=False)
    (method,) = evaluation["methods"]
    assert method["method"] == "evit" and method["cost"] < 0.9 and evaluation["read_out"] is None
    dense = vitrim.evaluate(vitrim.load(tiny), data, images=7, keep=[0.5], methods=["random"], progress=False)
    assert dense["images"] == 7 and dense["methods"][0]["method"] == "random"
    with pytest.raises(vitrim.VitrimError, match="unknown method"):
        vitrim.evaluate(vitrim.load(tiny), data, methods=["best"], progress=False)


def test_rivals_are_compared_by_name(trained: vitrim.Run, tiny: Path, data: Path, tmp_path: Path) -> None:
    sampling = vitrim.train(
        tiny, data, out=tmp_path / "paper", calibrate=False, progress=False,
        **{**SHORT, "preset": "paper", "actor": {"hidden": [4]}},
    )  # fmt: skip
    comparison = vitrim.compare(
        vitrim.load(tiny, trained.policy), data, report=tmp_path / "compare", policies=[trained.policy],
        rivals={"again": [trained.policy, trained.policy], "paper": sampling.policy}, methods=["policy"],
        costs=[0.9], drops=[5.0], studies=[], progress=False,
    )  # fmt: skip
    names = ["policy", "policy-2", "again", "again-2", "paper"]
    assert [method["method"] for method in comparison["methods"]] == names
    paper = comparison["methods"][-1]
    assert all(point["setting"] == "sample=0" for point in paper["points"]) and len(paper["points"]) <= 1
    (at,) = comparison["at_drop"]
    assert [method["method"] for method in at["methods"]] == ["policy", "again", "paper"]
    assert at["methods"][0]["cost"] == at["methods"][1]["cost"]
    with pytest.raises(vitrim.VitrimError, match="'tome'"):
        vitrim.compare(
            vitrim.load(tiny), data, report=tmp_path / "no", rivals={"tome": trained.policy}, progress=False
        )


def test_a_backbone_is_tuned_under_its_policy(
    trained: vitrim.Run, tiny: Path, data: Path, tmp_path: Path, capsys: Any
) -> None:
    model = vitrim.load(tiny, trained.policy)
    short: dict[str, Any] = dict(images=64, batch=16, log_every=1, evaluate_every=4)
    seen: list[dict[str, Any]] = []

    def interrupt(entry: dict[str, Any]) -> None:
        seen.append(entry)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vitrim.finetune(model, data, out=tmp_path / "run", callback=interrupt, progress=False, **short)
    assert seen[0]["step"] == 1 and seen[0]["steps"] == 4
    run = vitrim.finetune(model, data, out=tmp_path / "run", **short)
    told = capsys.readouterr().err
    assert "going on in" in told and "step 4/4" in told
    assert [entry["step"] for entry in run.log] == [1, 2, 3, 4]
    tuned = vitrim.load(run.model, run.policy)
    assert run.held_out["cost"] > 0 and tuned.policy.endswith(trained.read_out)
    pixels = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    assert not np.array_equal(tuned(pixels), model(pixels)), "it learned"

    control = vitrim.finetune(vitrim.load(tiny), data, out=tmp_path / "dense", progress=False, **short)
    assert control.policy is None and control.held_out["cost"] == pytest.approx(1.0)
    with pytest.raises(vitrim.VitrimError, match="trained policy"):
        vitrim.finetune(vitrim.load(tiny, "evit:0.5"), data, out=tmp_path / "no", progress=False)
    with pytest.raises(vitrim.VitrimError, match="f32 or bf16, not in 'int8'"):
        vitrim.finetune(model, data, out=tmp_path / "no", weights="int8", progress=False)  # type: ignore[arg-type]
    with pytest.raises(vitrim.VitrimError, match="label_weigth"):
        vitrim.finetune(model, data, out=tmp_path / "no", label_weigth=1.0, progress=False)
    with pytest.raises(vitrim.VitrimError, match="without img_size"):
        vitrim.finetune(vitrim.load(tiny, img_size=40), data, out=tmp_path / "no", progress=False)


def printed(page: Path) -> dict[str, dict[str, Any]]:
    """The calls of the first command on a page, with their keywords."""
    text = page.read_text(encoding="utf-8")
    command = re.search(r'<code class="command">(.*?)</code>', text, re.DOTALL)
    assert command is not None
    source = html.unescape(re.sub(r"<[^>]*>", "", command[1])).strip()
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return {
        ast.unparse(call.func): {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        for call in calls
    }


def test_the_call_that_a_report_prints_is_the_one_that_was_made(
    trained: vitrim.Run, tiny: Path, data: Path, tmp_path: Path
) -> None:
    model = vitrim.load(tiny, trained.policy, dtype="bf16", threads=1, img_size=(32, 32))
    model.dial(max_drop=50.0, confidence=0.6)
    folder = tmp_path / "it's a \"run\""
    shutil.copytree(trained.folder, folder)
    keywords: dict[str, Any] = {
        "images": 9, "methods": ["policy", "random"], "batch": 4, "on_bad_image": "skip", "report": str(folder),
        "speed": 0.01, "split": "test",
    }  # fmt: skip
    vitrim.evaluate(model, data, progress=False, **keywords)
    statements = printed(folder / "report.html")
    assert statements["vitrim.evaluate"] == keywords
    assert statements["model.dial"] == {"max_drop": 50.0, "confidence": 0.6}
    assert statements["vitrim.load"] == {
        "policy": str(trained.policy), "dtype": "bf16", "threads": 1, "img_size": (32, 32)
    }  # fmt: skip


def test_compare_writes_its_page(trained: vitrim.Run, tiny: Path, data: Path, tmp_path: Path) -> None:
    model = vitrim.load(tiny, trained.policy)
    comparison = vitrim.compare(
        model, data, report=tmp_path / "compare", methods=["policy", "random"], costs=[0.8], drops=[5.0],
        studies=[], progress=False,
    )  # fmt: skip
    assert comparison["images"] == 36 and {m["method"] for m in comparison["methods"]} == {"policy", "random"}
    assert json.loads((tmp_path / "compare/comparison.json").read_text()) == comparison
    statements = printed(tmp_path / "compare/report.html")
    assert statements["vitrim.load"] == {"policy": str(trained.policy)}
    assert statements["vitrim.compare"] == {
        "split": "test", "methods": ["policy", "random"], "costs": [0.8], "drops": [5.0], "studies": [],
        "report": str(tmp_path / "compare"),
    }  # fmt: skip
    with pytest.raises(vitrim.VitrimError, match="costs 1.5"):
        vitrim.compare(model, data, report=tmp_path / "compare", costs=[1.5], progress=False)


def test_a_metric_is_learned_and_certified(tiny: Path, data: Path, tmp_path: Path) -> None:
    short: dict[str, Any] = dict(images=64, batch=16, log_every=1)
    seen: list[dict[str, Any]] = []

    def interrupt(entry: dict[str, Any]) -> None:
        seen.append(entry)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vitrim.train_metric(tiny, data, out=tmp_path / "run", callback=interrupt, progress=False, **short)
    assert seen[0]["step"] == 1 and seen[0]["steps"] == 4
    run = vitrim.train_metric(tiny, data, out=tmp_path / "run", progress=False, **short)
    assert [entry["step"] for entry in run.log] == [1, 2, 3, 4]
    model = vitrim.load(tiny, run.policy)
    vitrim.calibrate(model, data, max_drop=100, confidence=0.5, progress=False)
    assert "cost=" in model.policy
    pixels = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    assert not np.array_equal(model(pixels), vitrim.load(tiny)(pixels)), "tokens merge"
    with pytest.raises(vitrim.VitrimError, match="parts"):
        vitrim.train_metric(tiny, data, out=tmp_path / "no", parts=1000, progress=False)
    with pytest.raises(vitrim.VitrimError, match="pats"):
        vitrim.train_metric(tiny, data, out=tmp_path / "no", pats=1, progress=False)
    with pytest.raises(vitrim.VitrimError, match="actor"):
        vitrim.finetune(model, data, out=tmp_path / "no", progress=False)
