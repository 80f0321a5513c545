"""More queries in the same folder: what was scored is kept, and what differs is named as a user sets it."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.benchmarks.base import sample
from harness.fingerprint import differences
from harness.store import Store
from tests.conftest import write_beir

Crispbench = Callable[..., Any]


@given(st.integers(1, 700), st.data())
def test_a_larger_sample_has_every_id_of_a_smaller_one(count: int, data: st.DataObject) -> None:
    ids = [f"q{number}" for number in range(count)]
    small, large = sorted(data.draw(st.tuples(st.integers(1, count), st.integers(1, count))))
    assert len(sample(ids, small)) == small
    assert sample(ids, small) <= sample(ids, large) <= set(ids)
    assert sample(reversed(ids), small) == sample(ids, small)


@pytest.mark.parametrize(("count", "size"), [(124, 60), (277, 22), (278, 85), (323, 50), (5163, 150), (5163, 210)])
def test_samples_of_usual_sizes_are_those_of_random_sample(count: int, size: int) -> None:
    ids = sorted(f"q{number}" for number in range(count))
    assert sample(ids, size) == set(random.Random(0).sample(ids, size))


def run(crispbench: Crispbench, config: Path, out: Path, *more: object) -> Any:
    return crispbench("run", config, "--out", out, "--engine", "moody", *more)


@pytest.mark.parametrize("steps", [(2, 3, 5), (1, 5), (2, 9)])
def test_a_raised_limit_keeps_the_scores_and_ends_with_the_bytes_of_a_fresh_run(
    small: Path, moody: Any, crispbench: Crispbench, tmp_path: Path, steps: Sequence[int]
) -> None:
    for step in steps:
        answer = run(crispbench, small, tmp_path / "out", "--limit", step)
        assert (answer.code, answer.err) == (0, "")
    assert len(moody.queries) == len(set(moody.queries)) == 5  # every query once
    assert run(crispbench, small, tmp_path / "out").code == 0  # without any limit
    assert len(moody.queries) == 5
    assert run(crispbench, small, tmp_path / "fresh").code == 0
    name = "moody/measures.json"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


def test_parts_of_a_raised_limit_score_what_they_lack_and_merge(
    small: Path, moody: Any, crispbench: Crispbench, tmp_path: Path
) -> None:
    for limit in (2, 5):
        for part in ("1/2", "2/2"):
            answer = run(crispbench, small, tmp_path / part.replace("/", "-"), "--limit", limit, "--part", part)
            assert answer.code == 0
    assert set(moody.queries) == {f"animal {word}" for word in ("cat", "dog", "bird", "fish", "worm")}
    assert crispbench("merge", tmp_path / "merged", tmp_path / "1-2", tmp_path / "2-2").code == 0
    assert run(crispbench, small, tmp_path / "whole").code == 0
    name = "moody/measures.json"
    assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_lowered_limit_is_refused_in_the_users_words_and_keeps_everything(
    small: Path, moody: Any, crispbench: Crispbench, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(crispbench, small, out, "--limit", 4)
    before = (out / "moody/measures.json").read_bytes()
    answer = run(crispbench, small, out, "--limit", 2)
    assert (answer.code, answer.out) == (4, "")
    assert "animals.queries was 4 and is 2 (--limit, or `queries` in the config; a limit can be raised" in answer.err
    assert "sha256" not in answer.err and "revision" not in answer.err
    with Store.read(out / "moody") as store:
        assert len(store.done("animals")) == 4
    assert crispbench("report", out).code == 0
    assert (out / "moody/measures.json").read_bytes() == before


def test_a_raised_limit_over_other_data_is_refused(
    small: Path, moody: Any, crispbench: Crispbench, tmp_path: Path
) -> None:
    out, words = tmp_path / "out", ("cat", "dog", "bird", "fish", "worm")
    run(crispbench, small, out, "--limit", 2)
    data = write_beir(
        tmp_path / "other/animals",
        {f"d-{word}": f"a {word} is no animal" for word in words},
        {f"q-{word}": f"animal {word}" for word in words},
        {f"q-{word}": {f"d-{word}": 1} for word in words},
    )
    document = yaml.safe_load(small.read_text(encoding="utf-8"))
    document["benchmarks"] = [{"source": "beir", "path": str(data)}]
    small.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert run(crispbench, small, out, "--limit", 3).code == 4
    assert len(moody.queries) == 2
    same = run(crispbench, small, out, "--limit", 2)
    assert (same.code, "animals: the data changed" in same.err, "sha256" in same.err) == (4, True, False)


def test_runs_with_different_limits_are_not_comparable_and_the_message_names_the_limit(
    small: Path, moody: Any, crispbench: Crispbench, tmp_path: Path
) -> None:
    for limit in (2, 4):
        run(crispbench, small, tmp_path / str(limit), "--limit", limit)
    first, second = tmp_path / "2/moody", tmp_path / "4/moody"
    for words in (
        ("compare", first, second),
        ("check", first, second, "--margin", "latency=none"),
        ("merge", tmp_path / "merged", tmp_path / "2", tmp_path / "4"),
    ):
        answer = crispbench(*words)
        assert answer.code == 4
        said = answer.out + answer.err
        assert "--limit" in said and "queries" in said and "sha256" not in said


def test_a_difference_names_its_cause_and_not_the_consequences() -> None:
    entry = {
        "revision": "sha256:" + "a" * 16,
        "queries": 5,
        "documents": 9,
        "warnings": ["w"],
        "candidates": {"k": 10, "sha256": "b" * 64, "recall": 0.5},
    }
    base = {
        "format": 2,
        "kind": "torch",
        "options": {"model": "m", "precision": "bf16"},
        "benchmarks": {"set": entry},
        "description": {"revision": "sha256:" + "c" * 16, "precision": "bf16"},
        "versions": {"torch": "2.1"},
    }

    def changed(**fields: Any) -> list[str]:
        return differences(base, {**base, **fields})

    fewer = {**entry, "queries": 4, "revision": "sha256:" + "d" * 16, "candidates": {"k": 10, "sha256": "e" * 64}}
    (line,) = changed(benchmarks={"set": fewer})
    assert line.startswith("benchmarks.set.queries was 5 and is 4 (--limit")
    deeper = {**entry, "candidates": {"k": 20, "sha256": "e" * 64, "recall": 0.9}}
    assert changed(benchmarks={"set": deeper}) == ["benchmarks.set.candidates.k was 10 and is 20"]
    other = {**entry, "candidates": {"k": 10, "sha256": "e" * 64}}
    assert changed(benchmarks={"set": other}) == ["set: the lists of candidates changed"]
    assert changed(benchmarks={"set": {**entry, "warnings": []}}) == []
    quantized = {"revision": "sha256:" + "f" * 16, "precision": "int8"}
    options = {"model": "m", "precision": "int8"}
    assert changed(options=options, description=quantized, versions={"torch": "2.2"}) == [
        "options.precision was 'bf16' and is 'int8'",
        "versions.torch was '2.1' and is '2.2'",
    ]
    assert changed(description={**base["description"], "revision": "sha256:" + "f" * 16}) == [  # type: ignore[dict-item]
        "the files of the model changed"
    ]
