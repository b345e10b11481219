"""Pruners written in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vitrim


class ClsAttention(vitrim.Pruner):
    """The hand-made method of that name, in Python: the `keep` of 16 patch tokens that the class token looks at most."""

    def __init__(self, keep: list[int]) -> None:
        self.keep = keep
        self.seen: list[tuple[Any, ...]] = []

    def decide(self, stage: int, tokens: Any, offsets: Any, origins: Any, cls_attention: Any) -> Any:
        self.seen.append((stage, tokens, offsets, origins, cls_attention))
        mask = np.zeros(len(origins), bool)
        for start, end in zip(offsets[:-1], offsets[1:]):
            patches = np.flatnonzero(origins[start:end] >= 0) + start
            mask[patches[np.argsort(-cls_attention[patches], kind="stable")[: self.keep[stage]]]] = True
        return mask


@pytest.fixture()
def pixels() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(3, 3, 32, 32)).astype(np.float32)


def test_a_pruner_in_python_decides_like_the_built_in_one(tiny: Path, pixels: np.ndarray) -> None:
    pruner = ClsAttention([11, 8, 5])  # 0.7, 0.49 and 0.343 of 16
    ours = vitrim.load(tiny, pruner)
    theirs = vitrim.load(tiny, "cls-attention:0.7")
    assert ours.stages == [1, 2, 3] and ours.policy == "ClsAttention"
    assert np.array_equal(ours(pixels), theirs(pixels))
    stage, tokens, offsets, origins, attention = pruner.seen[1]
    assert stage == 1 and tokens.shape == (36, 32) and offsets.tolist() == [0, 12, 24, 36]
    assert tokens.dtype == attention.dtype == np.float32 and origins.dtype == offsets.dtype == np.int64
    assert (origins == -1).sum() == 3 and origins.max() < 16 and attention.shape == (36,)
    images = np.random.default_rng(3).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    for one, other in zip(ours.predict(images), theirs.predict(images)):
        assert one.macs == other.macs
        assert [s.positions.tolist() for s in one.stages] == [s.positions.tolist() for s in other.stages]


def test_its_scoring_is_counted(tiny: Path) -> None:
    class Costly(ClsAttention):
        def macs(self, stage: int, tokens: int) -> int:
            return 1000 * tokens

    image = np.zeros((32, 32, 3), np.uint8)
    plain, costly = (vitrim.load(tiny, kind([11, 8, 5])).predict(image)[0] for kind in (ClsAttention, Costly))
    assert costly.macs - plain.macs == 1000 * (17 + 12 + 9)


def test_prefix_tokens_stay_and_all_others_may_leave(tiny: Path, pixels: np.ndarray) -> None:
    class Nobody(vitrim.Pruner):
        stages = (0, 2)

        def decide(self, stage: int, tokens: Any, offsets: Any, origins: Any, cls_attention: Any) -> Any:
            assert (cls_attention is None) == (stage == 0)
            return [False] * len(tokens)

    model = vitrim.load(tiny, Nobody())
    survivors = model.features(pixels, tokens=True)
    assert survivors.offsets.tolist() == [0, 1, 2, 3] and survivors.positions.tolist() == [-1, -1, -1]
    assert model.stages == [0, 2] and np.ptp(model(pixels), axis=0).max() == 0


class Fault(Exception):
    pass


def raising(*_: Any) -> Any:
    raise Fault("on purpose")


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (raising, Fault, "on purpose"),
        (lambda tokens: np.ones(len(tokens), np.float32), TypeError, "returned float32"),
        (lambda tokens: np.ones(3, bool), ValueError, r"returned shape \(3,\) for 51 tokens"),
        (lambda tokens: np.ones((len(tokens), 1), bool), ValueError, r"\(51, 1\)"),
        (lambda tokens: None, TypeError, "returned object"),
    ],
)
def test_what_goes_wrong_in_it_is_raised(
    answer: Any, kind: type[Exception], words: str, tiny: Path, pixels: np.ndarray
) -> None:
    class Wrong(vitrim.Pruner):
        def decide(self, stage: int, tokens: Any, *rest: Any) -> Any:
            return answer(tokens)

    model = vitrim.load(tiny, Wrong())
    for _ in range(2):
        with pytest.raises(kind, match=words):
            model(pixels)


def test_a_fault_in_its_cost_is_raised(tiny: Path) -> None:
    class Wrong(ClsAttention):
        macs = raising

    with pytest.raises(Fault):
        vitrim.load(tiny, Wrong([9, 9, 9])).predict(np.zeros((32, 32, 3), np.uint8))


@pytest.mark.parametrize("stages", [[3, 2], [4], [1, 1], ["a"], [-1], 2])
def test_impossible_stages_are_refused(stages: Any, tiny: Path) -> None:
    pruner = ClsAttention([9, 9])
    pruner.stages = stages
    with pytest.raises(vitrim.VitrimError, match="ascending 0-based blocks below 4"):
        vitrim.load(tiny, pruner)


def test_a_pruner_without_decide_says_so(tiny: Path, pixels: np.ndarray) -> None:
    with pytest.raises(NotImplementedError, match="Pruner must define decide"):
        vitrim.load(tiny, vitrim.Pruner())(pixels)


def test_it_is_not_evaluated_under_a_wrong_name(tiny: Path, data: Path) -> None:
    with pytest.raises(vitrim.VitrimError, match="by name"):
        vitrim.evaluate(vitrim.load(tiny, ClsAttention([9, 9, 9])), data, progress=False)
