"""Verdicts on a fall of nDCG@10 beyond a margin: per benchmark, per average, and for the whole comparison."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from harness.benchmarks.suites import Suite, load_suite, suite_names
from harness.compare.comparison import Effect, QualityVerdict
from harness.figures.statistics import (
    ALPHA,
    Contrast,
    contrast,
    effective_queries,
    growth_to_find,
    growth_to_pass,
    holm,
    least_queries,
    sign_flip,
    standardised,
    unseen_loss,
)
from harness.outcome import Outcome

MARGIN = 0.005

PerQuery = Mapping[str, Mapping[str, float]]  # benchmark -> query_id -> nDCG@10
Weights = Mapping[str, float]  # benchmark -> share of an average


Available = Mapping[str, int | None]  # benchmark -> queries that exist; None: not recorded


class Growing(NamedTuple):
    """What more queries could decide."""

    margin: float
    available: Sequence[int | None]  # queries that each benchmark has

    @property
    def most(self) -> int:
        return sum(queries or 0 for queries in self.available)

    @property
    def limit(self) -> str:
        """The reason why more queries cannot decide, and the next step."""
        return (
            f"even all {self.most:,} queries that exist are too few for a margin of {self.margin:g}: "
            "add benchmarks, or choose a wider margin before the next run"
        )

    def reaches(self, factor: float, differences: Sequence[Weights]) -> bool | None:
        """Whether every benchmark has `factor` times the queries that were scored; None if that is not recorded."""
        pairs = list(zip(self.available, differences, strict=True))
        if any(size is not None and math.ceil(round(factor * len(scored), 6)) > size for size, scored in pairs):
            return False
        return None if any(size is None for size, _ in pairs) else True


class Averaging(NamedTuple):
    """The averages of benchmarks. A unit counts once: a benchmark, or a whole group such as CQADupStack."""

    units: dict[str, dict[str, float]]  # name -> weights
    averages: dict[str, dict[str, float]]  # complete suites, and the mean of the units outside them
    gates: tuple[str, ...]  # the averages, and the unit outside them if there is only one

    def weights(self, benchmarks: Sequence[str]) -> dict[str, dict[str, float]]:
        """The weights of every effect: averages, groups, then single benchmarks."""
        groups = {name: weights for name, weights in self.units.items() if len(weights) > 1}
        return {**self.averages, **groups, **{name: {name: 1.0} for name in benchmarks}}


def layout(benchmarks: Sequence[str]) -> Averaging:
    """The averaging of these benchmarks. Raises BenchmarkError for a broken suite file."""
    suites = [load_suite(name) for name in suite_names()]
    units = _units(benchmarks, suites)
    complete = [suite for suite in suites if suite.weights.keys() <= set(benchmarks) and len(suite.units) > 1]
    averages = {f"mean of suite {suite.name}": suite.weights for suite in complete}
    covered = {name for suite in complete for name in suite.weights}
    rest = {name: weights for name, weights in units.items() if not weights.keys() <= covered}
    gates = (*averages, *rest) if len(rest) == 1 else tuple(averages)
    if len(rest) > 1:
        name = f"mean of {'the other ' if averages else ''}{len(rest)} benchmarks"
        averages[name] = {benchmark: share / len(rest) for unit in rest.values() for benchmark, share in unit.items()}
        gates = (*gates, name)
    return Averaging(units, averages, gates)


def _units(benchmarks: Sequence[str], suites: Sequence[Suite]) -> dict[str, dict[str, float]]:
    groups: dict[str, list[str]] = {}
    for suite in suites:
        for name, members in suite.units.items():
            members_of_unit = [member.name for member in members]
            if len(members_of_unit) > 1 and set(members_of_unit) <= set(benchmarks):
                groups[name] = members_of_unit
    grouped = {name for names in groups.values() for name in names}
    units = {name: {name: 1.0} for name in benchmarks if name not in grouped}
    return units | {group: dict.fromkeys(names, 1 / len(names)) for group, names in groups.items()}


def effects(
    reference: PerQuery, candidate: PerQuery, averaging: Averaging, margin: float, available: Available
) -> list[Effect]:
    """Candidate minus reference for averages, groups and benchmarks. Both sides have the same queries."""
    differences = {
        name: {query_id: candidate[name][query_id] - value for query_id, value in per_query.items()}
        for name, per_query in reference.items()
    }
    unadjusted = []
    for name, weights in averaging.weights(list(reference)).items():
        chosen = {benchmark: differences[benchmark] for benchmark in weights}
        effect = _effect(name, weights, chosen, Growing(margin, [available.get(benchmark) for benchmark in weights]))
        means = [quality(side, weights) for side in (reference, candidate)]
        unadjusted.append(replace(effect, reference=means[0], candidate=means[1]))
    adjusted = holm({effect.name: effect.p.value for effect in unadjusted if effect.name in averaging.units})
    return [replace(effect, p_holm=adjusted.get(effect.name)) for effect in unadjusted]


def quality(per_query: PerQuery, weights: Weights) -> float:
    """Mean nDCG@10 of an engine: the weighted mean of the benchmarks' means."""
    return sum(share * math.fsum(per_query[name].values()) / len(per_query[name]) for name, share in weights.items())


def _effect(name: str, weights: Weights, differences: PerQuery, growing: Growing) -> Effect:
    margin = growing.margin
    difference = contrast(differences, weights, threshold=-margin)
    values = [value for per_query in differences.values() for value in per_query.values()]
    effective = effective_queries({benchmark: len(scored) for benchmark, scored in differences.items()}, weights)
    outcome = judge(difference, margin)
    remark = _remark(Evidence(difference, list(map(dict, differences.values())), effective), growing)
    needed, note = remark if outcome is Outcome.INCONCLUSIVE else (None, _equality(values, effective))
    return Effect(
        name=name,
        benchmarks=tuple(weights),
        queries=len(values),
        reference=0.0,
        candidate=0.0,
        difference=difference,
        unseen_loss=unseen_loss(effective),
        p=sign_flip(differences, weights),
        wins=sum(value > 0 for value in values),
        ties=sum(value == 0 for value in values),
        losses=sum(value < 0 for value in values),
        standardised=standardised(differences[name]) if len(weights) == 1 else None,
        outcome=outcome,
        needed=needed,
        note=note,
    )


def judge(difference: Contrast, margin: float) -> Outcome:
    """Pass if the whole interval lies above -margin, regression if all of it lies below, else inconclusive."""
    if difference.lo > -margin:
        return Outcome.PASS
    return Outcome.REGRESSION if difference.hi < -margin else Outcome.INCONCLUSIVE


class Evidence(NamedTuple):
    """What the scored queries show about one effect."""

    difference: Contrast
    differences: Sequence[Weights]  # of each benchmark, by query
    effective: float  # number of queries as which they count against losses that were not seen

    @property
    def queries(self) -> int:
        return sum(map(len, self.differences))

    def blind(self, margin: float) -> str:
        """The reason why these queries cannot pass, whatever they show; empty if they can."""
        if unseen_loss(self.effective) < margin:
            return ""
        weighing = "" if round(self.effective) == self.queries else f" (which weigh like {self.effective:,.0f})"
        number = "1 query" if self.queries == 1 else f"{self.queries:,} queries"
        least = math.ceil(round(self.queries * least_queries(margin) / self.effective, 6))
        return (
            f"cannot be known from {number}{weighing}: rare losses that none of them shows may cost "
            f"{unseen_loss(self.effective):.4f}, and {least:,} queries are the fewest that exclude {margin:g}"
        )


def _equality(values: Sequence[float], effective: float) -> str:
    """The confidence in the equality of runs without a difference."""
    if any(values):
        return ""
    share = unseen_loss(effective)
    return f"nDCG@10 differs on no query; it may differ on up to {share:.1%} of queries (97.5% confidence)"


def _remark(evidence: Evidence, growing: Growing) -> tuple[int | None, str]:
    """The number of queries that would decide, and why these do not."""
    equal = not any(value for per_query in evidence.differences for value in per_query.values())
    reasons = ["nDCG@10 differs on no query" if equal else "", evidence.blind(growing.margin)]
    needed, reason = _needed(evidence, growing.margin)
    if needed is None:
        return None, "; ".join(filter(None, (*reasons, reason)))
    reaches = growing.reaches(needed / evidence.queries, evidence.differences)
    if reaches is False:
        return None, "; ".join(filter(None, (*reasons, growing.limit)))
    unknown = "" if reaches else ", if the benchmark has as many"
    step = f"about {needed:,} queries would decide with 80% power, {reason}{unknown}"
    return needed, "; ".join(filter(None, (*reasons, step)))


def _needed(evidence: Evidence, margin: float) -> tuple[int | None, str]:
    """The number of queries that would decide and what it assumes; None and the reason if no number can be given."""
    (value, _, _, error, _), queries = evidence.difference, evidence.queries
    if error is None:
        return None, "a benchmark has only one query, so the spread over queries is unknown"
    needed = _grown(queries, growth_to_pass(error, evidence.effective, margin))
    if needed > queries:
        return needed, "assuming no true difference"
    distance = value + margin
    if distance == 0:
        return None, "the difference equals the margin"
    passes = distance > 0
    growth = growth_to_pass(error, evidence.effective, distance) if passes else growth_to_find(error, -distance)
    needed = _grown(queries, growth)
    if needed <= queries:
        return None, "the interval contains the margin, although this many queries should be enough for their spread"
    return needed, "assuming the measured difference"


def _grown(queries: int, factor: float) -> int:
    return math.ceil(round(queries * factor, 6))


def verdict(all_effects: Sequence[Effect], averaging: Averaging, margin: float) -> QualityVerdict:
    """REGRESSION if a gate or a unit regresses, PASS if every gate passes, else INCONCLUSIVE.

    Holm's adjustment is applied to the gates and to the units separately, at 2.5% each. That bounds the probability
    of a false regression by 2.5% in each family. The rule that all gates pass needs no adjustment
    (intersection-union test, Berger 1982).
    """
    gates, units = (
        [effect for effect in all_effects if effect.name in names] for names in (averaging.gates, averaging.units)
    )
    regressions = tuple(dict.fromkeys([*_regressions(gates), *_regressions(units)]))
    if regressions:
        outcome = Outcome.REGRESSION
    else:
        passed = all(effect.outcome is Outcome.PASS for effect in gates)
        outcome = Outcome.PASS if passed else Outcome.INCONCLUSIVE
    return QualityVerdict(outcome, margin, averaging.gates, regressions)


def _regressions(family: Sequence[Effect]) -> list[str]:
    alarms = [effect.name for effect in family if effect.outcome is Outcome.REGRESSION]
    if len(family) == 1:
        return alarms  # one test needs no adjustment: its interval decides
    p_values = {effect.name: effect.difference.p_below for effect in family}
    adjusted = holm(p_values)
    return [name for name in alarms if adjusted[name] <= ALPHA]
