"""`crispbench compare --plan`: how many queries a verdict needs, and which suites have them. Nothing is scored."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engines.base import BadOptions
from harness import progress
from harness.benchmarks.suites import Suite, load_suite, suite_names
from harness.compare import comparability
from harness.compare.comparability import Recorded
from harness.compare.noninferiority import MARGIN, Weights, layout
from harness.compare.page import plan as content
from harness.compare.plan import ComparisonPlan, PlannedMargin, PlannedPool, PlannedSpread
from harness.config import read_config
from harness.figures.statistics import (
    POWER,
    decided_distance,
    effective_queries,
    growth_to_pass,
    least_queries,
)
from harness.report.content import Report
from harness.store import FILE, NotComparable, StoreError

# Correlations of nDCG@10 over queries that a run without another engine assumes. On the demo's 210 queries the bf16
# and int8 engines have 0.9995 and 0.996 with fp32 (November 2026); 0.9 stands for another model.
ASSUMED = (0.999, 0.99, 0.9)


@dataclass(frozen=True)
class PlanOptions:
    """The verdict that is planned, and the config whose benchmarks may serve it."""

    margin: float = MARGIN  # accepted loss of nDCG@10
    power: float = POWER  # probability of `pass` if there is no loss
    config: Path | None = None  # None: the suites that ship with the project


@dataclass(frozen=True)
class PlanResult(ComparisonPlan):
    """The plan, with its report."""

    def report(self) -> Report:
        return content.build(self)


class Supply(NamedTuple):
    """The benchmarks of a pool."""

    name: str
    sizes: Mapping[str, int | None]  # queries by benchmark
    weights: Weights


def plan(reference: Path, candidates: Sequence[Path], options: PlanOptions) -> PlanResult:
    """Plan a comparison with `reference` from the differences of `candidates`, or of the other engines of its run.

    If the run has no other engine, the spread is assumed from the reference's own nDCG@10. Raises BadOptions for a
    margin or a power out of range; StoreError for a folder without results; NotComparable for a candidate that differs
    in a field that decides its numbers; ConfigError for a config that cannot be used.
    """
    if not 0 < options.margin < 1:
        raise BadOptions(f"margin {options.margin!r}: expected a loss of nDCG@10 above 0 and below 1, such as {MARGIN}")
    if not 0.5 <= options.power < 1:
        raise BadOptions(f"power {options.power!r}: expected a probability from 0.5 to below 1, such as {POWER}")
    with progress.waiting("reading the runs"):
        recorded = comparability.read(reference)
        comparability.require_complete(recorded, list(recorded.rows))
        varying, notes = _recorded(recorded, candidates)
    if not varying:
        varying = _assumed(recorded)
        notes = (*notes, "no other engine is recorded: the spread is that of the reference, at an assumed correlation")
    spreads = [PlannedSpread("no change", "least", 0.0, 0.0, _needed(0.0, options)), *varying.values()]
    spreads = sorted(spreads, key=lambda spread: spread.deviation)
    spreads = [replace(spread, needed=_needed(spread.deviation, options)) for spread in spreads]
    pools = [_pool(supply, spreads, options) for supply in _supplies(recorded, options.config)]
    least = least_queries(options.margin)
    return PlanResult(str(reference), options.margin, options.power, least, tuple(spreads), tuple(pools), notes)


def _needed(deviation: float, options: PlanOptions) -> int:
    return math.ceil(round(growth_to_pass(deviation, 1, options.margin, options.power), 6))


def _recorded(reference: Recorded, candidates: Sequence[Path]) -> tuple[dict[str, PlannedSpread], tuple[str, ...]]:
    """The spread of each candidate, or of each other engine of the run, and why an engine is left out."""
    spreads, notes = {}, []
    others = candidates or sorted(path.parent for path in reference.folder.resolve().parent.glob(f"*/{FILE}"))
    for folder in others:
        if folder.resolve() == reference.folder.resolve():
            continue
        try:
            spread = _spread(folder, reference)
        except (StoreError, NotComparable) as error:
            if candidates:
                raise
            notes.append(f"{folder.name} is left out: {error}")
            continue
        name = spread.name if spread.name not in spreads else str(folder)
        spreads[name] = replace(spread, name=name)
    return spreads, tuple(notes)


def _spread(folder: Path, reference: Recorded) -> PlannedSpread:
    """The root mean square of the benchmarks' standard deviations, and the mean of their shares of changed queries.

    Raises StoreError, NotComparable.
    """
    candidate = comparability.read(folder)
    benchmarks = comparability.ground(reference, candidate, comparability.ALLOWANCES).benchmarks
    differences = []
    for benchmark in benchmarks:
        before, now = (run.rows[benchmark].per_query for run in (reference, candidate))
        differences.append(np.array([now[query_id] - value for query_id, value in before.items()]))
    if max(map(len, differences)) < 2:
        raise StoreError(f"{folder} has one query per benchmark, and a spread needs at least two")
    variances = [float(values.var(ddof=1)) for values in differences if len(values) > 1]
    changed = float(np.mean([np.mean(values != 0) for values in differences]))
    return PlannedSpread(folder.name, "recorded", changed, math.sqrt(sum(variances) / len(variances)), 0)


def _assumed(reference: Recorded) -> dict[str, PlannedSpread]:
    """The spread of the difference of two engines with equal variances: 2 (1 - correlation) times the variance."""
    variances = [float(np.var(list(row.per_query.values()))) for row in reference.rows.values()]
    variance = sum(variances) / len(variances)
    names = {f"correlation {correlation:g}": math.sqrt(2 * (1 - correlation) * variance) for correlation in ASSUMED}
    return {name: PlannedSpread(name, "assumed", None, deviation, 0) for name, deviation in names.items()}


def _supplies(reference: Recorded, config: Path | None) -> Iterator[Supply]:
    """The reference's own benchmarks, and the config's or all shipped suites."""
    sizes = {name: reference.available[name] or row.queries for name, row in reference.rows.items()}
    averaging = layout(list(sizes))
    for name, weights in averaging.weights(list(sizes)).items():
        yield Supply(name, {benchmark: sizes[benchmark] for benchmark in weights}, weights)
    if config is None:
        yield from map(_suite, map(load_suite, suite_names()))
        return
    read = read_config(config)
    yield from (_suite(load_suite(name)) for name in read.suites)
    known = {member.name: member.queries for name in suite_names() for member in load_suite(name).members}
    for entry in read.benchmarks:
        if entry.title not in sizes:
            yield Supply(entry.title, {entry.title: known.get(entry.title)}, {entry.title: 1.0})


def _suite(suite: Suite) -> Supply:
    return Supply(f"suite {suite.name}", {member.name: member.queries for member in suite.members}, suite.weights)


def _pool(supply: Supply, spreads: Sequence[PlannedSpread], options: PlanOptions) -> PlannedPool:
    sizes = {name: size for name, size in supply.sizes.items() if size is not None}
    several = len(supply.sizes) > 1
    single = {
        spread.name: tuple(name for name, size in sizes.items() if size >= spread.needed) if several else ()
        for spread in spreads
    }
    if len(sizes) < len(supply.sizes):
        return PlannedPool(supply.name, len(supply.sizes), None, None, (), single)
    effective = effective_queries(sizes, supply.weights)
    scale = math.hypot(*(share / math.sqrt(sizes[name]) for name, share in supply.weights.items()))
    margins = []
    for spread in spreads:
        margin = decided_distance(spread.deviation * scale, effective, options.power)
        margins.append(PlannedMargin(spread.name, margin, margin <= options.margin))
    return PlannedPool(supply.name, len(sizes), sum(sizes.values()), effective, tuple(margins), single)
