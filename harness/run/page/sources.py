"""Which queries and candidates the figures of a table rest on: enough to find the same ones again."""

from collections.abc import Iterator, Sequence

from harness.records import Row
from harness.report import notation
from harness.report.content import SourceLine

SHA256_SHOWN = 16  # hexadecimal digits


def sources(rows: Sequence[Row]) -> Iterator[SourceLine]:
    """One line for each set of queries and candidates; engines are named only where the sets differ."""
    engines: dict[str, list[str]] = {}
    for row in [row for row in rows if row.candidates] or rows:  # an engine that never started has no candidates
        engines.setdefault(_line(row), []).append(row.engine)
    for line, names in engines.items():
        yield SourceLine(f"{', '.join(names)}: {line}" if len(engines) > 1 else line)


def _line(row: Row) -> str:
    source, k, sha256 = (_known(row.candidates.get(name)) for name in ("source", "k", "sha256"))
    recall, oracle, random = (notation.decimal(row.candidates.get(name)) for name in ("recall", "oracle", "random"))
    return (
        f"{row.queries:,} queries, revision {_known(row.revision)}; candidates {source}, k = {k}, R@{k} {recall}, "
        f"oracle nDCG@10 {oracle}, random order {random}, sha256 {sha256[:SHA256_SHOWN]}"
    )


def _known(value: object) -> str:
    return notation.MISSING if value is None else str(value).strip() or notation.MISSING
