"""What a lower precision of a model costs and brings: one line for each, beside the one they are set against."""

from collections.abc import Sequence

from harness.records import Row
from harness.report import notation
from harness.report.table import QUALITY, Cell, Table

SENTENCE = (
    "The same model and template in several precisions: queries whose first ten documents are others, and how far a "
    "pair's score moved."
)
COLUMNS = (
    "engine", "precision", "weights", QUALITY, f"Δ {QUALITY}", "other top 10", "mean drift", "largest drift", "pairs/s"
)  # fmt: skip


def tabulate(rows: Sequence[Row]) -> list[Table]:
    """A table for each engine among the rows of one benchmark that others share all but the precision with."""
    references = dict.fromkeys(row.shift.reference for row in rows if row.shift is not None)
    return [_table([row for row in rows if reference in (row.engine, _reference(row))]) for reference in references]


def _reference(row: Row) -> str | None:
    return row.shift.reference if row.shift else None


def _table(rows: Sequence[Row]) -> Table:
    title = f"{notation.plain(rows[0].benchmark)}: precision"
    return Table(title, COLUMNS, tuple(map(_line, rows)), judged=False)


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
