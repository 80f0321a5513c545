"""What the prompts of a benchmark had to take: per engine and so per template, with nDCG@10 without such queries."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from harness.records import Audit, Row
from harness.report import notation
from harness.report.table import QUALITY, Cell, Table
from harness.run.page.table import is_measured

# As a column, and as what makes a query one of them.
KINDS = {
    "special_text": ("special-token text", "special-token text"),
    "truncated": ("cut", "cut documents"),
    "empty": ("empty", "empty documents"),
    "duplicate": ("duplicate", "duplicates among their candidates"),
    "shared": ("shared", "documents whose text another one shares"),
}
COLUMNS = ("engine", "template", QUALITY, "pairs", "queries", *(column for column, _ in KINDS.values()))


class Reason(NamedTuple):
    engines: str
    line: str


def tabulate(rows: Sequence[Row]) -> Table:
    """Texts and queries of every kind for each engine; beside them nDCG@10 without these queries and its change."""
    title = f"{notation.plain(rows[0].benchmark)}: what the prompts had to take"
    return Table(title, COLUMNS, tuple(map(_line, rows)), judged=False)


def found(rows: Sequence[Row]) -> bool:
    return any(entry.queries for row in rows for entry in row.audit.values())


def sentence(rows: Sequence[Row]) -> str:
    """Where leaving queries out moves nDCG@10 the most."""
    moved = [
        (abs(entry.difference), row, kind, entry)
        for row in rows
        for kind, entry in row.audit.items()
        if entry.difference is not None
    ]
    if moved:
        _, row, kind, entry = max(moved, key=lambda each: each[0])
        return (
            f"Odd texts: without the {entry.queries:,} of {row.queries:,} queries with {KINDS[kind][1]}, {QUALITY} of "
            f"{notation.plain(row.engine)} is {notation.decimal(entry.without)} ({notation.signed(entry.difference)}), "
            "the largest change among all engines and kinds."
        )
    if found(rows):
        return f"Odd texts were found, but {QUALITY} without their queries cannot be told."
    unknown = any(entry.queries is None for row in rows for entry in row.audit.values())
    return f"No odd text was found{' where it was looked for' if unknown else ''}."


def reasons(rows: Sequence[Row]) -> Iterator[Reason]:
    """Why figures are missing, said once for all engines with the same reason."""
    engines: dict[str, list[str]] = {}
    for row in rows:
        missing: dict[str, list[str]] = {}
        for kind, entry in row.audit.items():
            if entry.reason and entry.queries != 0:
                missing.setdefault(entry.reason, []).append(KINDS[kind][0])
        for reason, columns in missing.items():
            engines.setdefault(f"{', '.join(columns)}: {reason}", []).append(notation.plain(row.engine))
    for line, names in engines.items():
        yield Reason(", ".join(names), line)


def _line(row: Row) -> tuple[Cell, ...]:
    quality = row.measures.get(QUALITY) if is_measured(row) else None
    return (
        Cell(notation.plain(row.engine)),
        Cell(notation.plain(row.description.get("template", "")) or notation.MISSING),
        Cell(notation.decimal(quality.value if quality else None)),
        Cell(f"{row.pairs:,}"),
        Cell(f"{row.queries:,}"),
        *(_cell(row.audit.get(kind)) for kind in KINDS),
    )


def _cell(entry: Audit | None) -> Cell:
    if entry is None or entry.queries is None:
        return Cell()
    if not entry.queries:
        return Cell("0")
    detail = "" if entry.without is None else f"{notation.decimal(entry.without)} ({notation.signed(entry.difference)})"
    queries = f"{entry.queries:,} {'query' if entry.queries == 1 else 'queries'}"
    return Cell(f"{entry.texts:,} in {queries}", f"without {detail}" if detail else "")
