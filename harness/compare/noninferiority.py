"""Did nDCG@10 fall by more than a margin? On every benchmark, on averages, and over everything compared."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from harness.benchmarks.suites import Suite, load_suite, suite_names
from harness.compare.comparison import Effect, Outcome, QualityVerdict
from harness.figures.statistics import CONFIDENCE, Contrast, contrast, growth, holm, sign_flip, standardised

MARGIN = 0.005
ALPHA = (1 - CONFIDENCE) / 2  # one end of the interval
# With fewer queries no interval is to be trusted: when one query in ten loses half its nDCG, the lower end of 95% is
# too high in 22% of samples of 20 queries, in 8% of 50 and in 5% of 100 (simulated).
LEAST_QUERIES = 50

PerQuery = Mapping[str, Mapping[str, float]]  # benchmark -> query_id -> nDCG@10
Weights = Mapping[str, float]  # benchmark -> share of an average


class Averaging(NamedTuple):
    """What is averaged with what. A unit counts once: a benchmark, or a whole group such as CQADupStack."""

    units: dict[str, dict[str, float]]  # name -> weights
    averages: dict[str, dict[str, float]]  # complete suites, and the mean of what belongs to none
    gates: tuple[str, ...]  # the averages; a unit that stands alone is its own

    def weights(self, benchmarks: Sequence[str]) -> dict[str, dict[str, float]]:
        """Everything that has an effect: averages, groups, then the benchmarks one by one."""
        groups = {name: weights for name, weights in self.units.items() if len(weights) > 1}
        return {**self.averages, **groups, **{name: {name: 1.0} for name in benchmarks}}


def layout(benchmarks: Sequence[str]) -> Averaging:
    """How these benchmarks are averaged. Raises BenchmarkError for a broken suite file."""
    suites = [load_suite(name) for name in suite_names()]
    units = _units(benchmarks, suites)
    complete = [suite for suite in suites if suite.weights.keys() <= set(benchmarks) and len(suite.units) > 1]
    averages = {f"mean of suite {suite.name}": suite.weights for suite in complete}
    placed = {name for suite in complete for name in suite.weights}
    rest = {name: weights for name, weights in units.items() if not weights.keys() <= placed}
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
            own = [member.name for member in members]
            if len(own) > 1 and set(own) <= set(benchmarks):
                groups[name] = own
    grouped = {name for own in groups.values() for name in own}
    units = {name: {name: 1.0} for name in benchmarks if name not in grouped}
    return units | {group: dict.fromkeys(own, 1 / len(own)) for group, own in groups.items()}


def effects(reference: PerQuery, candidate: PerQuery, laid: Averaging, margin: float) -> list[Effect]:
    """Candidate minus reference, on averages, groups and benchmarks. Both sides hold the same queries."""
    differences = {
        name: {query_id: candidate[name][query_id] - value for query_id, value in per_query.items()}
        for name, per_query in reference.items()
    }
    found = []
    for name, weights in laid.weights(list(reference)).items():
        effect = _effect(name, weights, {own: differences[own] for own in weights}, margin)
        means = [quality(side, weights) for side in (reference, candidate)]
        found.append(replace(effect, reference=means[0], candidate=means[1]))
    adjusted = holm({effect.name: effect.p.value for effect in found if effect.name in laid.units})
    return [replace(effect, p_holm=adjusted.get(effect.name)) for effect in found]


def quality(per_query: PerQuery, weights: Weights) -> float:
    """Mean nDCG@10 of an engine; an average is the weighted mean of its benchmarks' means."""
    return sum(share * math.fsum(per_query[name].values()) / len(per_query[name]) for name, share in weights.items())


def _effect(name: str, weights: Weights, differences: PerQuery, margin: float) -> Effect:
    found = contrast(differences, weights, threshold=-margin)
    every = [value for own in differences.values() for value in own.values()]
    outcome = judge(found, len(every), margin)
    needed, note = _remark(found, every, margin) if outcome != "regression" else (None, "")
    return Effect(
        name=name,
        benchmarks=tuple(weights),
        queries=len(every),
        reference=0.0,
        candidate=0.0,
        difference=found,
        p=sign_flip(differences, weights),
        wins=sum(value > 0 for value in every),
        ties=sum(value == 0 for value in every),
        losses=sum(value < 0 for value in every),
        standardised=standardised(differences[name]) if len(weights) == 1 else None,
        outcome=outcome,
        needed=needed if outcome == "inconclusive" else None,
        note=note if outcome == "inconclusive" or not any(every) else "",
    )


def judge(difference: Contrast, queries: int, margin: float) -> Outcome:
    """Pass if the whole 95% interval lies above -margin, regression if all of it lies below, else inconclusive."""
    if difference.lo is None or difference.hi is None or queries < LEAST_QUERIES:
        return "inconclusive"
    return "pass" if difference.lo > -margin else "regression" if difference.hi < -margin else "inconclusive"


def _remark(found: Contrast, differences: Sequence[float], margin: float) -> tuple[int | None, str]:
    """How many queries would decide, and what that assumes; of equal runs, how surely they are equal."""
    queries = len(differences)
    if found.standard_error is None:
        return None, "a benchmark has one query, which says nothing about another"
    if not any(differences):
        share = 1 - ALPHA ** (1 / queries)  # Clopper and Pearson 1934, for none of n
        few = f", fewer than the {LEAST_QUERIES} that a verdict takes" if queries < LEAST_QUERIES else ""
        return LEAST_QUERIES, f"no query's nDCG@10 differs{few}; up to {share:.1%} of queries might (97.5% confidence)"
    needed, assumed = math.ceil(queries * growth(found.standard_error, margin)), "no true difference"
    if needed <= queries:
        distance = abs(found.value + margin)
        if distance == 0:
            return None, "the difference is the margin itself"
        needed, assumed = math.ceil(queries * growth(found.standard_error, distance)), "the difference found"
    needed = max(needed, LEAST_QUERIES)
    if needed <= queries:
        return None, "the interval reaches over the margin although queries of this spread should do"
    return needed, f"about {needed:,} queries would decide with 80% power, assuming {assumed}"


def verdict(found: Sequence[Effect], laid: Averaging, margin: float) -> QualityVerdict:
    """A regression of a gate or of a unit, each family by Holm at 2.5%; pass if every gate passes; else inconclusive.

    A chance of at most 2.5% of a false regression from the gates and as much from the units; that all gates pass
    needs no adjustment (intersection-union test, Berger 1982).
    """
    families = [[effect for effect in found if effect.name in names] for names in (laid.gates, laid.units)]
    regressions = tuple(dict.fromkeys(name for family in families for name in _regressions(family)))
    passed = all(effect.outcome == "pass" for effect in families[0])
    outcome: Outcome = "regression" if regressions else "pass" if passed else "inconclusive"
    return QualityVerdict(outcome, margin, laid.gates, regressions)


def _regressions(family: Sequence[Effect]) -> list[str]:
    alarms = [effect.name for effect in family if effect.outcome == "regression"]
    if len(family) == 1:
        return alarms  # nothing to adjust for: its interval decides
    known = {effect.name: effect.difference.p_below for effect in family}
    adjusted = holm({name: 1.0 if p is None else p for name, p in known.items()})
    return [name for name in alarms if adjusted[name] <= ALPHA]
