"""The table of one benchmark: a line for each engine."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from harness.records import Percentile, Row
from harness.report import notation
from harness.report.table import QUALITY, Cell, Table

UNRANKED = ("Judged@10",)  # says how far the judgements reach, not how good an engine is


class Column(NamedTuple):
    name: str
    cell: Callable[[Row], Cell]
    merit: Callable[[Row], float | None] | None = None  # the highest is the best; None: nothing to win


def by_benchmark(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each benchmark, both in the order of the config."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.benchmark, []).append(row)
    return groups


def is_measured(row: Row) -> bool:
    """Whether the row has figures at all: an invalid run and an engine that scored no query have none."""
    return row.verdict != "invalid" and bool(row.measures) and row.coverage > 0


def contenders(rows: Sequence[Row]) -> list[Row]:
    """The rows of one benchmark that may be compared: complete, over equal candidates and queries."""
    complete = [row for row in rows if row.verdict == "complete" and QUALITY in row.measures]
    return [row for row in complete if _same_ground(row, complete[0])]


def tabulate(rows: Sequence[Row]) -> Table:
    """The table of one benchmark. Its first engine is the baseline, which differences are taken against."""
    columns = _columns(rows, rows[0].engine)
    rivals = contenders(rows)
    lines = zip(*(_cells(column, rows, rivals) for column in columns), strict=True)
    return Table(notation.plain(rows[0].benchmark), tuple(column.name for column in columns), tuple(lines))


def _same_ground(a: Row, b: Row) -> bool:
    return a.candidates.get("sha256") == b.candidates.get("sha256") and a.per_query.keys() == b.per_query.keys()


def _columns(rows: Sequence[Row], baseline: str) -> list[Column]:
    names = dict.fromkeys(name for row in rows for name in row.measures)
    rest = [_measure(name) for name in names if name != QUALITY]
    quality = [_measure(QUALITY)] if QUALITY in names else []
    against = Column(f"Δ {QUALITY}", lambda row: _against(row, baseline))
    return [
        Column("engine", lambda row: Cell(notation.plain(row.engine))),
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
        found = row.measures.get(name)
        if found is None:
            return Cell()
        return Cell(notation.decimal(found.value), notation.interval(found.lo, found.hi) if name == QUALITY else "")

    def merit(row: Row) -> float | None:
        found = row.measures.get(name)
        return found.value if found else None

    return Column(notation.plain(name), cell, None if name in UNRANKED else merit)


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
    return Cell(row.verdict, "" if row.verdict == "complete" else f"{notation.percent(row.coverage)} scored")


def _cells(column: Column, rows: Sequence[Row], rivals: Sequence[Row]) -> list[Cell]:
    always = column.name in ("engine", "verdict")
    cells = [column.cell(row) if always or is_measured(row) else Cell() for row in rows]
    best = _best(column, rivals)
    names = {row.engine for row in rivals}
    return [
        cell._replace(best=row.engine in names and cell.value == best) for row, cell in zip(rows, cells, strict=True)
    ]


def _best(column: Column, rivals: Sequence[Row]) -> str | None:
    """The best figure as printed, since what prints alike wins alike; None where all are alike."""
    if column.merit is None:
        return None
    merits = [(column.merit(row), column.cell(row).value) for row in rivals]
    known = [(merit, text) for merit, text in merits if merit is not None and math.isfinite(merit)]
    return max(known)[1] if len({text for _, text in known}) > 1 else None
