from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records import Measurement, Percentile, Row
from harness.report import notation
from harness.report.table import Cell, Table
from harness.run.page.table import tabulate

MakeRow = Callable[..., Row]


def cell(table: Table, engine: str, column: str) -> Cell:
    line = next(line for line in table.cells if line[0].value == engine)
    return line[table.columns.index(column)]


def test_columns_have_the_names_of_the_measures_with_the_ranking_measure_first(rows: list[Row]) -> None:
    assert tabulate(rows[:4]).columns == (
        "engine", "nDCG@10", "Δ nDCG@10", "AP", "Judged@10", "tie rate", "p50", "p90", "pairs/s", "verdict",
    )  # fmt: skip


def test_a_line_prints_the_golden_figures(rows: list[Row]) -> None:
    line = tabulate(rows[:4]).cells[1]
    assert [cell.text for cell in line] == [
        "large", "0.6250 [0.5000, 0.7500]", "+0.2500 [+0.1250, +0.3750]", "0.3125", "0.9000", "12.5%", "12.5 ms", "-",
        "617", "complete",
    ]  # fmt: skip


def test_the_baseline_has_no_difference_to_itself(rows: list[Row]) -> None:
    assert cell(tabulate(rows[:4]), "bm25", "Δ nDCG@10").text == "baseline"


def test_an_invalid_row_shows_dashes_instead_of_zeros(rows: list[Row]) -> None:
    line = tabulate(rows[:4]).cells[3]
    assert [cell.text for cell in line] == ["broken", *["-"] * 8, "invalid 75.0% scored"]


def test_figures_of_an_invalid_row_are_hidden(row: MakeRow) -> None:
    wrong = row("broken", verdict="invalid", measures={"nDCG@10": Measurement(0.0, 0.0, 0.0)})
    assert {cell.text for cell in tabulate([row(), wrong]).cells[1][1:-1]} == {"-"}


def test_an_engine_that_never_started_shows_dashes_instead_of_zeros(row: MakeRow) -> None:
    absent = row("absent", verdict="incomplete", measures={}, per_query={}, tie_rate=0.0, coverage=0.0, candidates={})
    line = tabulate([row(), absent]).cells[1]
    assert [cell.text for cell in line] == ["absent", *["-"] * 8, "incomplete 0% scored"]


def test_an_engine_that_scored_no_query_shows_dashes_although_its_mean_is_zero(row: MakeRow) -> None:
    failed = row("failed", (0.0, 0.0, 0.0, 0.0), verdict="incomplete", coverage=0.0)
    assert {cell.text for cell in tabulate([row(), failed]).cells[1][1:-1]} == {"-"}


def test_an_incomplete_row_shows_its_coverage(rows: list[Row]) -> None:
    assert cell(tabulate(rows[:4]), "half", "verdict").text == "incomplete 75.0% scored"


def test_a_measure_missing_for_one_engine_is_a_dash(row: MakeRow) -> None:
    table = tabulate([row(), row("other", measures={"nDCG@10": Measurement(0.5, None, None)})])
    assert cell(table, "other", "AP").text == "-"
    assert cell(table, "other", "nDCG@10").text == "0.5000"


@pytest.mark.parametrize(("k", "shown"), [(20, ["R@20"]), (100, ["R@20", "R@100", "R(rel=2)@50"])])
def test_a_recall_beyond_the_candidates_is_not_printed(row: MakeRow, k: int, shown: list[str]) -> None:
    measures = dict.fromkeys(("nDCG@10", "R@20", "R@100", "R(rel=2)@50", "RR@50"), Measurement(0.5, 0.4, 0.6))
    columns = tabulate([row(measures=measures, candidates={"source": "bm25", "k": k, "sha256": "ab" * 32})]).columns
    assert [name for name in columns if name.startswith(("R@", "R("))] == shown
    assert "RR@50" in columns


def test_a_recall_is_a_dash_for_the_engine_whose_lists_are_too_short(row: MakeRow) -> None:
    measures = dict.fromkeys(("nDCG@10", "R@100"), Measurement(0.5, 0.4, 0.6))
    short = row("short", measures=measures, candidates={"source": "run", "k": 20, "sha256": "cd" * 32})
    table = tabulate([row(measures=measures), short])
    assert (cell(table, "bm25", "R@100").text, cell(table, "short", "R@100").text) == ("0.5000", "-")


def test_a_count_is_printed_as_a_whole_number_and_is_never_best(row: MakeRow) -> None:
    counts = [{"nDCG@10": Measurement(0.5, 0.4, 0.6), "NumRet(rel=1)": Measurement(n, None, None)} for n in (1500, 9)]
    table = tabulate([row("one", measures=counts[0]), row("two", measures=counts[1])])
    cells = [cell(table, engine, "NumRet(rel=1)") for engine in ("one", "two")]
    assert [(shown.text, shown.best) for shown in cells] == [("1,500", False), ("9", False)]


def test_a_measured_zero_is_printed_as_zero(row: MakeRow) -> None:
    table = tabulate([row(quality=(0.0, 0.0), measures={"nDCG@10": Measurement(0.0, 0.0, 0.0)})])
    assert cell(table, "bm25", "nDCG@10").text == "0.0000 [0.0000, 0.0000]"


def test_the_best_complete_figure_is_marked(rows: list[Row]) -> None:
    table = tabulate(rows[:4])
    best = {
        (line[0].value, name)
        for line in table.cells
        for name, figure in zip(table.columns, line, strict=True)
        if figure.best
    }
    assert best == {("large", "nDCG@10"), ("large", "AP"), ("bm25", "pairs/s")}


def test_an_incomplete_row_is_never_marked_best(row: MakeRow) -> None:
    table = tabulate([row(), row("low", (0.1, 0.1, 0.1, 0.1)), row("half", (1, 1, 1, 1), "incomplete")])
    assert cell(table, "bm25", "nDCG@10").best
    assert not cell(table, "half", "nDCG@10").best


def test_the_shortest_time_is_the_best(row: MakeRow) -> None:
    table = tabulate([row(), row("fast", p50=Percentile(0.001, 4, 1))])
    assert (cell(table, "fast", "p50").text, cell(table, "fast", "p50").best) == ("1.00 ms", True)


@pytest.mark.parametrize("changes", [{"candidates": {"sha256": "cd"}}, {"quality": (0.9, 0.9)}])
def test_rows_over_other_candidates_or_queries_are_never_marked_best(row: MakeRow, changes: dict[str, object]) -> None:
    table = tabulate([row(), row("low", (0.1, 0.1, 0.1, 0.1)), row("else", **changes)])
    assert not any(figure.best for figure in table.cells[2])
    assert cell(table, "bm25", "nDCG@10").best


def test_a_lone_engine_is_not_marked_best_and_has_no_difference_column(row: MakeRow) -> None:
    table = tabulate([row()])
    assert "Δ nDCG@10" not in table.columns
    assert not any(figure.best for line in table.cells for figure in line)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"), (float("nan"), "-"), (0.0, "<0.001 ms"), (0.0000456, "0.046 ms"), (0.00456, "4.56 ms"),
        (0.0456, "45.6 ms"), (0.4567, "457 ms"), (0.9996, "1.00 s"), (12.34, "12.3 s"), (1234.0, "1,230 s"),
    ],
)  # fmt: skip
def test_a_duration_has_three_digits_and_its_unit(seconds: float | None, text: str) -> None:
    assert notation.duration(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "-"), (0.0, "0%"), (0.0001, "<0.1%"), (0.5, "50.0%"), (0.9999, ">99.9%"), (1.0, "100%")],
)
def test_only_all_prints_as_100_percent_and_only_none_as_0_percent(share: float | None, text: str) -> None:
    assert notation.percent(share) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "+0.0123"), (-0.01234, "\N{MINUS SIGN}0.0123"), (-0.00001, "0.0000"), (None, "-")]
)
def test_a_difference_has_a_sign_unless_it_prints_as_zero(value: float | None, text: str) -> None:
    assert notation.signed(value) == text


@pytest.mark.parametrize(
    ("value", "limit", "least", "text"),
    [
        (0.0499, 0.05, 3, "0.0499"),
        (0.05, 0.05, 3, "0.050"),
        (9.97, 10.0, 1, "9.97"),
        (0.3, 10.0, 1, "0.3"),
        (1e-9, 0.0, 4, "0.000000001"),
    ],
)
def test_a_figure_beside_a_limit_has_the_decimals_that_tell_them_apart(
    value: float, limit: float, least: int, text: str
) -> None:
    assert notation.beside(value, limit, least) == text


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_printed_figures_have_the_order_of_the_figures(value: float, limit: float) -> None:
    places = notation.places([value], [limit], 4)
    before, after = float(f"{value:.{places}f}"), float(f"{limit:.{places}f}")
    assert abs(value - limit) < 1e-16 or ((before > after) == (value > limit) and (before < after) == (value < limit))


@pytest.mark.parametrize(("value", "text"), [(0.005, "0.005"), (50.0, "50"), (0.1234567891, "0.1234567891")])
def test_a_number_that_a_user_chose_is_printed_as_it_is(value: float, text: str) -> None:
    assert notation.exact(value) == text
