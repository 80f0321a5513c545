"""The table of one benchmark: a line for each engine."""

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from harness.figures.measure_names import is_count, is_merit
from harness.figures.measures import HEADLINE
from harness.records import Percentile, Row
from harness.report import notation
from harness.report.table import Cell, Table


class Column(NamedTuple):
    """The cells of a column, and the merit that decides which of them is the best."""

    name: str
    cell: Callable[[Row], Cell]
    merit: Callable[[Row], float | None] | None = None  # the highest is the best; None if no figure is best


def by_benchmark(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each benchmark, both in the order of the config."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.benchmark, []).append(row)
    return groups


def is_measured(row: Row) -> bool:
    """Whether the row has figures: an invalid run and an engine that scored no query do not."""
    return row.verdict != "invalid" and bool(row.measures) and row.coverage > 0


def contenders(rows: Sequence[Row]) -> list[Row]:
    """The rows of one benchmark that may be compared: complete, over the same candidates and queries."""
    complete = [row for row in rows if row.verdict == "complete" and HEADLINE in row.measures]
    return [row for row in complete if _same_ground(row, complete[0])]


def tabulate(rows: Sequence[Row]) -> Table:
    """The table of one benchmark. Its first engine is the baseline of all differences."""
    columns = _columns(rows, rows[0].engine)
    rivals = contenders(rows)
    lines = zip(*(_cells(column, rows, rivals) for column in columns), strict=True)
    return Table(tuple(column.name for column in columns), tuple(lines))


def _same_ground(a: Row, b: Row) -> bool:
    return _lists(a) == _lists(b) and a.per_query.keys() == b.per_query.keys()


def _lists(row: Row) -> str | None:
    return row.candidates.sha256 if row.candidates else None


def _columns(rows: Sequence[Row], baseline: str) -> list[Column]:
    names = dict.fromkeys(name for row in rows for name in row.measures if _reaches(row, name))
    rest = [_measure(name) for name in names if name != HEADLINE]
    quality = [_measure(HEADLINE)] if HEADLINE in names else []
    against = Column(f"Δ {HEADLINE}", lambda row: _against(row, baseline))
    return [
        Column("engine", lambda row: Cell(row.engine)),
        *quality,
        *([against] if quality and len(rows) > 1 else []),
        *rest,
        Column("tie rate", lambda row: Cell(notation.percent(row.tie_rate))),
        Column("p50", lambda row: Cell(notation.duration(row.p50.value)), lambda row: _quickness(row.p50)),
        Column("p90", lambda row: Cell(notation.duration(row.p90.value)), lambda row: _quickness(row.p90)),
        Column("pairs/s", lambda row: Cell(notation.significant(row.pairs_per_s)), lambda row: row.pairs_per_s),
        Column("verdict", _verdict),
    ]


def _measure(name: str) -> Column:
    def cell(row: Row) -> Cell:
        measured = row.measures.get(name)
        if measured is None or not _reaches(row, name):
            return Cell()
        if is_count(name):
            return Cell(f"{measured.value:,.0f}")
        interval = notation.interval(measured.lo, measured.hi) if name == HEADLINE else ""
        return Cell(notation.decimal(measured.value), interval)

    def merit(row: Row) -> float | None:
        measured = row.measures.get(name)
        return measured.value if measured else None

    return Column(name, cell, merit if is_merit(name) else None)


def _reaches(row: Row, name: str) -> bool:
    """Whether a row's lists are long enough for a measure: R@100 of 20 candidates would be their R@20."""
    cut = re.fullmatch(r"R(?:\(.*\))?@([0-9]+)", name)
    return cut is None or row.candidates is None or int(cut[1]) <= row.candidates.k


def _against(row: Row, baseline: str) -> Cell:
    if row.engine == baseline:
        return Cell("baseline")
    difference = row.against_baseline
    if difference is None:
        return Cell()
    return Cell(notation.signed(difference.value), notation.signed_interval(difference.lo, difference.hi))


def _quickness(percentile: Percentile) -> float | None:
    return None if percentile.value is None else -percentile.value


def _verdict(row: Row) -> Cell:
    if row.verdict == "complete":
        return Cell(row.verdict)
    return Cell(row.verdict, f"{notation.percent(row.coverage)} scored", tone="bad")


def _cells(column: Column, rows: Sequence[Row], rivals: Sequence[Row]) -> list[Cell]:
    best = _best(column, rivals)
    names = {row.engine for row in rivals}
    cells = (_shaded(column, row) for row in rows)
    return [
        cell._replace(best=row.engine in names and cell.value == best) for row, cell in zip(rows, cells, strict=True)
    ]


def _shaded(column: Column, row: Row) -> Cell:
    """The cell of one row: without a figure if the run has none, muted if it is not complete."""
    cell = column.cell(row) if is_measured(row) or column.name in ("engine", "verdict") else Cell()
    return cell if row.verdict == "complete" or cell.tone != "plain" else cell._replace(tone="muted")


def _best(column: Column, rivals: Sequence[Row]) -> str | None:
    """The best figure as printed, so that equal prints win together; None if all figures print alike."""
    if column.merit is None:
        return None
    merits = [(column.merit(row), column.cell(row).value) for row in rivals]
    finite = [(merit, text) for merit, text in merits if merit is not None and math.isfinite(merit)]
    return max(finite)[1] if len({text for _, text in finite}) > 1 else None
