"""The plan of a comparison: the queries that a verdict needs, and the suites that have them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.base import BadOptions
from harness.compare.plan import PlannedPool
from harness.compare.planning import PlanOptions, PlanResult, plan
from harness.store import NotComparable, StoreError
from tests import recordings

Run = Callable[..., Any]
Record = Callable[..., Path]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Writes an engine's folder in one run; `lost` of its 60 queries rank the relevant document second."""
    return lambda name, lost=0, **changes: recordings.write(tmp_path / "run" / name, lost, **changes)


def pool(planned: PlanResult, name: str) -> PlannedPool:
    return next(pool for pool in planned.pools if pool.name == name)


def test_the_spread_is_that_of_the_other_engines_of_the_run(record: Record) -> None:
    old = record("old")
    record("same")
    record("two", lost=2)
    planned = plan(old, [], PlanOptions())
    assert [(spread.name, spread.origin, spread.needed) for spread in planned.spreads] == [
        ("no change", "least", 736), ("same", "recorded", 736), ("two", "recorded", 1928),
    ]  # fmt: skip
    # 2 losses of 1 - 1 / log2(3) among 60
    assert planned.spreads[2].deviation == pytest.approx(0.36907 * math.sqrt(1 / 30 * 29 / 30 * 60 / 59), abs=1e-5)
    assert planned.spreads[2].changed == pytest.approx(2 / 60)
    assert planned.least == 736


def test_named_candidates_are_the_only_spreads_and_must_be_comparable(record: Record) -> None:
    old, two = record("old"), record("two", lost=2)
    record("other", lost=30)
    assert [spread.name for spread in plan(old, [two], PlanOptions()).spreads] == ["no change", "two"]
    with pytest.raises(NotComparable):
        plan(old, [record("short", queries=59)], PlanOptions())


def test_an_engine_of_the_run_that_cannot_be_compared_is_named(record: Record) -> None:
    old = record("old")
    record("short", queries=59)
    planned = plan(old, [], PlanOptions())
    assert planned.notes[0].startswith("short is left out: ") and "60 and 59 queries" in planned.notes[0]
    assert {spread.origin for spread in planned.spreads} == {"least", "assumed"}


def test_without_another_engine_the_correlation_is_assumed_and_said_to_be(record: Record) -> None:
    planned = plan(record("old", lost=30), [], PlanOptions())
    assert [spread.name for spread in planned.spreads] == [
        "no change", "correlation 0.999", "correlation 0.99", "correlation 0.9",
    ]  # fmt: skip
    # Half of the queries at 1 and half at 0.63: standard deviation 0.36907 / 2, times sqrt(2 (1 - 0.99))
    assert planned.spreads[2].deviation == pytest.approx(0.36907 / 2 * math.sqrt(0.02), abs=1e-5)
    assert "assumed correlation" in planned.notes[0]


def test_a_suite_counts_as_its_smallest_benchmark_for_its_share(record: Record) -> None:
    old = record("old")
    record("two", lost=2)
    beir = pool(plan(old, [], PlanOptions()), "suite beir")
    # 15 units; the smallest, Touche2020, has 49 queries
    assert beir.effective == pytest.approx(15 * 49)
    assert beir.margins[0].margin == pytest.approx(1 - 0.025 ** (1 / 735)) and not beir.margins[0].enough
    assert "MSMARCO" in beir.single["two"] and "SciFact" not in beir.single["two"]
    assert "NFCorpus" not in beir.single["no change"]


def test_a_wider_margin_and_less_power_need_fewer_queries(record: Record) -> None:
    old = record("old")
    record("two", lost=2)
    needed = [
        plan(old, [], PlanOptions(margin, power)).spreads[1].needed
        for margin, power in ((0.005, 0.9), (0.005, 0.8), (0.01, 0.8), (0.05, 0.5))
    ]
    assert needed == sorted(needed, reverse=True) and len(set(needed)) == 4


def test_a_config_limits_the_suites_and_unknown_sizes_stay_unknown(record: Record, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        "name: c\nengines: {bm25: {kind: bm25}}\nsuites: [code]\n"
        "benchmarks: [{source: beir, path: nowhere, name: mine}, {source: mteb, name: SciFact}]\n"
    )
    planned = plan(record("old"), [], PlanOptions(config=config))
    assert [pool.name for pool in planned.pools] == ["small", "suite code", "mine", "SciFact"]
    assert (pool(planned, "mine").queries, pool(planned, "mine").margins) == (None, ())
    assert pool(planned, "SciFact").queries == 300


def test_an_incomplete_reference_is_refused_and_no_missing_score_is_a_zero(record: Record) -> None:
    with pytest.raises(StoreError, match="30 of 60 queries have no scores"):
        plan(record("old", scored=30), [], PlanOptions())


def test_engines_of_one_query_have_no_spread(record: Record) -> None:
    old, new = record("old", queries=1), record("new", queries=1)
    assert "has one query per benchmark" in plan(old, [], PlanOptions()).notes[0]
    with pytest.raises(StoreError, match="has one query per benchmark"):
        plan(old, [new], PlanOptions())


@pytest.mark.parametrize(
    ("options", "message"),
    [(PlanOptions(margin=0.0), "margin 0.0"), (PlanOptions(power=1.0), "power 1.0"), (PlanOptions(power=0.2), "power")],
)
def test_meaningless_plans_are_refused_before_anything_is_read(options: PlanOptions, message: str) -> None:
    with pytest.raises(BadOptions, match=message):
        plan(Path("nowhere"), [], options)


def test_the_command_prints_a_table_and_the_same_numbers_as_json(record: Record, crispbench: Run) -> None:
    old = record("old")
    record("two", lost=2)
    shown = crispbench("compare", "--plan", old)
    assert shown.code == 0
    assert (
        "A pass at a margin of 0.005 with 80% power needs this many queries: 736 (no change), 1,928 (two)."
        in " ".join(shown.out.split())
    )
    document = json.loads(crispbench("compare", "--plan", old, "--json").out)
    assert (document["format"], document["outcome"], document["least"]) == (1, "pass", 736)
    assert [spread["needed"] for spread in document["spreads"]] == [736, 1928]
    assert crispbench("compare", "--plan", old, "--noise", old).code == 2
    assert crispbench("compare", old, old.parent / "two", "--power", "0.9").code == 2
    assert crispbench("compare", old).code == 2
