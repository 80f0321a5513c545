"""Verdicts on a fall of nDCG@10 beyond a margin: per benchmark, per average, and for the whole comparison."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from harness.benchmarks.suites import Suite, load_suite, suite_names
from harness.compare.comparison import Effect, QualityVerdict
from harness.figures.statistics import CONFIDENCE, Contrast, contrast, growth, holm, sign_flip, standardised
from harness.outcome import Outcome

MARGIN = 0.005
ALPHA = (1 - CONFIDENCE) / 2  # one end of the interval
# Intervals over fewer queries cannot be trusted. If one query in ten loses half its nDCG, the lower end of the 95%
# interval is too high in 22% of samples of 20 queries, in 8% of samples of 50 and in 5% of samples of 100 (simulated).
LEAST_QUERIES = 50

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
        if self.most < LEAST_QUERIES:
            return f"there are only {self.most}: add benchmarks"
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
    outcome = judge(difference, len(values), margin)
    remark = _remark(difference, list(map(dict, differences.values())), growing)
    needed, note = remark if outcome is not Outcome.REGRESSION else (None, "")
    return Effect(
        name=name,
        benchmarks=tuple(weights),
        queries=len(values),
        reference=0.0,
        candidate=0.0,
        difference=difference,
        p=sign_flip(differences, weights),
        wins=sum(value > 0 for value in values),
        ties=sum(value == 0 for value in values),
        losses=sum(value < 0 for value in values),
        standardised=standardised(differences[name]) if len(weights) == 1 else None,
        outcome=outcome,
        needed=needed if outcome is Outcome.INCONCLUSIVE else None,
        note=note if outcome is Outcome.INCONCLUSIVE or not any(values) else "",
    )


def judge(difference: Contrast, queries: int, margin: float) -> Outcome:
    """Pass if the whole 95% interval lies above -margin, regression if all of it lies below, else inconclusive."""
    if difference.lo is None or difference.hi is None or queries < LEAST_QUERIES:
        return Outcome.INCONCLUSIVE
    if difference.lo > -margin:
        return Outcome.PASS
    return Outcome.REGRESSION if difference.hi < -margin else Outcome.INCONCLUSIVE


def _remark(difference: Contrast, differences: Sequence[Weights], growing: Growing) -> tuple[int | None, str]:
    """The number of queries that would decide and its assumption; for equal runs, the confidence in their equality."""
    queries = sum(map(len, differences))
    few = (
        f"{queries} queries are fewer than the {LEAST_QUERIES} that a verdict needs" if queries < LEAST_QUERIES else ""
    )
    if difference.standard_error is None:
        return None, "a benchmark has only one query, so the spread over queries is unknown"
    if not any(value for per_query in differences for value in per_query.values()):
        share = 1 - ALPHA ** (1 / queries)  # Clopper and Pearson 1934, for 0 of n
        step = f" (a verdict needs at least {LEAST_QUERIES})" if few else ""
        return (
            LEAST_QUERIES if growing.reaches(LEAST_QUERIES / queries, differences) else None,
            f"nDCG@10 differs on no query{step}; it may differ on up to {share:.1%} of queries (97.5% confidence)",
        )
    needed, reason = _needed(difference, queries, growing.margin)
    if needed is None:
        return None, "; ".join(filter(None, (few, reason)))
    reaches = growing.reaches(needed / queries, differences)
    if reaches is False:
        return None, "; ".join(filter(None, (few, growing.limit)))
    unknown = "" if reaches else ", if the benchmark has as many"
    step = f"about {needed:,} queries would decide with 80% power, {reason}{unknown}"
    return needed, "; ".join(filter(None, (few, step)))


def _needed(difference: Contrast, queries: int, margin: float) -> tuple[int | None, str]:
    """The number of queries that would decide and what it assumes; None and the reason if no number can be given."""
    assert difference.standard_error is not None
    if difference.lo is not None and difference.hi is not None and not difference.lo <= -margin <= difference.hi:
        return LEAST_QUERIES, "assuming the measured difference"  # the interval decides, but over too few queries
    needed, assumed = math.ceil(queries * growth(difference.standard_error, margin)), "assuming no true difference"
    if needed <= queries:
        distance = abs(difference.value + margin)
        if distance == 0:
            return None, "the difference equals the margin"
        needed = math.ceil(queries * growth(difference.standard_error, distance))
        assumed = "assuming the measured difference"
    needed = max(needed, LEAST_QUERIES)
    if needed <= queries:
        return None, "the interval contains the margin, although this many queries should be enough for their spread"
    return needed, assumed


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
    adjusted = holm({name: 1.0 if p is None else p for name, p in p_values.items()})
    return [name for name in alarms if adjusted[name] <= ALPHA]
