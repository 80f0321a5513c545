"""Published figures beside ours: one table for every format, and for each cell where it comes from."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from harness.benchmarks.suites import load_suite
from harness.published import LATENCY, PublishedTable, Reproduction, Trace
from harness.report import notation
from harness.report.content import Traced
from harness.report.table import Cell, Table

TITLE = "Published and measured"
FIGURES_ACROSS = 6  # a published table with more columns is printed with a line per figure
LINES = ("published", "measured", "difference", "verdict")
COLUMNS = ("engine", "published as", "column", "published", "measured", "difference", "tolerance", "verdict")


def by_table(reproductions: Sequence[Reproduction]) -> list[list[Reproduction]]:
    """The figures of each published table, in the order of the config and of the table."""
    groups: dict[str, list[Reproduction]] = {}
    for found in reproductions:
        groups.setdefault(found.table.name, []).append(found)
    return list(groups.values())


def tabulate(reproductions: Sequence[Reproduction]) -> Table:
    """The figures of one published table: its columns as columns if they are few, else a line for each figure."""
    title = f"{TITLE}: {reproductions[0].table.name}"
    columns = list(dict.fromkeys(found.column for found in reproductions))
    if len(columns) > FIGURES_ACROSS:
        return Table(title, COLUMNS, tuple(tuple(_cells(found)) for found in reproductions))
    models: dict[tuple[str, str], dict[str, Reproduction]] = {}
    for found in reproductions:
        models.setdefault((found.engine, found.model), {})[found.column] = found
    lines = (line for (engine, model), own in models.items() for line in _block(engine, model, own, columns))
    return Table(title, ("engine", "", *columns), tuple(lines), judged=False)


def sentence(reproductions: Sequence[Reproduction]) -> str:
    """How many figures there are of each verdict; those that differ or are incomplete are named."""
    counts = Counter(found.verdict for found in reproductions)
    clauses = (f"{count} {verdict}{_names(reproductions, verdict)}" for verdict, count in counts.items())
    return f"Published figures: {', '.join(clauses)}."


def source(table: PublishedTable) -> str:
    """What a published table is, how it was measured, and how far from it is too far."""
    reason = f": {table.tolerance.reason}" if table.tolerance else ""
    protocol = f"protocol {table.protocol.status}: {table.protocol.note}"
    line = f"{_title(table)}; read {table.retrieved}; {protocol} {_judged(table)}{reason}"
    return notation.plain(line).removesuffix(".")


def brief(table: PublishedTable) -> str:
    """The same without the reasons."""
    return notation.plain(f"{_title(table)}; protocol {table.protocol.status}. {_judged(table)}.")


def traces(reproductions: Sequence[Reproduction]) -> tuple[Traced, ...]:
    return tuple(_traced(found) for found in reproductions)


def _names(reproductions: Sequence[Reproduction], verdict: str) -> str:
    if verdict not in ("differs", "incomplete"):
        return ""
    names = (f"{notation.plain(found.engine)} {found.column}" for found in reproductions if found.verdict == verdict)
    return f" ({', '.join(names)})"


def _block(
    engine: str, model: str, own: Mapping[str, Reproduction], columns: Sequence[str]
) -> Iterator[tuple[Cell, ...]]:
    """The lines of one engine; a figure that was not published for its model stays empty."""
    name = notation.plain(engine if engine == model else f"{engine} as {model}")
    cells = {column: _stacked(own[column]) if column in own else (Cell(""),) * len(LINES) for column in columns}
    for number, line in enumerate(LINES):
        yield (Cell(name if number == 0 else ""), Cell(line), *(cells[column][number] for column in columns))


def _stacked(found: Reproduction) -> tuple[Cell, ...]:
    _, _, _, published, measured, difference, tolerance, verdict = _cells(found)
    return published, measured, difference, verdict._replace(detail=tolerance.value)


def _cells(found: Reproduction) -> Iterator[Cell]:
    yield Cell(notation.plain(found.engine))
    yield Cell(found.model)
    yield Cell(found.column)
    yield Cell(_figure(found, found.published))
    yield _measured(found)
    yield Cell(_difference(found))
    yield Cell("" if found.tolerance is None else f"±{notation.decimal(found.tolerance)}")
    yield Cell(found.verdict)


def _figure(found: Reproduction, value: float | None) -> str:
    return notation.duration(value) if _is_latency(found) else notation.decimal(value)


def _measured(found: Reproduction) -> Cell:
    if found.measured is None:
        return Cell()
    value, lo, hi = found.measured
    if _is_latency(found):
        return Cell(notation.duration(value), f"p50, mean {notation.duration(found.mean_s)}")
    return Cell(notation.decimal(value), notation.interval(lo, hi))


def _difference(found: Reproduction) -> str:
    if found.difference is None or not _is_latency(found):
        return notation.signed(found.difference)
    sign = notation.MINUS if found.difference < 0 else "+"
    return f"{sign}{notation.duration(abs(found.difference))}"


def _is_latency(found: Reproduction) -> bool:
    return found.source.measure == LATENCY


def _title(table: PublishedTable) -> str:
    return f"{table.name}: {table.title}; from {table.source}"


def _judged(table: PublishedTable) -> str:
    if table.tolerance is None:
        return "Shown, neither passes nor fails"
    return f"Tolerance {notation.decimal(table.tolerance.value)} to either side"


def _traced(found: Reproduction) -> Traced:
    cell = f"{notation.plain(found.engine)}, {found.column}"
    if found.reasons:
        return Traced(cell, notation.plain(f"no figure: {'; '.join(found.reasons)}"))
    if found.source.suite is None:
        (trace,) = found.trace
        return Traced(cell, notation.plain(f"{_line(trace)}; {_result(found, trace)}"))
    members = tuple(notation.plain(f"{each.benchmark}: {_line(each)}; {_result(found, each)}") for each in found.trace)
    return Traced(cell, notation.plain(_average(found, found.source.suite)), members)


def _average(found: Reproduction, suite: str) -> str:
    """Its exact members: two averages over different ones are two different figures."""
    units = load_suite(suite).units
    names = [name if len(unit) == 1 else f"{name} (mean of {len(unit)})" for name, unit in units.items()]
    assert found.measured is not None
    _, lo, hi = found.measured
    folders = ", ".join(dict.fromkeys(each.folder for each in found.trace))
    queries = sum(each.queries for each in found.trace)
    interval = f" {notation.interval(lo, hi)}".rstrip()
    return f"{folders}: mean of {len(units)}{interval} over {queries:,} queries, each once: {', '.join(names)}"


def _line(trace: Trace) -> str:
    revision = trace.revision or notation.MISSING
    return (
        f"{trace.folder}: revision {revision}; candidates {trace.first_stage}, k = {trace.k}; {trace.queries:,} queries"
    )


def _result(found: Reproduction, trace: Trace) -> str:
    value, lo, hi = trace.measured
    if _is_latency(found):
        return f"p50 and mean of one query at a time, here on {found.machine}, published on {found.source.machine}"
    return f"{found.source.measure} {notation.decimal(value)} {notation.interval(lo, hi)}".rstrip()
