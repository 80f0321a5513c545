"""What a lower precision of a model costs and brings: one line for each, beside the one they are set against."""

from collections.abc import Sequence

from harness.records import Row
from harness.report import notation
from harness.report.table import QUALITY, Cell, Table

COLUMNS = (
    "engine", "precision", "weights", QUALITY, f"Δ {QUALITY}", "other top 10", "mean drift", "largest drift", "pairs/s"
)  # fmt: skip


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """For each engine among the rows of one benchmark that others share all but the precision with: it and those."""
    references = dict.fromkeys(row.shift.reference for row in rows if row.shift is not None)
    return [[row for row in rows if reference in (row.engine, _reference(row))] for reference in references]


def tabulate(group: Sequence[Row]) -> Table:
    return Table(f"{notation.plain(group[0].benchmark)}: precision", COLUMNS, tuple(map(_line, group)), judged=False)


def sentence(group: Sequence[Row]) -> str:
    """How much of the ranking moved, in queries."""
    moved = [
        f"{notation.plain(row.engine)} in {row.shift.top10:,} of {row.shift.queries:,} queries"
        for row in group
        if row.shift is not None
    ]
    return f"Beside {notation.plain(group[0].engine)}, other documents are among the first ten: {', '.join(moved)}."


def _reference(row: Row) -> str | None:
    return row.shift.reference if row.shift else None


def _line(row: Row) -> tuple[Cell, ...]:
    found = row.measures[QUALITY]
    size = row.description.get("weights_mb")
    return (
        Cell(notation.plain(row.engine)),
        Cell(notation.plain(row.description["precision"])),
        Cell(f"{notation.plain(size)} MB") if size else Cell(),
        Cell(notation.decimal(found.value), notation.interval(found.lo, found.hi)),
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
