"""Published figures from results/published/*.yaml, and their comparison with our rows.

A published figure gets a verdict only if its protocol is known. An average gets a value only if every member has one.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import sqrt
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from engines.base import BadOptions, Options
from engines.problems import explain, first_problem
from engines.spelling import expected
from engines.yaml_file import read_yaml
from harness.benchmarks.suites import load_suite
from harness.figures.measure_names import parse
from harness.figures.measures import Ties
from harness.records import Measurement, Row

# In a wheel the tables lie inside this package, in a checkout beside it.
FOLDERS = (Path(__file__).parent / "configs" / "published", Path(__file__).parent.parent / "results" / "published")
LATENCY = "seconds per query"
NAMES_SHOWN = 5  # benchmarks of a table that a message names

# a row's values of measures, with equal scores in the order of a rule
Measured = Callable[[Row, Sequence[str], Ties], Mapping[str, Measurement]]

Verdict = Literal["reproduced", "differs", "unspecified", "incomplete", "not measured"]


class Protocol(Options):
    """The protocol of a table's measurements, as far as it is known."""

    status: Literal["stated", "unspecified"]
    note: str  # description of the measurement, or the details that were not published
    ties: Ties | None = None  # the publisher's order of equal scores; None: not known
    first_stage: str | None = None  # source of the candidates; None: any source
    engine: str | None = None  # kind of the measured engine; None: any kind
    parameters: Mapping[str, Any] = Field(default_factory=dict)  # options of the first stage and of the engine


class Tolerance(Options):
    """Largest distance of a measured value from the published one, above or below it."""

    value: float = Field(gt=0)
    reason: str


class PublishedColumn(Options):
    """One published figure of several models, on a benchmark or as the average of a suite."""

    name: str
    measure: str  # a name as ir_measures writes it, or LATENCY
    values: Mapping[str, float]  # model -> figure as published
    benchmark: str | None = None
    suite: str | None = None
    queries: int | None = None  # number of queries in the benchmark; a sample of them has a different figure
    scale: float = 1  # published figure divided by ours, such as 100 for percent
    machine: str = ""  # machine on which a latency was measured

    @field_validator("measure")
    @classmethod
    def _can_be_computed(cls, name: str) -> str:
        return name if name == LATENCY else str(parse(name))

    @model_validator(mode="after")
    def _has_one_subject(self) -> Self:
        if (self.benchmark is None) == (self.suite is None):
            raise ValueError(f"column {self.name!r} needs either a benchmark or a suite")
        return self


class PublishedTable(Options):
    """A table of figures that one source published."""

    name: str
    title: str
    source: str
    retrieved: str  # month in which the figures were read
    protocol: Protocol
    columns: tuple[PublishedColumn, ...] = Field(min_length=1)
    tolerance: Tolerance | None = None

    @model_validator(mode="after")
    def _can_be_judged(self) -> Self:
        if self.protocol.status == "stated" and self.tolerance is None:
            raise ValueError("a table whose protocol is stated needs a tolerance and its reason")
        if self.protocol.status == "stated" and self.protocol.ties is None:
            raise ValueError(f"a table whose protocol is stated needs protocol.ties, one of {', '.join(Ties)}")
        return self

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(model for column in self.columns for model in column.values))


class PublishedComparison(Options):
    """An entry under `published` in a config, which maps our engines to the models of a published table."""

    table: str  # name of a file in results/published
    engines: dict[str, str] = Field(min_length=1)  # our engine -> published model
    columns: tuple[str, ...] | None = None  # names of columns; None: all columns
    benchmarks: dict[str, str] = Field(default_factory=dict)  # published name -> our name, if they differ

    def check(self, engines: Collection[str]) -> None:
        """Raises BadOptions, which lists the known names, for a name that is not in the table or the config."""
        table = load_table(self.table)
        owner = f"published {self.table!r}"
        _check_known(self.engines.keys(), engines, f"{owner}: engine")
        _check_known(self.engines.values(), table.models, f"{owner}: model")
        _check_known(self.columns or (), [column.name for column in table.columns], f"{owner}: column")


@dataclass(frozen=True)
class Trace:
    """The origin of one member of a measured figure."""

    benchmark: str
    folder: str  # RUN/ENGINE
    revision: str
    first_stage: str
    k: int
    queries: int
    measured: Measurement


@dataclass(frozen=True)
class Reproduction:
    """A published figure and our figure, both in our units: a measure from 0 to 1, or seconds."""

    table: PublishedTable
    engine: str
    model: str
    column: str
    published: float
    measured: Measurement | None = None  # with equal scores in the publisher's order, if it is known
    by_ties: Mapping[Ties, float] = field(
        default_factory=dict
    )  # the measured value by every rule for equal scores, if the publisher's is known
    difference: float | None = None  # measured minus published
    tolerance: float | None = None
    verdict: Verdict = "not measured"
    trace: tuple[Trace, ...] = ()
    reasons: tuple[str, ...] = ()  # reasons for a missing measured figure
    mean_s: float | None = None  # mean of our latency, of which `measured` is the median
    machine: str = ""  # machine on which our latency was measured

    @property
    def moved_by_ties(self) -> float:
        """The measured value minus the one with equal scores in the first stage's order; 0 for a latency."""
        return self.by_ties[self.ties] - self.by_ties[Ties.FIRST_STAGE] if self.by_ties else 0.0

    @property
    def ties(self) -> Ties:
        """The order of equal scores behind the measured value."""
        return self.table.protocol.ties or Ties.FIRST_STAGE

    @property
    def source(self) -> PublishedColumn:
        return next(column for column in self.table.columns if column.name == self.column)

    def document(self) -> dict[str, Any]:
        """The comparison as plain JSON data, with the name of the table."""
        fields = {name: value for name, value in vars(self).items() if name not in ("table", "measured", "trace")}
        measured = self.measured and self.measured._asdict()
        trace = [vars(member) | {"measured": member.measured._asdict()} for member in self.trace]
        return {"table": self.table.name, **fields, "ties": self.ties, "measured": measured, "trace": trace}


def table_names() -> list[str]:
    """Names of the published tables that ship with the project."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob("*.yaml")})


@cache
def load_table(name: str) -> PublishedTable:
    """A shipped table by name. Raises BadOptions, which lists the known tables."""
    _check_known([name], table_names(), "published table")
    path = next(path for folder in FOLDERS if (path := folder / f"{name}.yaml").is_file())
    try:
        return PublishedTable.model_validate(read_yaml(path).content)
    except ValidationError as error:
        parts: dict[object, type[Options]] = {"columns": PublishedColumn, "protocol": Protocol, "tolerance": Tolerance}
        location = first_problem(error)["loc"]
        part = parts.get(location[0], PublishedTable) if len(location) > 1 else PublishedTable
        raise BadOptions(f"{path}: {explain(error, part)}") from None


def compare(comparison: PublishedComparison, rows: Sequence[Row], measured: Measured) -> list[Reproduction]:
    """The published figures of the engines beside the rows of a run, engine by engine and column by column.

    Without `columns` in the config, these are the figures of the run's own benchmarks; a table has many others.
    `measured` gives a row's values with equal scores in the publisher's order.
    """
    columns = _columns(comparison, rows)
    return [
        _compare(comparison, column, engine, rows, measured)
        for engine, model in comparison.engines.items()
        for column in columns
        if model in column.values
    ]


def unmatched(comparison: PublishedComparison, rows: Sequence[Row]) -> str:
    """What to do if the run has none of the benchmarks of a published table; empty if it has one."""
    if _columns(comparison, rows) or not rows:
        return ""
    table = load_table(comparison.table)
    names = list(dict.fromkeys(column.benchmark or str(column.suite) for column in table.columns))
    more = ", ..." if len(names) > NAMES_SHOWN else ""
    return (
        f"published {comparison.table!r}: this run has none of its benchmarks "
        f"({', '.join(names[:NAMES_SHOWN])}{more}); "
        "if names differ, map them under `benchmarks` of that entry"
    )


def _columns(comparison: PublishedComparison, rows: Sequence[Row]) -> list[PublishedColumn]:
    """The columns that the config names; without names, those whose benchmarks the run has."""
    columns, chosen = load_table(comparison.table).columns, comparison.columns
    if chosen is not None:
        return [column for column in columns if column.name in chosen]
    present = {row.benchmark for row in rows}
    return [column for column in columns if _renamed(comparison, column).keys() <= present]


def _renamed(comparison: PublishedComparison, column: PublishedColumn) -> dict[str, int | None]:
    """The benchmarks behind a figure under their names in the run, with their numbers of queries."""
    return {comparison.benchmarks.get(name, name): queries for name, queries in _members(column).items()}


def _compare(
    comparison: PublishedComparison, column: PublishedColumn, engine: str, rows: Sequence[Row], measured: Measured
) -> Reproduction:
    table, model = load_table(comparison.table), comparison.engines[engine]
    scored = {row.benchmark: row for row in rows if row.engine == engine and row.candidates}
    members = _renamed(comparison, column)
    problems = {name: _problem(scored.get(name), column, queries, table.protocol) for name, queries in members.items()}
    reasons = tuple(f"{name} {problem}" for name, problem in problems.items() if problem)
    if len(members) > 1 and not scored.keys() & members.keys():
        reasons = (f"none of its {len(members)} benchmarks was run",)
    figure = Reproduction(
        table, engine, model, column.name, published=column.values[model] / column.scale, reasons=reasons
    )
    if reasons:
        return replace(figure, verdict="incomplete" if scored.keys() & members.keys() else "not measured")
    if column.measure == LATENCY:
        return _timed(figure, scored[next(iter(members))])
    weights = list(load_suite(column.suite).weights.values()) if column.suite else [1.0]
    names = _measures(table, column)
    rules = tuple(Ties) if table.protocol.ties else (Ties.FIRST_STAGE,)
    values = {ties: [measured(scored[name], names, ties)[column.measure] for name in members] for ties in rules}
    means = {ties: average(members, weights) for ties, members in values.items()}
    trace = tuple(_trace(scored[name], value) for name, value in zip(members, values[figure.ties], strict=True))
    by_ties = {ties: mean.value for ties, mean in means.items()}
    return _judged(replace(figure, trace=trace, measured=means[figure.ties], by_ties=by_ties))


def _measures(table: PublishedTable, column: PublishedColumn) -> list[str]:
    """The measures of all columns with the same subject: computed together, they read the scores once."""
    subject = (column.benchmark, column.suite)
    alike = (other.measure for other in table.columns if (other.benchmark, other.suite) == subject)
    return [name for name in dict.fromkeys(alike) if name != LATENCY]


def _members(column: PublishedColumn) -> dict[str, int | None]:
    """Benchmark -> number of queries behind the published figure; None if the number is not known."""
    if column.suite is None:
        assert column.benchmark is not None  # the column's own validator
        return {column.benchmark: column.queries}
    return {member.name: member.queries for member in load_suite(column.suite).members}


def _problem(row: Row | None, column: PublishedColumn, queries: int | None, protocol: Protocol) -> str | None:
    """The reason why this row cannot be part of the figure; None if it can."""
    if row is None:
        return "is missing"
    if row.verdict != "complete":
        return f"is {row.verdict}"
    if column.measure == LATENCY:
        return None if row.p50.value is not None and row.service_s else "has too few samples"
    if queries is not None and row.queries != queries:
        return f"has {row.queries:,} queries, not {queries:,}"
    return _other_candidates(row, column.measure, protocol)


def _other_candidates(row: Row, measure: str, protocol: Protocol) -> str | None:
    """The reason why the row's candidates or engine do not match the protocol; None if they do."""
    assert row.candidates is not None  # `_compare` leaves out rows without candidates
    source, k = row.candidates.source, row.candidates.k
    if protocol.engine not in (None, row.kind):
        return f"was scored by an engine of kind {row.kind}; the published figure is for kind {protocol.engine}"
    for name, value in protocol.parameters.items():
        for used in (row.candidates.parameters.get(name, value), row.options.get(name, value)):
            if str(used) != str(value):
                return f"has {name} = {used}; the published figure has {value}"
    if protocol.first_stage not in (None, source):
        return f"has candidates from {source}; the published figure is for {protocol.first_stage}"
    if protocol.first_stage == "dense" and row.candidates.parameters.get("model") != row.description.model:
        return "has candidates from a different model than the engine's"
    depth = re.search(r"@(\d+)$", measure)
    if depth and k < int(depth[1]):
        return f"has {k} candidates per query, too few for {measure}"
    return None


def _trace(row: Row, measured: Measurement) -> Trace:
    assert row.candidates is not None
    source, k = row.candidates.source, row.candidates.k
    return Trace(row.benchmark, row.folder or row.engine, row.revision, source, k, row.queries, measured)


def average(members: Sequence[Measurement], weights: Sequence[float]) -> Measurement:
    """The weighted mean of independent means, with an interval that follows from theirs.

    The squared distances of each side are weighted by the squared weights and added (MOVER: Zou and Donner 2008, Stat.
    Med. 27). Queries are resampled within each benchmark, never across benchmarks.
    """
    value = sum(weight * member.value for weight, member in zip(weights, members, strict=True))
    below = above = 0.0
    for weight, member in zip(weights, members, strict=True):
        if member.lo is None or member.hi is None:
            return Measurement(value, None, None)
        below += (weight * (member.value - member.lo)) ** 2
        above += (weight * (member.hi - member.value)) ** 2
    return Measurement(value, value - sqrt(below), value + sqrt(above))


def _judged(figure: Reproduction) -> Reproduction:
    """The figure with its difference and, if the protocol is known, its verdict."""
    assert figure.measured is not None
    difference = figure.measured.value - figure.published
    tolerance = figure.table.tolerance
    if figure.table.protocol.status == "unspecified" or tolerance is None:
        return replace(figure, difference=difference, verdict="unspecified")
    within = round(abs(difference), 9) <= tolerance.value  # in binary, 0.6471 - 0.6451 is slightly more than 0.002
    return replace(
        figure, difference=difference, tolerance=tolerance.value, verdict="reproduced" if within else "differs"
    )


def _timed(figure: Reproduction, row: Row) -> Reproduction:
    """A latency beside the published one. It never has a verdict, because the machines differ."""
    assert row.p50.value is not None
    median = Measurement(row.p50.value, None, None)
    return replace(
        figure,
        measured=median,
        difference=median.value - figure.published,
        verdict="unspecified",
        trace=(_trace(row, median),),
        mean_s=sum(row.service_s) / len(row.service_s),
        machine=row.machine,
    )


def _check_known(names: Collection[str], choices: Collection[str], what: str) -> None:
    """Raises BadOptions, which lists the choices, for a name that is not among them."""
    unknown = [name for name in names if name not in choices]
    if unknown:
        raise BadOptions(f"{what} {unknown[0]!r} is not known; {expected(unknown[0], choices)}")
