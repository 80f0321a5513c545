"""Published and measured numbers: averages over exact members, two-sided tolerances, verdicts where they apply."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from engines.base import BadOptions, Description
from harness import published
from harness.benchmarks import suites
from harness.benchmarks.suites import load_suite
from harness.candidates.stages import DenseStage
from harness.candidates.trec import write_run
from harness.config import read_config
from harness.figures.measures import Ties
from harness.published import (
    Measured,
    PublishedComparison,
    Reproduction,
    average,
    compare,
    load_table,
    table_names,
    unmatched,
)
from harness.records import Completeness, Measurement, Percentile, Row
from tests import recordings
from tests.conftest import write_beir

ROOT = Path(__file__).parents[1]
COMPARISON = PublishedComparison(table="theirs", engines={"ours": "model-1"})
TABLE = """\
name: theirs
title: Their table
source: a page
retrieved: 2026-11
protocol: {status: stated, ties: trec_eval, first_stage: bm25, engine: fake, parameters: {k1: 0.9}, note: whole corpus}
tolerance: {value: 0.002, reason: another tokeniser}
columns:
  - {name: SciFact, benchmark: SciFact, measure: nDCG@10, queries: 300, values: {model-1: 0.6451, model-2: 0.5}}
"""
AVERAGE = "  - {name: all, suite: three, measure: nDCG@10, scale: 100, values: {model-1: 50.0}}\n"
SUITE = """\
name: three
description: d
source: here
members:
  - {name: a, benchmark: {source: stdlib}, queries: 4, documents: 9}
  - {name: b1, benchmark: {source: stdlib}, queries: null, documents: 9, group: b}
  - {name: b2, benchmark: {source: stdlib}, queries: null, documents: 9, group: b}
"""
LATENCY = (
    "  - {name: latency, benchmark: NFCorpus, measure: seconds per query, machine: A100, values: {model-1: 0.5}}\n"
)

UNSPECIFIED = (
    "status: stated, ties: trec_eval, first_stage: bm25, engine: fake, parameters: {k1: 0.9}, note",
    "status: unspecified, note",
)


def row(benchmark: str = "SciFact", value: float = 0.6451, queries: int = 300, **changes: Any) -> Row:
    measured = Measurement(value, value - 0.03, value + 0.04)
    fields: dict[str, Any] = {
        "engine": "ours",
        "kind": "fake",
        "verdict": "complete",
        "measures": {"nDCG@10": measured, "R@100": measured},
        "per_query": {},
        "pairs": 100 * queries,
        "coverage": 1.0,
        "tie_rate": 0.0,
        "truncated": 0,
        "candidates": {"source": "bm25", "k": 100, "sha256": "ab", "parameters": {"k1": 0.9, "b": 0.4}},
        "p50": Percentile(0.25, 3, 1),
        "p90": Percentile(None, 3, 10),
        "pairs_per_s": None,
        "service_s": (0.25, 0.25, 0.55),
        "against_baseline": None,
        "revision": "rev-1",
        "machine": "a laptop",
        "folder": "table/ours",
    }
    fields |= changes
    if isinstance(fields["candidates"], dict):
        fields["candidates"] = recordings.candidates(**fields["candidates"]) if fields["candidates"] else None
    return Row(benchmark=benchmark, queries=queries, **fields)


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes the table `theirs`, optionally changed, and the suite `three`."""
    for module, folder in ((published, "published"), (suites, "suites")):
        monkeypatch.setattr(module, "FOLDERS", (tmp_path / folder,))
        (tmp_path / folder).mkdir()
    (tmp_path / "suites/three.yaml").write_text(SUITE, encoding="utf-8")

    def write(*more: str, change: tuple[str, str] = ("", "")) -> None:
        load_table.cache_clear()
        load_suite.cache_clear()
        text = TABLE.replace(*change) + "".join(more)
        (tmp_path / "published/theirs.yaml").write_text(text, encoding="utf-8")

    write()
    return write


def as_recorded(row: Row, names: Sequence[str], ties: Ties) -> Mapping[str, Measurement]:
    """Values of a row without equal scores."""
    return row.measures


def only(rows: list[Row], column: str = "SciFact", measured: Measured = as_recorded) -> Reproduction:
    (figure,) = compare(COMPARISON.model_copy(update={"columns": (column,)}), rows, measured)
    return figure


def test_without_columns_only_the_benchmarks_of_the_run_are_shown(tables: Callable[..., None]) -> None:
    tables(AVERAGE + LATENCY)
    whole = [row(), *members()]
    assert [figure.column for figure in compare(COMPARISON, [row()], as_recorded)] == ["SciFact"]
    assert [figure.column for figure in compare(COMPARISON, [row("NFCorpus")], as_recorded)] == ["latency"]
    assert [figure.column for figure in compare(COMPARISON, whole[:-1], as_recorded)] == ["SciFact"]
    assert [figure.column for figure in compare(COMPARISON, whole, as_recorded)] == ["SciFact", "all"]
    elsewhere = [row(engine="another")]  # the benchmark is in the run, and this engine has no row of it
    assert [figure.verdict for figure in compare(COMPARISON, elsewhere, as_recorded)] == ["not measured"]


def test_a_table_without_any_benchmark_of_the_run_says_what_to_do(tables: Callable[..., None]) -> None:
    tables(AVERAGE)
    assert compare(COMPARISON, [row("scifact")], as_recorded) == []
    assert unmatched(COMPARISON, [row("scifact")]) == (
        "published 'theirs': this run has none of its benchmarks (SciFact, three); if names differ, map them under "
        "`benchmarks` of that entry"
    )
    assert unmatched(COMPARISON, [row()]) == unmatched(COMPARISON, []) == ""
    named = COMPARISON.model_copy(update={"benchmarks": {"SciFact": "scifact"}})
    assert unmatched(named, [row("scifact")]) == ""


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (0.6451, "reproduced"),
        (0.6431, "reproduced"),  # exactly the tolerance below the published figure
        (0.6471, "reproduced"),  # exactly the tolerance above it; slightly more in binary
        (0.6430, "differs"),
        (0.6472, "differs"),  # a better figure differs as well
    ],
)
@pytest.mark.usefixtures("tables")
def test_a_tolerance_applies_above_and_below(value: float, verdict: str) -> None:
    figure = only([row(value=value)])
    assert (figure.verdict, figure.published, figure.tolerance) == (verdict, 0.6451, 0.002)
    assert figure.difference == pytest.approx(value - 0.6451)


@pytest.mark.usefixtures("tables")
def test_a_figure_has_a_trace_of_folder_revision_candidates_queries_and_interval() -> None:
    (trace,) = only([row(value=0.645)]).trace
    assert (trace.folder, trace.revision, trace.first_stage, trace.k) == ("table/ours", "rev-1", "bm25", 100)
    assert (trace.benchmark, trace.queries) == ("SciFact", 300)
    assert trace.measured == pytest.approx((0.645, 0.615, 0.685))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"queries": 299}, "SciFact has 299 queries, not 300"),
        ({"verdict": "incomplete"}, "SciFact is incomplete"),
        ({"verdict": "invalid", "measures": {}}, "SciFact is invalid"),
        (
            {"candidates": {"source": "dense", "k": 100, "parameters": {}}},
            "SciFact has candidates from dense; the published figure is for bm25",
        ),
        (
            {"candidates": {"source": "bm25", "k": 9, "parameters": {}}},
            "SciFact has 9 candidates per query, too few for nDCG@10",
        ),
        (
            {"kind": "torch"},
            "SciFact was scored by an engine of kind torch; the published figure is for kind fake",
        ),
        (
            {"candidates": {"source": "bm25", "k": 100, "parameters": {"k1": 1.2}}},
            "SciFact has k1 = 1.2; the published figure has 0.9",
        ),
        ({"options": {"k1": 1.5}}, "SciFact has k1 = 1.5; the published figure has 0.9"),
    ],
)
@pytest.mark.usefixtures("tables")
def test_a_row_that_does_not_match_the_publication_has_a_reason_instead_of_a_figure(
    changes: dict[str, Any], reason: str
) -> None:
    figure = only([row(**changes)])
    assert (figure.verdict, figure.measured, figure.difference, figure.trace) == ("incomplete", None, None, ())
    assert figure.reasons == (reason,)


@pytest.mark.parametrize("rows", [[], [row("NFCorpus")], [row(engine="another")], [row(candidates={})]])
@pytest.mark.usefixtures("tables")
def test_a_benchmark_that_the_engine_did_not_run_is_not_measured(rows: list[Row]) -> None:
    figure = only(rows)
    assert (figure.verdict, figure.measured, figure.reasons) == ("not measured", None, ("SciFact is missing",))


@pytest.mark.usefixtures("tables")
def test_a_benchmark_may_be_mapped_to_the_name_in_the_published_table() -> None:
    named = PublishedComparison(table="theirs", engines={"ours": "model-1"}, benchmarks={"SciFact": "SciFact-dense"})
    (figure,) = compare(named, [row("SciFact", 0.1), row("SciFact-dense", 0.6451)], as_recorded)
    assert figure.verdict == "reproduced" and figure.trace[0].benchmark == "SciFact-dense"


def test_dense_retrieval_must_use_the_model_of_the_engine(tables: Callable[..., None]) -> None:
    tables(change=("first_stage: bm25", "first_stage: dense"))
    candidates = {"source": "dense", "k": 100, "parameters": {"model": "minilm"}}
    assert only([row(candidates=candidates, description=Description(model="minilm"))]).verdict == "reproduced"
    figure = only([row(candidates=candidates, description=Description(model="another"))])
    assert figure.reasons == ("SciFact has candidates from a different model than the engine's",)


# Equal scores


def by_ties(row: Row, names: Sequence[str], ties: Ties) -> Mapping[str, Measurement]:
    values = {Ties.FIRST_STAGE: 0.6500, Ties.TREC_EVAL: 0.6452, Ties.ASCENDING_IDS: 0.6600}
    return dict.fromkeys(names, Measurement(values[ties], 0.6, 0.7))


def test_a_cell_is_computed_and_judged_by_the_publishers_order_of_equal_scores(tables: Callable[..., None]) -> None:
    figure = only([row(value=0.65)], measured=by_ties)
    assert figure.measured is not None and figure.measured.value == 0.6452
    assert (figure.verdict, figure.ties) == ("reproduced", "trec_eval")
    assert figure.moved_by_ties == pytest.approx(-0.0048)
    assert figure.document()["by_ties"] == {"first_stage": 0.65, "trec_eval": 0.6452, "ascending_ids": 0.66}
    tables(change=("ties: trec_eval", "ties: first_stage"))
    assert only([row(value=0.65)], measured=by_ties).verdict == "differs"


def test_an_average_is_computed_by_the_publishers_order_of_equal_scores(tables: Callable[..., None]) -> None:
    tables(AVERAGE)
    figure = only(members(), "all", by_ties)
    assert figure.measured is not None and figure.measured.value == pytest.approx(0.6452)
    assert {trace.measured.value for trace in figure.trace} == {0.6452}


def test_a_run_is_compared_by_stored_scores_in_the_publishers_order(
    tables: Callable[..., None], config: Callable[..., Path], crispbench: Callable[..., Any], tmp_path: Path
) -> None:
    # d1, d2 and d3 have equal scores, so the order of ties decides where the relevant d2 is. The candidates d2 d1 d3
    # keep it first; by ids, in either direction, it is second. For q2, d4 is above all of them.
    folder = tmp_path / "tied"
    documents = {"d1": "same words", "d2": "same words", "d3": "same words", "d4": "red fox"}
    write_beir(folder, documents, {"q1": "blue whale", "q2": "red fox"}, {"q1": {"d2": 1}, "q2": {"d2": 1}})
    write_run(tmp_path / "candidates.trec", {"q1": ["d2", "d1", "d3"], "q2": ["d2", "d1", "d3", "d4"]}, "made")
    column = "  - {name: tied, benchmark: tied, measure: RR@3, queries: 2, values: {model-1: 0.4166}}\n"
    tables(column, change=("first_stage: bm25, engine: fake, parameters: {k1: 0.9}", "first_stage: run, engine: fake"))
    path = config(
        engines={"ours": {"kind": "fake", "decimals": 0}},
        benchmarks=[{"source": "beir", "path": str(folder)}],
        candidates={"source": "run", "path": str(tmp_path / "candidates.trec"), "k": 4},
        published=[{"table": "theirs", "engines": {"ours": "model-1"}, "columns": ["tied"]}],
    )
    answer = crispbench("run", path, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    (figure,) = json.loads((tmp_path / "out/published.json").read_text())["figures"]
    # q1 1, q2 1/2 in the first stage's order; q1 1/2, q2 1/3 by ids
    assert figure["by_ties"] == pytest.approx({"first_stage": 0.75, "trec_eval": 5 / 12, "ascending_ids": 5 / 12})
    assert figure["measured"]["value"] == pytest.approx(5 / 12) and figure["verdict"] == "reproduced"
    assert "equal scores decide: 0.7500 in the first stage" in (tmp_path / "out/report/report.md").read_text()


# Unspecified protocols


def test_a_figure_of_an_unspecified_protocol_is_shown_without_a_verdict(tables: Callable[..., None]) -> None:
    tables(change=UNSPECIFIED)
    for value in (0.6451, 0.1):
        figure = only([row(value=value)])
        assert (figure.verdict, figure.tolerance) == ("unspecified", None)
        assert figure.difference == pytest.approx(value - 0.6451)


def test_a_latency_has_median_mean_and_both_machines_and_no_verdict(
    tables: Callable[..., None],
) -> None:
    tables(LATENCY)
    figure = only([row("NFCorpus")], "latency")
    assert figure.verdict == "unspecified"  # the protocol is stated, but the machine differs
    assert figure.measured == (0.25, None, None)
    assert figure.mean_s == pytest.approx(0.35)  # (0.25 + 0.25 + 0.55) / 3
    assert figure.difference == pytest.approx(-0.25)
    assert (figure.source.machine, figure.machine) == ("A100", "a laptop")
    few = row("NFCorpus", p50=Percentile(None, 0, 1), service_s=())
    assert only([few], "latency").reasons == ("NFCorpus has too few samples",)


# Averages


def members(**changes: Mapping[str, Any]) -> list[Row]:
    values = {"a": 0.6, "b1": 0.2, "b2": 0.4}
    return [row(name, value, **({"queries": 4} | dict(changes.get(name, {})))) for name, value in values.items()]


def test_an_average_counts_every_group_once(tables: Callable[..., None]) -> None:
    tables(AVERAGE)
    figure = only(members(), "all")
    assert figure.published == 0.5
    assert figure.measured is not None
    assert figure.measured.value == pytest.approx(0.45)  # (0.6 + (0.2 + 0.4) / 2) / 2; the mean of three would be 0.4
    assert [trace.benchmark for trace in figure.trace] == ["a", "b1", "b2"]
    assert figure.verdict == "differs"  # 0.05 is more than 0.002


def test_the_order_of_the_rows_does_not_affect_an_average(tables: Callable[..., None]) -> None:
    tables(AVERAGE)
    assert only(members()[::-1], "all") == only(members(), "all")


def test_an_average_with_a_missing_member_has_no_number_and_names_it(tables: Callable[..., None]) -> None:
    tables(AVERAGE)
    figure = only(members()[:2], "all")
    assert (figure.verdict, figure.measured, figure.reasons) == ("incomplete", None, ("b2 is missing",))


@pytest.mark.parametrize("status", ["stated", "unspecified"])
def test_an_average_over_an_incomplete_member_has_no_number_and_names_it(
    status: str, tables: Callable[..., None]
) -> None:
    tables(AVERAGE, change=UNSPECIFIED if status == "unspecified" else ("", ""))
    incomplete: Completeness = "incomplete"
    figure = only(members(b1={"verdict": incomplete}, a={"queries": 3}), "all")
    assert (figure.verdict, figure.measured) == ("incomplete", None)
    assert figure.reasons == ("a has 3 queries, not 4", "b1 is incomplete")


def test_an_average_without_any_member_is_not_measured(tables: Callable[..., None]) -> None:
    tables(AVERAGE)
    figure = only([row()], "all")
    assert figure.verdict == "not measured" and figure.reasons == ("none of its 3 benchmarks was run",)


def test_the_interval_of_an_average_treats_its_means_as_independent() -> None:
    mean = average([Measurement(0.5, 0.4, 0.7), Measurement(0.3, 0.0, 0.4)], [0.5, 0.5])
    # Half-widths: sqrt(0.05 ** 2 + 0.15 ** 2) = 0.158114 below and sqrt(0.1 ** 2 + 0.05 ** 2) = 0.111803 above.
    assert mean == pytest.approx((0.4, 0.241886, 0.511803), abs=1e-6)
    alone = average([Measurement(0.5, 0.4, 0.7)], [1.0])
    assert alone == pytest.approx((0.5, 0.4, 0.7))
    assert average([Measurement(0.5, None, None)], [1.0]) == (0.5, None, None)


# Shipped tables


def test_every_published_table_is_valid_and_names_existing_suites() -> None:
    assert table_names() == ["bm25-anserini", "minilm", "mxbai-rerank-v2"]
    for name in table_names():
        table = load_table(name)
        assert (table.protocol.ties is None) == (table.protocol.status == "unspecified")
        assert table.name == name and table.source and table.retrieved == "2026-11"
        for column in table.columns:
            assert column.suite is None or load_suite(column.suite)


def test_the_table_of_mxbai_rerank_v2_has_an_unspecified_protocol_and_its_published_values() -> None:
    table = load_table("mxbai-rerank-v2")
    assert table.protocol.status == "unspecified" and table.tolerance is None
    assert {column.name: list(column.values.values()) for column in table.columns} == {
        "BEIR": [57.49, 55.57, 49.32],
        "multilingual": [29.79, 28.56, 21.88],
        "Chinese": [84.16, 83.70, 72.53],
        "code": [32.05, 31.73, 30.72],
        "latency": [0.89, 0.67, 2.24],
    }
    assert table.models == ["mxbai-rerank-large-v2", "mxbai-rerank-base-v2", "mxbai-rerank-large-v1"]


def test_the_table_of_anserini_has_flat_and_multifield_bm25_for_every_dataset() -> None:
    table = load_table("bm25-anserini")
    assert table.protocol.status == "stated" and table.tolerance is not None and table.tolerance.value == 0.010
    values = {column.name: tuple(column.values.values()) for column in table.columns}
    assert len(values) == 2 * 29  # 17 datasets and 12 forums
    assert values["SciFact nDCG@10"] == (0.6789, 0.6647) and values["SciFact R@100"] == (0.9253, 0.9076)
    assert values["FEVER nDCG@10"] == (0.6513, 0.7530)
    forums = [value for name, value in values.items() if name.startswith("CQADupstack") and name.endswith("nDCG@10")]
    assert len(forums) == 12
    assert sum(flat for flat, _ in forums) / 12 == pytest.approx(0.3021, abs=5e-5)
    assert sum(multifield for _, multifield in forums) / 12 == pytest.approx(0.2987, abs=5e-5)


def test_the_table_of_all_minilm_l6_v2_is_dense_retrieval_over_the_whole_corpus() -> None:
    table = load_table("minilm")
    assert {column.benchmark: column.values["all-MiniLM-L6-v2"] for column in table.columns} == {
        "SciFact": 0.6451,
        "NFCorpus": 0.3159,
        "ArguAna": 0.97724,
    }
    assert [column.values["all-MiniLM-L6-v2"] for column in table.columns[2:]] == [0.50167, 0.4223, 0.97724]
    assert table.protocol.first_stage == "dense" and table.tolerance is not None and table.tolerance.value == 0.002


# Mistakes


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"table": "typo", "engines": {"fake": "m"}},
            "published table 'typo' is not known; expected one of bm25-anserini,",
        ),
        (
            {"table": "minilm", "engines": {"typo": "all-MiniLM-L6-v2"}},
            "engine 'typo' is not known; expected one of fake",
        ),
        (
            {"table": "minilm", "engines": {"fake": "typo"}},
            "model 'typo' is not known; expected one of all-MiniLM-L6-v2",
        ),
        (
            {"table": "minilm", "engines": {"fake": "all-MiniLM-L6-v2"}, "columns": ["typo"]},
            "column 'typo' is not known; expected one of SciFact, NFCorpus",
        ),
        (
            {"table": "minilm", "engine": {}},
            "did you mean 'engines'? expected one of benchmarks",
        ),
    ],
)
def test_a_wrong_name_under_published_is_a_usage_error_with_the_valid_names(
    entry: dict[str, Any], message: str, config: Callable[..., Path], crispbench: Callable[..., Any]
) -> None:
    benchmarks = [{"source": "beir", "path": "nowhere"}]
    answer = crispbench("run", config(engines={"fake": {"kind": "fake"}}, benchmarks=benchmarks, published=[entry]))
    assert answer.code == 2 and message in answer.err and answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("tolerance: {value: 0.002, reason: another tokeniser}\n", ""), "needs a tolerance and its reason"),
        (("benchmark: SciFact, ", ""), "column 'SciFact' needs either a benchmark or a suite"),
        (("retrieved: 2026-11\n", ""), "option 'retrieved' is missing"),
        (
            ("measure: nDCG@10", "measur: nDCG@10"),
            "did you mean 'measure'? expected one of benchmark",
        ),
        (("measure: nDCG@10", "measure: nDGC@10"), "measure 'nDGC@10' cannot be computed"),
        (("value: 0.002", "value: 0"), "tolerance.value = 0"),
        (("ties: trec_eval, ", ""), "needs protocol.ties, one of first_stage, trec_eval, ascending_ids"),
        (("ties: trec_eval", "ties: random"), "protocol.ties = 'random'"),
    ],
)
def test_a_table_with_a_mistake_is_refused_with_its_path(
    change: tuple[str, str], message: str, tables: Callable[..., None]
) -> None:
    tables(change=change)
    with pytest.raises(BadOptions) as error:
        load_table("theirs")
    assert "theirs.yaml: " in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


# Shipped configs


def test_the_full_table_covers_every_published_model_and_both_templates() -> None:
    config = read_config(ROOT / "configs/table.yaml")
    card, bm25 = config.published
    assert set(card.engines.values()) == set(load_table("mxbai-rerank-v2").models)
    assert {config.engines[name].given["template"] for name in ("large-card", "large-ref")} == {
        "mxbai-v2-seq",
        "mxbai-v2",
    }
    names = {name for name, _ in config.entries}
    needed = [column for column in load_table("bm25-anserini").columns if column.name in (bm25.columns or ())]
    assert len(names) == 61 and len(needed) == 50 and {column.benchmark for column in needed} < names


def test_the_cpu_table_uses_the_published_candidates_of_every_collection() -> None:
    config = read_config(ROOT / "configs/table-cpu.yaml")
    dense = {
        getattr(entry.source, "label", ""): entry.candidates.options
        for _, entry in config.entries
        if isinstance(entry.candidates, DenseStage)
    }
    assert dense.keys() == set(config.published[1].benchmarks.values()) == {"SciFact-dense", "NFCorpus-dense"}
    minilm = config.engines["minilm"].options
    assert list(dense.values()) == [minilm, minilm]
