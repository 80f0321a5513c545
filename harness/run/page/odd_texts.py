"""Odd texts in the prompts of a benchmark, per engine and template, with nDCG@10 without the affected queries."""

from collections.abc import Iterator, Sequence

from harness.figures.measures import HEADLINE
from harness.records import Audit, Row
from harness.report import notation
from harness.report.content import Note, Section
from harness.report.table import Cell, Table
from harness.run.page.table import is_measured

# Kind of oddity -> the name of its column, and the texts that an affected query has.
KINDS = {
    "special_text": ("special-token text", "special-token text"),
    "truncated": ("cut", "cut documents"),
    "truncated_queries": ("cut queries", "a cut query"),
    "empty": ("empty", "empty documents"),
    "duplicate": ("duplicate", "duplicate candidates"),
    "shared": ("shared", "documents that share their text with another document"),
}
COLUMNS = ("engine", "template", HEADLINE, "pairs", "queries", *(column for column, _ in KINDS.values()))


def details(anchor: str, rows: Sequence[Row]) -> Iterator[Section]:
    """The section of one benchmark; nothing if no engine was audited. It is open if an odd text was found."""
    audited = [row for row in rows if row.audit]
    if audited:
        yield Section(
            anchor,
            f"{rows[0].benchmark}: odd texts in the prompts",
            Table(COLUMNS, tuple(map(_line, audited)), words=2, judged=False),
            sentence(audited),
            notes=tuple(reasons(audited)),
            opened=has_odd_texts(audited),
        )


def has_odd_texts(rows: Sequence[Row]) -> bool:
    return any(entry.queries for row in rows for entry in row.audit.values())


def sentence(rows: Sequence[Row]) -> str:
    """The engine and kind of text for which leaving out the affected queries moves nDCG@10 the most."""
    changes = [
        (abs(entry.difference), row, kind, entry)
        for row in rows
        for kind, entry in row.audit.items()
        if entry.difference is not None
    ]
    if changes:
        _, row, kind, entry = max(changes, key=lambda change: change[0])
        return (
            f"Odd texts: {entry.queries:,} of {row.queries:,} queries have {KINDS[kind][1]}; without them {HEADLINE} "
            f"of {row.engine} is {notation.decimal(entry.without)} ({notation.signed(entry.difference)}), "
            "the largest change of any engine and kind."
        )
    if has_odd_texts(rows):
        return f"Odd texts were found, but {HEADLINE} without the affected queries is unknown."
    unknown = any(entry.queries is None for row in rows for entry in row.audit.values())
    return f"No odd text was found{', but not every kind was examined' if unknown else ''}."


def reasons(rows: Sequence[Row]) -> Iterator[Note]:
    """The reasons for missing figures; a reason that holds for several engines appears once."""
    engines: dict[str, list[str]] = {}
    for row in rows:
        missing: dict[str, list[str]] = {}
        for kind, entry in row.audit.items():
            if entry.reason and entry.queries != 0:
                missing.setdefault(entry.reason, []).append(KINDS[kind][0])
        for reason, columns in missing.items():
            engines.setdefault(f"{', '.join(columns)}: {reason}", []).append(row.engine)
    for line, names in engines.items():
        yield Note(", ".join(names), line)


def _line(row: Row) -> tuple[Cell, ...]:
    quality = row.measures.get(HEADLINE) if is_measured(row) else None
    return (
        Cell(row.engine),
        Cell(row.description.template.strip() or notation.MISSING),
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
