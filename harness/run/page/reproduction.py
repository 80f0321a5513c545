"""Published figures beside the measured ones, with the origin of every cell."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from harness.benchmarks.suites import load_suite
from harness.figures.measures import Ties
from harness.published import LATENCY, PublishedTable, Reproduction, Trace
from harness.report import notation
from harness.report.content import Footnote, Note
from harness.report.table import Cell, Table, Tone

FIGURES_ACROSS = 6  # a published table with more columns has a line per figure
TONES: Mapping[str, Tone] = {"differs": "bad", "reproduced": "good"}
TIES: Mapping[Ties, str] = {
    Ties.FIRST_STAGE: "in the first stage's order",
    Ties.TREC_EVAL: "by document id, descending, as trec_eval orders them in float32",
    Ties.ASCENDING_IDS: "by document id, ascending, as Lucene orders them in float32",
}
LINES = ("published", "measured", "difference", "verdict")
COLUMNS = ("engine", "published as", "column", "published", "measured", "difference", "tolerance", "verdict")


def by_table(reproductions: Sequence[Reproduction]) -> list[list[Reproduction]]:
    """The figures of each published table, in the order of the config and of the table."""
    groups: dict[str, list[Reproduction]] = {}
    for figure in reproductions:
        groups.setdefault(figure.table.name, []).append(figure)
    return list(groups.values())


def tabulate(reproductions: Sequence[Reproduction]) -> Table:
    """The figures of one published table: in its own columns if they are few, else with a line per figure."""
    columns = list(dict.fromkeys(figure.column for figure in reproductions))
    if len(columns) > FIGURES_ACROSS:
        return Table(COLUMNS, tuple(tuple(_cells(figure)) for figure in reproductions), words=3)
    models: dict[tuple[str, str], dict[str, Reproduction]] = {}
    for figure in reproductions:
        models.setdefault((figure.engine, figure.model), {})[figure.column] = figure
    lines = tuple(line for names, figures in models.items() for line in _block(*names, figures, columns))
    joined = frozenset(number for number in range(len(lines)) if number % len(LINES))
    return Table(("engine", "", *columns), lines, words=2, judged=False, joined=joined)


def sentence(reproductions: Sequence[Reproduction]) -> str:
    """The number of figures per verdict; figures that differ or are incomplete are named."""
    counts = Counter(figure.verdict for figure in reproductions)
    clauses = (f"{count} {verdict}{_names(reproductions, verdict)}" for verdict, count in counts.items())
    return f"Published figures: {', '.join(clauses)}."


def source(table: PublishedTable) -> str:
    """The title of a published table, its protocol, and its tolerance with the reason."""
    reason = f": {table.tolerance.reason}" if table.tolerance else ""
    protocol = f"protocol {table.protocol.status}: {table.protocol.note}"
    ties = f"Equal scores are {TIES[table.protocol.ties]}. " if table.protocol.ties else ""
    line = f"{_title(table)}; read {table.retrieved}; {protocol} {ties}{_judged(table)}{reason}"
    return line.strip().removesuffix(".")


def brief(table: PublishedTable) -> str:
    """The same without the reasons."""
    ties = f", equal scores {TIES[table.protocol.ties]}" if table.protocol.ties else ""
    return f"{_title(table)}; protocol {table.protocol.status}{ties}. {_judged(table)}."


def moved_by_ties(reproductions: Sequence[Reproduction]) -> Iterator[Note]:
    """The figures that the order of equal scores moves by more than their tolerance."""
    for figure in reproductions:
        if figure.tolerance is not None and abs(figure.moved_by_ties) > figure.tolerance:
            ours, theirs = (notation.decimal(figure.by_ties[ties]) for ties in (Ties.FIRST_STAGE, figure.ties))
            moved, tolerance = notation.signed(figure.moved_by_ties), notation.decimal(figure.tolerance)
            yield Note(
                f"{figure.engine}, {figure.column}",
                f"equal scores decide: {ours} {TIES[Ties.FIRST_STAGE]}, {theirs} {TIES[figure.ties]} "
                f"({moved}, tolerance {tolerance}); the publisher's order counts",
            )


def footnotes(reproductions: Sequence[Reproduction]) -> tuple[Footnote, ...]:
    """The origin of every measured figure."""
    return tuple(map(_footnote, reproductions))


def _names(reproductions: Sequence[Reproduction], verdict: str) -> str:
    if verdict not in ("differs", "incomplete"):
        return ""
    names = (f"{figure.engine} {figure.column}" for figure in reproductions if figure.verdict == verdict)
    return f" ({', '.join(names)})"


def _block(
    engine: str, model: str, figures: Mapping[str, Reproduction], columns: Sequence[str]
) -> Iterator[tuple[Cell, ...]]:
    """The lines of one engine; a figure that was not published for its model stays empty."""
    name = engine if engine == model else f"{engine} as {model}"
    cells = {column: _stacked(figures[column]) if column in figures else (Cell(""),) * len(LINES) for column in columns}
    for number, line in enumerate(LINES):
        yield (
            Cell(name if number == 0 else ""),
            Cell(line, tone="muted"),
            *(cells[column][number] for column in columns),
        )


def _stacked(figure: Reproduction) -> tuple[Cell, ...]:
    _, _, _, published, measured, difference, tolerance, verdict = _cells(figure)
    return published, measured, difference, verdict._replace(detail=tolerance.value)


def _cells(figure: Reproduction) -> Iterator[Cell]:
    yield Cell(figure.engine)
    yield Cell(figure.model)
    yield Cell(figure.column)
    yield Cell(_figure(figure, figure.published))
    yield _measured(figure)
    yield Cell(_difference(figure))
    yield Cell("" if figure.tolerance is None else f"±{notation.decimal(figure.tolerance)}")
    yield Cell(figure.verdict, tone=TONES.get(figure.verdict, "plain"))


def _figure(figure: Reproduction, value: float | None) -> str:
    return notation.duration(value) if _is_latency(figure) else notation.decimal(value)


def _measured(figure: Reproduction) -> Cell:
    if figure.measured is None:
        return Cell()
    value, lo, hi = figure.measured
    if _is_latency(figure):
        return Cell(notation.duration(value), f"p50, mean {notation.duration(figure.mean_s)}")
    return Cell(notation.decimal(value), notation.interval(lo, hi))


def _difference(figure: Reproduction) -> str:
    if figure.difference is None or not _is_latency(figure):
        limits = [] if figure.tolerance is None else [-figure.tolerance, figure.tolerance]
        difference = None if figure.difference is None else round(figure.difference, 9)  # as `published` judges it
        return notation.signed(difference, notation.places([difference], limits, 4))
    sign = notation.MINUS if figure.difference < 0 else "+"
    return f"{sign}{notation.duration(abs(figure.difference))}"


def _is_latency(figure: Reproduction) -> bool:
    return figure.source.measure == LATENCY


def _title(table: PublishedTable) -> str:
    return f"{table.name}: {table.title}; from {table.source}"


def _judged(table: PublishedTable) -> str:
    if table.tolerance is None:
        return "Shown without a verdict"
    return f"Tolerance {notation.decimal(table.tolerance.value)} above and below"


def _footnote(figure: Reproduction) -> Footnote:
    cell = f"{figure.engine}, {figure.column}"
    if figure.reasons:
        return Footnote(cell, f"no figure: {'; '.join(figure.reasons)}")
    if figure.source.suite is None:
        (trace,) = figure.trace
        return Footnote(cell, f"{_line(trace)}; {_result(figure, trace)}{_ties(figure)}")
    members = tuple(f"{trace.benchmark}: {_line(trace)}; {_result(figure, trace)}" for trace in figure.trace)
    return Footnote(cell, f"{_average(figure, figure.source.suite)}{_ties(figure)}", members)


def _ties(figure: Reproduction) -> str:
    """The order of equal scores behind a figure, and the figures of the other orders; nothing if all print alike."""
    printed = {ties: notation.decimal(value) for ties, value in figure.by_ties.items()}
    if len(set(printed.values())) < 2:
        return ""
    used = printed.pop(figure.ties)
    others = (f"{value} {TIES[ties]}" for ties, value in printed.items() if value != used)
    return "; ".join((f"; equal scores {TIES[figure.ties]}", *others))


def _average(figure: Reproduction, suite: str) -> str:
    """The exact members of an average: it would be a different figure over different members."""
    units = load_suite(suite).units
    names = [name if len(unit) == 1 else f"{name} (mean of {len(unit)})" for name, unit in units.items()]
    assert figure.measured is not None
    _, lo, hi = figure.measured
    folders = ", ".join(dict.fromkeys(trace.folder for trace in figure.trace))
    queries = sum(trace.queries for trace in figure.trace)
    interval = f" {notation.interval(lo, hi)}".rstrip()
    return f"{folders}: mean of {len(units)}{interval} over {queries:,} queries, each once: {', '.join(names)}"


def _line(trace: Trace) -> str:
    revision = trace.revision or notation.MISSING
    return (
        f"{trace.folder}: revision {revision}; candidates {trace.first_stage}, k = {trace.k}; {trace.queries:,} queries"
    )


def _result(figure: Reproduction, trace: Trace) -> str:
    value, lo, hi = trace.measured
    if _is_latency(figure):
        return f"p50 and mean of one query at a time, here on {figure.machine}, published on {figure.source.machine}"
    return f"{figure.source.measure} {notation.decimal(value)} {notation.interval(lo, hi)}".rstrip()
