"""The queries and candidates behind a table, in enough detail to find the same ones again."""

from collections.abc import Iterator, Sequence

from harness.records import Row
from harness.report import notation
from harness.report.content import SourceLine

SHA256_SHOWN = 16  # hexadecimal digits


def sources(rows: Sequence[Row]) -> Iterator[SourceLine]:
    """One line for each set of queries and candidates; engines are named only where the sets differ."""
    engines: dict[str, list[str]] = {}
    for row in [
        row for row in rows if row.candidates is not None
    ] or rows:  # an engine that never started has no candidates
        engines.setdefault(_line(row), []).append(row.engine)
    for line, names in engines.items():
        yield SourceLine(f"{', '.join(names)}: {line}" if len(engines) > 1 else line)


def _line(row: Row) -> str:
    empty = f" ({len(row.without_candidates):,} of them without candidates)" if row.without_candidates else ""
    benchmark = f"{row.queries:,} queries{empty}, revision {row.revision.strip() or notation.MISSING}"
    candidates = row.candidates
    if candidates is None:
        return f"{benchmark}; candidates {notation.MISSING}"
    recall, oracle, random = map(notation.decimal, (candidates.recall, candidates.oracle, candidates.random))
    return (
        f"{benchmark}; candidates {candidates.source}, k = {candidates.k}, R@{candidates.k} {recall}, "
        f"oracle nDCG@10 {oracle}, random order {random}, sha256 {candidates.sha256[:SHA256_SHOWN]}"
    )
