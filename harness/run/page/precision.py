"""Cost and gain of a model's lower precisions: a table with one line per precision, the reference first."""

from collections.abc import Sequence

from harness.figures.measures import HEADLINE
from harness.records import Row
from harness.report import notation
from harness.report.content import Section
from harness.report.table import Cell, Table

COLUMNS = (
    "engine", "precision", "weights", HEADLINE, f"Δ {HEADLINE}", "other top 10", "mean drift", "largest drift",
    "pairs/s",
)  # fmt: skip


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of one benchmark whose engines differ only in precision; the reference comes first in each group."""
    references = dict.fromkeys(row.shift.reference for row in rows if row.shift is not None)
    return [[row for row in rows if reference in (row.engine, _reference(row))] for reference in references]


def section(anchor: str, group: Sequence[Row]) -> Section:
    """The section of one such group."""
    table = Table(COLUMNS, tuple(map(_line, group)), words=2, judged=False)
    return Section(anchor, f"{group[0].benchmark}: precision", table, sentence(group))


def sentence(group: Sequence[Row]) -> str:
    """The number of queries whose top 10 contains different documents."""
    counts = [
        f"in {row.shift.top10:,} of {row.shift.queries:,} queries with {row.engine}"
        for row in group
        if row.shift is not None
    ]
    return f"The top 10 differs from {group[0].engine} {', '.join(counts)}."


def _reference(row: Row) -> str | None:
    return row.shift.reference if row.shift else None


def _line(row: Row) -> tuple[Cell, ...]:
    quality = row.measures[HEADLINE]
    size_mb = row.description.weights_mb
    return (
        Cell(row.engine),
        Cell(row.description.precision),
        Cell() if size_mb is None else Cell(f"{size_mb:.1f} MB"),
        Cell(notation.decimal(quality.value), notation.interval(quality.lo, quality.hi)),
        *_shift(row),
        Cell(notation.significant(row.pairs_per_s)),
    )


def _shift(row: Row) -> tuple[Cell, ...]:
    shift = row.shift
    if shift is None:
        return (Cell("reference"), Cell(""), Cell(""), Cell(""))
    value, lo, hi, _ = shift.difference
    return (
        Cell(notation.signed(value), notation.signed_interval(lo, hi)),
        Cell(f"{shift.top10:,} of {shift.queries:,}"),
        Cell(notation.decimal(shift.mean)),
        Cell(notation.decimal(shift.maximum)),
    )
