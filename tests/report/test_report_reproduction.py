"""Published figures beside the measured ones, the same in every format, and the origin of every measured figure."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from engines.base import Description
from harness.benchmarks.suites import load_suite
from harness.figures.measures import Ties
from harness.published import PublishedComparison, Reproduction, compare, load_table
from harness.records import Measurement, Percentile, Row
from harness.report import html, latex, markdown, terminal
from harness.report.content import Report, Section
from harness.run.page import content, reproduction

MakeRow = Callable[..., Row]
MXBAI = PublishedComparison(
    table="mxbai-rerank-v2",
    engines={"large": "mxbai-rerank-large-v2"},
    columns=("BEIR", "multilingual", "Chinese", "code", "latency"),
)
BM25 = PublishedComparison(
    table="bm25-anserini", engines={"bm25": "bm25-flat"}, columns=("SciFact nDCG@10", "NFCorpus nDCG@10", "FEVER R@100")
)


@pytest.fixture
def rows(row: MakeRow) -> list[Row]:
    """The four Chinese tasks, one member of BEIR with latencies, and BM25 on two collections."""
    chinese = [
        row(
            "large",
            benchmark=member.name,
            queries=member.queries,
            measures={"nDCG@10": Measurement(value, value - 0.02, value + 0.02)},
            folder="table/large",
            revision=f"rev-{member.name}",
            candidates={"source": "native", "k": 100, "sha256": "cd" * 32},
        )
        for member, value in zip(load_suite("chinese").members, (0.7, 0.5, 0.8, 0.9), strict=True)
    ]
    timed = row("large", benchmark="NFCorpus", queries=323, p50=Percentile(0.45, 3, 1), machine="H100; 16 cores",
                service_s=(0.4, 0.45, 0.59))  # fmt: skip
    near, far = Measurement(0.6822, 0.63, 0.73), Measurement(0.3, 0.27, 0.33)
    bm25 = [
        row(
            benchmark="SciFact",
            kind="bm25",
            queries=300,
            measures={"nDCG@10": near},
            folder="table/bm25",
            revision="rev-s",
        ),
        row(
            benchmark="NFCorpus",
            kind="bm25",
            queries=323,
            measures={"nDCG@10": far},
            folder="table/bm25",
            revision="rev-n",
        ),
    ]
    return [*chinese, timed, *bm25]


@pytest.fixture
def reproductions(rows: Sequence[Row]) -> list[Reproduction]:
    return compare(MXBAI, rows, as_recorded) + compare(BM25, rows, as_recorded)


def as_recorded(row: Row, names: Sequence[str], ties: Ties) -> Mapping[str, Measurement]:
    """Values of a row without equal scores; a measure that it lacks is 0."""
    return dict.fromkeys(names, Measurement(0.0, None, None)) | row.measures


def on_terminal(report: Report) -> str:
    console = Console(file=io.StringIO(), width=200)
    terminal.show(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


RENDERERS: dict[str, Callable[[Report], str]] = {
    "terminal": on_terminal,
    "markdown": lambda report: markdown.render(report, []),
    "html": lambda report: html.render(report, []),
    "latex": latex.render,
}


def section(rows: Sequence[Row], reproductions: Sequence[Reproduction], table: str = "mxbai-rerank-v2") -> Section:
    sections = content.build(rows, "", reproductions).sections
    return next(section for section in sections if section.anchor == f"published-{table}")


def lines(section: Section) -> list[list[str]]:
    assert section.table is not None
    return [[cell.text for cell in line] for line in section.table.cells]


def test_the_section_keeps_the_published_columns_and_has_four_lines_per_engine(
    rows: list[Row], reproductions: list[Reproduction]
) -> None:
    published_section = section(rows, reproductions)
    assert published_section.title == "Published and measured: mxbai-rerank-v2"
    assert published_section.table is not None and published_section.table.columns == (
        "engine",
        "",
        "BEIR",
        "multilingual",
        "Chinese",
        "code",
        "latency",
    )
    # NFCorpus is only one of the 26 members of BEIR, so BEIR has no average.
    # (0.7 + 0.5 + 0.8 + 0.9) / 4 = 0.725; sqrt(4 * (0.25 * 0.02) ** 2) = 0.01; (400 + 450 + 590) / 3 = 480
    assert lines(published_section) == [
        ["large as mxbai-rerank-large-v2", "published", "0.5749", "0.2979", "0.8416", "0.3205", "890 ms"],
        ["", "measured", "-", "-", "0.7250 [0.7150, 0.7350]", "-", "450 ms p50, mean 480 ms"],
        ["", "difference", "-", "-", "−0.1166", "-", "−440 ms"],
        ["", "verdict", "incomplete", "not measured", "unspecified", "not measured", "unspecified"],
    ]


def test_a_verdict_is_shown_with_its_tolerance(rows: list[Row], reproductions: list[Reproduction]) -> None:
    assert lines(section(rows, reproductions, "bm25-anserini")) == [
        ["bm25 as bm25-flat", "published", "0.3218", "0.9185", "0.6789"],
        ["", "measured", "0.3000 [0.2700, 0.3300]", "-", "0.6822 [0.6300, 0.7300]"],
        ["", "difference", "−0.0218", "-", "+0.0033"],
        ["", "verdict", "differs ±0.0100", "not measured", "reproduced ±0.0100"],
    ]


def test_a_wide_published_table_has_one_line_per_figure(rows: list[Row]) -> None:
    every_column = tuple(column.name for column in load_table(BM25.table).columns)
    published_section = section(
        rows,
        compare(BM25.model_copy(update={"columns": every_column}), rows, as_recorded),
        BM25.table,
    )
    assert published_section.table is not None
    assert published_section.table.columns[2:] == (
        "column",
        "published",
        "measured",
        "difference",
        "tolerance",
        "verdict",
    )
    printed = {line[2]: line[3:] for line in lines(published_section)}
    assert len(printed) > 40
    assert printed["SciFact nDCG@10"] == ["0.6789", "0.6822 [0.6300, 0.7300]", "+0.0033", "±0.0100", "reproduced"]
    assert printed["FEVER R@100"] == ["0.9185", "-", "-", "", "not measured"]


def test_a_figure_that_was_not_published_for_a_model_is_empty(reproductions: list[Reproduction]) -> None:
    unpublished = replace(reproductions[0], engine="other", model="their-other")  # only its BEIR figure was published
    published_here = [figure for figure in reproductions if figure.table.name == MXBAI.table]
    table = reproduction.tabulate([*published_here, unpublished])
    published, *_, verdict = [[cell.text for cell in line] for line in table.cells][4:]
    assert published == ["other as their-other", "published", "0.5749", "", "", "", ""]
    assert verdict == ["", "verdict", "incomplete", "", "", "", ""]


def test_one_sentence_counts_the_verdicts_and_names_differing_and_incomplete_figures(
    rows: list[Row], reproductions: list[Reproduction]
) -> None:
    assert section(rows, reproductions).sentence == (
        "Published figures: 1 incomplete (large BEIR), 2 not measured, 2 unspecified."
    )
    assert section(rows, reproductions, BM25.table).sentence == (
        "Published figures: 1 differs (bm25 NFCorpus nDCG@10), 1 not measured, 1 reproduced."
    )


def test_every_figure_has_a_footnote_with_folder_revision_candidates_queries_and_interval(
    rows: list[Row], reproductions: list[Reproduction]
) -> None:
    sections = (section(rows, reproductions, name) for name in (MXBAI.table, BM25.table))
    footnotes = {footnote.cell: footnote for section in sections for footnote in section.footnotes}
    assert footnotes["bm25, SciFact nDCG@10"].line == (
        "table/bm25: revision rev-s; candidates bm25, k = 100; 300 queries; nDCG@10 0.6822 [0.6300, 0.7300]"
    )
    assert footnotes["large, latency"].line == (
        "large: revision -; candidates bm25, k = 100; 323 queries; "
        "p50 and mean of one query at a time, here on H100; 16 cores, published on A100"
    )


def test_the_footnote_of_an_average_names_its_members_and_their_origins(
    rows: list[Row], reproductions: list[Reproduction]
) -> None:
    footnote = next(note for note in section(rows, reproductions).footnotes if note.cell == "large, Chinese")
    assert footnote.line == (
        "table/large: mean of 4 [0.7150, 0.7350] over 8,008 queries, each once: "
        "T2Reranking, MMarcoReranking, CMedQAv1, CMedQAv2"
    )
    assert len(footnote.members) == 4
    assert footnote.members[1] == (
        "MMarcoReranking: table/large: revision rev-MMarcoReranking; candidates native, k = 100; 100 queries; "
        "nDCG@10 0.5000 [0.4800, 0.5200]"
    )


def test_the_footnote_of_a_missing_average_names_every_missing_member(
    rows: list[Row], reproductions: list[Reproduction]
) -> None:
    footnote = next(note for note in section(rows, reproductions).footnotes if note.cell == "large, BEIR")
    assert footnote.line.startswith("no figure: MSMARCO is missing; TRECCOVID is missing; NQ is missing;")
    assert footnote.line.count("is missing") == 25  # all but NFCorpus


def test_the_sources_of_a_published_table_state_its_origin_and_protocol(
    rows: list[Row], reproductions: list[Reproduction]
) -> None:
    (mxbai,), (bm25,) = (section(rows, reproductions, name).sources for name in (MXBAI.table, BM25.table))
    assert "Not published" not in mxbai.brief and "protocol unspecified. Shown without a verdict" in mxbai.brief
    mxbai, bm25 = mxbai.line, bm25.line
    assert "protocol unspecified: Not published: the first stage" in mxbai and "read 2026-11" in mxbai
    assert "protocol stated: BM25 with k1 = 0.9" in bm25 and "Tolerance 0.0100 above and below: " in bm25


@pytest.mark.parametrize("format", RENDERERS)
def test_every_format_prints_the_same_cells_and_their_origins(
    format: str, rows: list[Row], reproductions: list[Reproduction]
) -> None:
    text = RENDERERS[format](content.build(rows, "", reproductions))
    for expected in ("Published and measured", "0.5749", "0.6822", "±0.0100", "450 ms", "reproduced", "differs"):
        assert expected in text, expected
    flat = " ".join(text.split())
    assert "revision rev-s; candidates bm25, k = 100; 300 queries; nDCG@10 0.6822" in flat
    assert ("MMarcoReranking: table/large" in flat) == (format != "terminal")  # members are in the files


def test_a_run_without_published_figures_has_no_such_section(rows: list[Row]) -> None:
    assert [part.anchor for part in content.build(rows, "").sections if part.anchor.startswith("published")] == []


def test_a_hostile_revision_stays_text_in_every_format(rows: list[Row]) -> None:
    hostile = "a<b>\\x % \n\x1b[31m|_"
    changed = [row for row in rows if row.engine == "bm25"]
    comparison = PublishedComparison(table="bm25-anserini", engines={"bm25": "bm25-flat"}, columns=("SciFact nDCG@10",))
    figures = compare(comparison, [_revised(row, hostile) for row in changed], as_recorded)
    for format, render in RENDERERS.items():
        text = render(content.build([], "", figures))
        assert "\x1b[31m" not in text, format
        assert "<b>\\x" not in text or format in ("terminal", "latex")
        if format == "latex":
            assert all(line.startswith("%") for line in text.splitlines() if "<b>" in line)


def _revised(row: Row, revision: str) -> Row:
    return replace(row, revision=revision)


# A whole run


def test_a_run_writes_the_comparison_of_its_config_and_report_repeats_it(
    config: Callable[..., Any], crispbench: Callable[..., Any], animals: Any, tmp_path: Any
) -> None:
    path = config(
        engines={"bm25": {"kind": "bm25"}},
        benchmarks=[{"source": "beir", "path": str(animals), "name": "SciFact"}],
        published=[{"table": "bm25-anserini", "engines": {"bm25": "bm25-flat"}, "columns": ["SciFact nDCG@10"]}],
    )
    answer = crispbench("run", path, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    sentence = "Published figures: 1 incomplete (bm25 SciFact nDCG@10)."
    assert sentence in answer.out and "SciFact has 5 queries, not 300" in " ".join(answer.out.split())
    first = (tmp_path / "out/report/report.md").read_text(encoding="utf-8")
    assert crispbench("report", tmp_path / "out").out.count(sentence) == 1
    assert (tmp_path / "out/report/report.md").read_text(encoding="utf-8") == first
    (figure,) = json.loads((tmp_path / "out/published.json").read_text(encoding="utf-8"))["figures"]
    assert (figure["table"], figure["engine"], figure["verdict"]) == ("bm25-anserini", "bm25", "incomplete")
    assert figure["published"] == 0.6789 and figure["measured"] is None and figure["trace"] == []


def by_id(row: Row, names: Sequence[str], ties: Ties) -> Mapping[str, Measurement]:
    """Values of a row whose equal scores are worth 0.02 where higher ids come first."""
    lift = 0.02 if ties is Ties.TREC_EVAL else 0.0
    recorded = as_recorded(row, names, ties)
    return {name: Measurement(value + lift, lo, hi) for name, (value, lo, hi) in recorded.items()}


def test_a_figure_that_equal_scores_move_by_more_than_its_tolerance_is_noted(rows: list[Row], row: MakeRow) -> None:
    (footnote,) = [
        note.line
        for note in section(rows, compare(BM25, rows, by_id), BM25.table).footnotes
        if note.cell == "bm25, SciFact nDCG@10"
    ]
    assert footnote.endswith(
        "nDCG@10 0.6822 [0.6300, 0.7300]; equal scores by document id, ascending, as Lucene orders them in float32; "
        "0.7022 by document id, descending, as trec_eval orders them in float32"
    )
    assert section(rows, compare(BM25, rows, by_id), BM25.table).notes == ()  # Lucene's rule moves nothing here
    dense = row(
        "minilm",
        benchmark="SciFact",
        kind="bi_encoder",
        queries=300,
        measures={"nDCG@10": Measurement(0.6251, 0.58, 0.67)},
        description=Description(model="m"),
        candidates={"source": "dense", "k": 100, "sha256": "cd" * 32, "parameters": {"model": "m"}},
    )
    minilm = PublishedComparison(table="minilm", engines={"minilm": "all-MiniLM-L6-v2"}, columns=("SciFact",))
    published_section = section([dense], compare(minilm, [dense], by_id), "minilm")
    assert [note.line for note in published_section.notes] == [
        "minilm, SciFact: equal scores decide: 0.6251 in the first stage's order, 0.6451 by document id, descending, "
        "as trec_eval orders them in float32 (+0.0200, tolerance 0.0020); the publisher's order counts"
    ]
    assert published_section.sentence == "Published figures: 1 reproduced."


def test_a_figure_as_json_holds_its_interval_and_its_trace(reproductions: list[Reproduction]) -> None:
    figure = next(entry for entry in reproductions if entry.column == "SciFact nDCG@10").document()
    assert json.loads(json.dumps(figure))["measured"] == {"value": 0.6822, "lo": 0.63, "hi": 0.73}
    (trace,) = figure["trace"]
    assert (trace["folder"], trace["revision"], trace["first_stage"], trace["k"]) == (
        "table/bm25",
        "rev-s",
        "bm25",
        100,
    )


@pytest.mark.parametrize(
    ("difference", "shown"),
    [(0.00204, "+0.00204"), (-0.00196, "−0.00196"), (0.002, "+0.0020"), (0.0021, "+0.0021"), (0.0005, "+0.0005")],
)
def test_a_printed_difference_lies_on_its_own_side_of_the_tolerance(
    difference: float, shown: str, reproductions: list[Reproduction]
) -> None:
    figure = next(figure for figure in reproductions if figure.tolerance is not None)
    cells = list(reproduction._cells(replace(figure, difference=difference, tolerance=0.002)))
    assert shown in [cell.value for cell in cells]
