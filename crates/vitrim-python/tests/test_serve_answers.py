"""The server's answers are those of `vitrim predict` at the same operating point, whatever an image was batched with."""

from __future__ import annotations

import concurrent.futures
import json
import random
import subprocess
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

import vitrim


@pytest.fixture(scope="module")
def pruned(serve: Callable[..., Any], trained: vitrim.Run) -> Iterator[Any]:
    """A server of `tiny` with its policy."""
    with serve("--policy", trained.folder / "policy") as running:
        yield running


@pytest.fixture(scope="module")
def photos(data: Path) -> list[Path]:
    return sorted((data / "test").rglob("*.png"))


def predicted(binary: Path, photos: list[Path], *options: object) -> list[Any]:
    """What `vitrim predict` says about each photo."""
    command = [str(word) for word in (binary, "predict", "--json", "--quiet", *options, *photos)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def asked(server: Any, photos: list[Path], query: str) -> list[Any]:
    """What the server says: photos alone and in forms, in any order, many requests at once."""
    order = random.Random(3).sample(range(len(photos)), len(photos))
    groups, start = [], 0
    while start < len(order):
        size = 1 + start % 4
        groups.append(order[start : start + size])
        start += size

    def ask(group: list[int]) -> list[tuple[int, Any]]:
        parts = [
            b'--b\r\nContent-Disposition: form-data; name="image"; filename="%d"\r\n\r\n' % i + photos[i].read_bytes() + b"\r\n"
            for i in group
        ]
        body, kind = b"".join(parts) + b"--b--\r\n", "multipart/form-data; boundary=b"
        if len(group) == 1:
            body, kind = photos[group[0]].read_bytes(), "image/png"
        status, headers, answer = server.request("POST", f"/predict?top_k=3&survivors=true{query}", body, {"content-type": kind})
        assert status == 200, answer
        assert float(headers["x-compute-time-ms"]) > 0.0 and headers["x-operating-point"] != ""
        return list(zip(group, json.loads(answer)["images"]))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = dict(pair for pairs in pool.map(ask, groups) for pair in pairs)
    return [found[i] for i in range(len(photos))]


def check(answers: list[Any], expected: list[Any]) -> None:
    assert len(answers) == len(expected) > 30
    for answer, one in zip(answers, expected):
        assert answer["classes"] == one["classes"], "the same probabilities, bit for bit"
        assert answer["stages"] == one["stages"] and answer["gmacs"] == one["gmacs"]


def test_at_the_policys_own_setting(
    pruned: Any, binary: Path, tiny: Path, trained: vitrim.Run, photos: list[Path]
) -> None:
    expected = predicted(binary, photos, "--model", tiny, "--policy", trained.folder / "policy", "--top-k", 3)
    check(asked(pruned, photos, ""), expected)


def test_at_every_operating_point(pruned: Any, binary: Path, tiny: Path, trained: vitrim.Run, photos: list[Path]) -> None:
    ladder = json.loads(pruned.get("/v2/models/tiny/operating_points")[1])["points"]
    assert ladder[0]["name"] == "dense" and len(ladder) > 1
    for point in ladder:
        if point["certified"] is None:
            continue
        policy = ["--policy", trained.folder / "policy", "--read-out", point["name"]]
        expected = predicted(binary, photos, "--model", tiny, "--top-k", 3, *(policy if point["index"] else []))
        answers = asked(pruned, photos, f"&gmacs={point['gmacs']!r}")
        assert {answer["operating_point"]["name"] for answer in answers} == {point["name"]}
        check(answers, expected)
