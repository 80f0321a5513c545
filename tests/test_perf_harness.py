"""The measurement of the harness: its benchmarks run to the end, and a figure beyond its target is marked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines import Pair, load
from perf.harness_cost import Figure, _committed
from perf.synthetic import Size, beir_15, write


def test_a_written_benchmark_runs_to_the_end_with_all_of_its_queries(
    crispbench: Callable[..., Any], tmp_path: Path
) -> None:
    config = write(tmp_path / "made", {"first": 7, "second": 3}, Size(k=5, words=6, documents=40))
    answer = crispbench("run", config, "--out", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    assert _committed(tmp_path / "out/fake/scores.sqlite") == 10
    report = (tmp_path / "out/report/report.md").read_text()
    assert "7 queries" in report and "3 queries" in report and "k = 5" in report


def test_equal_sizes_give_equal_bytes(tmp_path: Path) -> None:
    files = []
    for name in ("first", "again"):
        write(tmp_path / name / "made", {"only": 4}, Size(k=3, words=4, documents=20))
        files.append({path.name: path.read_bytes() for path in sorted((tmp_path / name).rglob("*.jsonl"))})
    assert files[0] == files[1] and len(files[0]) == 2


def test_the_15_sets_of_beir_have_the_number_of_queries_in_its_paper() -> None:
    assert sum(beir_15().values()) == 53_359
    assert sum(name.startswith("CQADupstack") for name in beir_15()) == 12
    assert min(beir_15(0.001).values()) == 1


@pytest.mark.parametrize(
    ("figure", "missed"),
    [
        (Figure("a", 0.51, "s", 0.5), True),
        (Figure("a", 0.5, "s", 0.5), False),
        (Figure("a", 49_999, "pairs/s", 50_000, True), True),
        (Figure("a", 50_000, "pairs/s", 50_000, True), False),
        (Figure("a", 1e9, "s"), False),
    ],
)
def test_a_figure_beyond_its_target_is_marked_as_missed(figure: Figure, missed: bool) -> None:
    assert figure.missed is missed
    assert ("MISSED" in figure.line) is missed


def test_a_store_that_does_not_exist_has_no_committed_queries(tmp_path: Path) -> None:
    assert _committed(tmp_path / "none.sqlite") == 0


def test_the_fake_engine_gives_a_pair_the_same_score_alone_and_in_a_batch() -> None:
    engine = load("fake", {"noise": 0.5})
    pairs = [Pair(query, document) for document in ("a cat", "dog A", "") for query in ("a Cat", "dog", "")]
    assert engine.score(pairs) == [engine.score([pair])[0] for pair in pairs]
    assert engine.score(sorted(pairs)) == [engine.score([pair])[0] for pair in sorted(pairs)]


def test_scores_of_the_fake_engine_equal_those_of_its_first_version() -> None:
    pairs = [Pair("a cat", "A cat sat"), Pair("a dog", "A cat sat")]
    assert load("fake", {}).score(pairs) == [1.0067790635845961, 0.5055427365951747]
    assert load("fake", {"noise": 0.5, "seed": 3}).score(pairs) == pytest.approx(
        [0.9284061305831001, 0.9925903269380953], rel=1e-12
    )
