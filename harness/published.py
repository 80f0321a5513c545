"""Numbers that others published, read from results/published/*.yaml, and what our rows say to each of them.

A published number has a verdict only where its protocol is known; an average has a value only where every member has.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import sqrt
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from engines.base import BadOptions, Options, explain
from harness.benchmarks.suites import load_suite
from harness.records import Measurement, Row

# In a wheel the tables lie inside this package, in a checkout beside it.
FOLDERS = (Path(__file__).parent / "configs" / "published", Path(__file__).parent.parent / "results" / "published")
LATENCY = "seconds per query"

Verdict = Literal["reproduced", "differs", "unspecified", "incomplete", "not measured"]


class Protocol(Options):
    status: Literal["stated", "unspecified"]
    note: str  # how it was measured, or in plain words what was not published
    first_stage: str | None = None  # candidates of another source make another number; None: any
    engine: str | None = None  # the kind of engine that was measured; None: any
    parameters: Mapping[str, Any] = Field(default_factory=dict)  # of first stage and engine


class Tolerance(Options):
    """How far a measured value may lie from the published one, above or below it."""

    value: float = Field(gt=0)
    reason: str


class PublishedColumn(Options):
    """One published figure of several models: on a benchmark, or the average of a suite."""

    name: str
    measure: str  # as Row.measures names it, or LATENCY
    values: Mapping[str, float]  # model -> the figure as published
    benchmark: str | None = None
    suite: str | None = None
    queries: int | None = None  # of the benchmark: with fewer of them it is another number
    scale: float = 1  # the published figure is ours times this
    machine: str = ""  # of a latency

    @model_validator(mode="after")
    def _is_of_one_thing(self) -> Self:
        if (self.benchmark is None) == (self.suite is None):
            raise ValueError(f"column {self.name!r} needs either a benchmark or a suite")
        return self


class PublishedTable(Options):
    name: str
    title: str
    source: str
    retrieved: str  # month in which the numbers were read
    protocol: Protocol
    columns: tuple[PublishedColumn, ...] = Field(min_length=1)
    tolerance: Tolerance | None = None

    @model_validator(mode="after")
    def _can_be_judged(self) -> Self:
        if self.protocol.status == "stated" and self.tolerance is None:
            raise ValueError("a table whose protocol is stated needs a tolerance and its reason")
        return self

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(model for column in self.columns for model in column.values))


class PublishedComparison(Options):
    """An entry under `published` of a config: which of our engines stands for which row of a published table."""

    table: str  # of results/published
    engines: dict[str, str] = Field(min_length=1)  # our engine -> the published model
    columns: tuple[str, ...] | None = None  # only these; None: all
    benchmarks: dict[str, str] = Field(default_factory=dict)  # published name -> ours, where they differ

    def check(self, engines: Collection[str]) -> None:
        """Raises BadOptions, with what is known, for a name that the table or the config does not have."""
        table = load_table(self.table)
        owner = f"published {self.table!r}"
        _known(self.engines.keys(), engines, f"{owner}: engine")
        _known(self.engines.values(), table.models, f"{owner}: model")
        _known(self.columns or (), [column.name for column in table.columns], f"{owner}: column")


@dataclass(frozen=True)
class Trace:
    """Where one member of a measured figure comes from."""

    benchmark: str
    folder: str  # RUN/ENGINE
    revision: str
    first_stage: str
    k: int
    queries: int
    measured: Measurement


@dataclass(frozen=True)
class Reproduction:
    """A published figure and ours, in our units: a measure between 0 and 1, or seconds."""

    table: PublishedTable
    engine: str
    model: str
    column: str
    published: float
    measured: Measurement | None = None
    difference: float | None = None  # measured minus published
    tolerance: float | None = None
    verdict: Verdict = "not measured"
    trace: tuple[Trace, ...] = ()
    reasons: tuple[str, ...] = ()  # why there is no measured figure
    mean_s: float | None = None  # of a latency, whose `measured` is the median
    machine: str = ""  # of a latency: ours

    @property
    def source(self) -> PublishedColumn:
        return next(column for column in self.table.columns if column.name == self.column)

    def document(self) -> dict[str, Any]:
        """As plain JSON data, the table by its name."""
        fields = {field: value for field, value in vars(self).items() if field not in ("table", "measured", "trace")}
        measured = self.measured and self.measured._asdict()
        trace = [vars(each) | {"measured": each.measured._asdict()} for each in self.trace]
        return {"table": self.table.name, **fields, "measured": measured, "trace": trace}


def table_names() -> list[str]:
    """Names of the published tables that ship with the project."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob("*.yaml")})


@cache
def load_table(name: str) -> PublishedTable:
    """A shipped table by name. Raises BadOptions, for an unknown name with the known ones."""
    _known([name], table_names(), "published table")
    path = next(path for folder in FOLDERS if (path := folder / f"{name}.yaml").is_file())
    try:
        return PublishedTable.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        parts: dict[object, type[Options]] = {"columns": PublishedColumn, "protocol": Protocol, "tolerance": Tolerance}
        place = error.errors()[0]["loc"]
        part = parts.get(place[0], PublishedTable) if len(place) > 1 else PublishedTable
        raise BadOptions(f"{path}: {explain(error, part)}") from None


def compare(comparison: PublishedComparison, rows: Sequence[Row]) -> list[Reproduction]:
    """What the rows of a run say to every published figure of its engines, engine by engine, column by column."""
    table, chosen = load_table(comparison.table), comparison.columns
    return [
        _compare(comparison, column, engine, rows)
        for engine, model in comparison.engines.items()
        for column in table.columns
        if model in column.values and (chosen is None or column.name in chosen)
    ]


def _compare(
    comparison: PublishedComparison, column: PublishedColumn, engine: str, rows: Sequence[Row]
) -> Reproduction:
    table, model = load_table(comparison.table), comparison.engines[engine]
    own = {row.benchmark: row for row in rows if row.engine == engine and row.candidates}
    members = {comparison.benchmarks.get(name, name): queries for name, queries in _members(column).items()}
    problems = {name: _problem(own.get(name), column, queries, table.protocol) for name, queries in members.items()}
    reasons = tuple(f"{name} {problem}" for name, problem in problems.items() if problem)
    if len(members) > 1 and not own.keys() & members.keys():
        reasons = (f"none of its {len(members)} benchmarks was run",)
    found = Reproduction(
        table, engine, model, column.name, published=column.values[model] / column.scale, reasons=reasons
    )
    if reasons:
        return replace(found, verdict="incomplete" if own.keys() & members.keys() else "not measured")
    if column.measure == LATENCY:
        return _timed(found, own[next(iter(members))])
    trace = tuple(_trace(own[name], own[name].measures[column.measure]) for name in members)
    weights = list(load_suite(column.suite).weights.values()) if column.suite else [1.0]
    return _judged(replace(found, trace=trace, measured=average([each.measured for each in trace], weights)))


def _members(column: PublishedColumn) -> dict[str, int | None]:
    """Benchmark -> the number of queries that the published figure is a mean over, None where it is not known."""
    if column.suite is None:
        assert column.benchmark is not None  # the column's own validator
        return {column.benchmark: column.queries}
    return {member.name: member.queries for member in load_suite(column.suite).members}


def _problem(row: Row | None, column: PublishedColumn, queries: int | None, protocol: Protocol) -> str | None:
    """Why this row cannot stand in a published figure; None if it can."""
    if row is None:
        return "is missing"
    if row.verdict != "complete":
        return f"is {row.verdict}"
    if column.measure == LATENCY:
        return None if row.p50.value is not None and row.service_s else "has too few samples"
    if queries is not None and row.queries != queries:
        return f"has {row.queries:,} queries, not {queries:,}"
    if column.measure not in row.measures:
        return f"has no {column.measure}"
    return _other_candidates(row, column.measure, protocol)


def _other_candidates(row: Row, measure: str, protocol: Protocol) -> str | None:
    """Why the row's candidates make another figure than the protocol's; None if they do not."""
    assert row.candidates is not None  # `_compare` leaves out the rows without
    source, k = row.candidates.source, row.candidates.k
    if protocol.engine not in (None, row.kind):
        return f"is of an engine of kind {row.kind}, the published figure is of {protocol.engine}"
    for name, value in protocol.parameters.items():
        for found in (row.candidates.parameters.get(name, value), row.options.get(name, value)):
            if str(found) != str(value):
                return f"has {name} = {found}, the published figure {value}"
    if protocol.first_stage not in (None, source):
        return f"has candidates of {source}, the published figure is of {protocol.first_stage}"
    if protocol.first_stage == "dense" and row.candidates.parameters.get("model") != row.description.model:
        return "has the candidates of another model than its own"
    depth = re.search(r"@(\d+)$", measure)
    if depth and k < int(depth[1]):
        return f"has {k} candidates a query, too few for {measure}"
    return None


def _trace(row: Row, measured: Measurement) -> Trace:
    assert row.candidates is not None
    source, k = row.candidates.source, row.candidates.k
    return Trace(row.benchmark, row.folder or row.engine, row.revision, source, k, row.queries, measured)


def average(members: Sequence[Measurement], weights: Sequence[float]) -> Measurement:
    """Weighted mean of independent means; its interval from theirs.

    Each side's squared distances add up, times the squared weights (MOVER: Zou and Donner 2008, Stat. Med. 27).
    Queries are drawn within each benchmark, never from all of them together.
    """
    value = sum(weight * member.value for weight, member in zip(weights, members, strict=True))
    below = above = 0.0
    for weight, member in zip(weights, members, strict=True):
        if member.lo is None or member.hi is None:
            return Measurement(value, None, None)
        below += (weight * (member.value - member.lo)) ** 2
        above += (weight * (member.hi - member.value)) ** 2
    return Measurement(value, value - sqrt(below), value + sqrt(above))


def _judged(found: Reproduction) -> Reproduction:
    """With its difference, and its verdict where the protocol is known."""
    assert found.measured is not None
    difference = found.measured.value - found.published
    tolerance = found.table.tolerance
    if found.table.protocol.status == "unspecified" or tolerance is None:
        return replace(found, difference=difference, verdict="unspecified")
    within = round(abs(difference), 9) <= tolerance.value  # 0.6471 - 0.6451 is a hair more than 0.002 in binary
    return replace(
        found, difference=difference, tolerance=tolerance.value, verdict="reproduced" if within else "differs"
    )


def _timed(found: Reproduction, row: Row) -> Reproduction:
    """A latency beside the published one: another machine, so never a verdict."""
    assert row.p50.value is not None
    median = Measurement(row.p50.value, None, None)
    return replace(
        found,
        measured=median,
        difference=median.value - found.published,
        verdict="unspecified",
        trace=(_trace(row, median),),
        mean_s=sum(row.service_s) / len(row.service_s),
        machine=row.machine,
    )


def _known(names: Collection[str], known: Collection[str], what: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BadOptions(f"{what} {unknown[0]!r} is not known; known are {', '.join(known)}")
