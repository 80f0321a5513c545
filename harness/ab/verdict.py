"""From launches to a verdict: is B slower than A by more than the margin? Pure. See docs/ab.md for the reasons."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from harness.ab.records import METRICS, AbVerdict, Launch, LaunchPair, Metric, MetricFinding, Outcome, Round
from harness.figures.shifts import ALPHA, Shift, Values, fewest_launch_pairs, paired
from harness.figures.statistics import holm

MARGINS: Mapping[Metric, float] = {"p50": 0.03, "p95": 0.05, "p99": 0.10, "throughput": 0.02}
QUANTILES: Mapping[Metric, float] = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
Findings = Mapping[Metric, MetricFinding]


def judge(launch_pairs: Sequence[LaunchPair], margins: Mapping[Metric, float]) -> dict[Metric, MetricFinding]:
    """Every metric of the margins, from the launch pairs of one set; Holm over those that are measured."""
    slowdowns: dict[Metric, list[float]] = {}
    reasons: dict[Metric, str] = {}
    for metric in margins:
        reasons[metric] = shortage(metric, [launch for both in launch_pairs for launch in both])
        if not reasons[metric]:
            slowdowns[metric] = [_slowdown(metric, both) for both in launch_pairs]
    shifts = {metric: paired(values, math.log1p(margins[metric])) for metric, values in slowdowns.items()}
    return _findings(margins, shifts, slowdowns, reasons)


def red(findings: Findings) -> list[Metric]:
    return [metric for metric, found in findings.items() if found.outcome == "regression"]


def conclude(first: Findings, second: Findings | None = None) -> AbVerdict:
    """The verdict of a first set and, if that was red, of the set that was launched to confirm it.

    Red in both sets: regression. Red in the first only: inconclusive. Not red: pass if all that is measured passes.
    """
    if second is not None:
        return AbVerdict("regression" if red(second) else "inconclusive", first, second)
    if red(first):
        raise ValueError("a red set is no verdict: launch a second one")
    measured = [found.outcome for found in first.values() if found.outcome is not None]
    passed = bool(measured) and all(outcome == "pass" for outcome in measured)
    return AbVerdict("pass" if passed else "inconclusive", first)


def shortage(metric: Metric, launches: Sequence[Launch]) -> str:
    """Why the metric cannot be known from so few queries; empty if it can."""
    if metric == "throughput":
        return ""
    blocks = [len(block.service_s) for launch in launches for block in _blocks(metric, launch)]
    needed, least = samples_needed(QUANTILES[metric]), min(blocks, default=0)
    unit = "round" if metric == "p50" else "launch"
    return f"{metric} takes {needed} queries per {unit}, here are {least}" if least < needed else ""


def samples_needed(quantile: float) -> int:
    """Fewest samples n whose maximum bounds the quantile from above with 95% confidence: quantile^n <= 5%."""
    return math.ceil(math.log(0.05) / math.log(quantile))


def _slowdown(metric: Metric, both: LaunchPair) -> float:
    return float(np.median(_logs(metric, both.b) - _logs(metric, both.a)))


def _logs(metric: Metric, launch: Launch) -> Values:
    """Logarithm of the time per query or per pair, of every block."""
    return np.log([_seconds(metric, block) for block in _blocks(metric, launch)])


def _blocks(metric: Metric, launch: Launch) -> Sequence[Round]:
    """p50 is taken from every round, so that a disturbance of one turn is outvoted; the others need all queries."""
    if metric == "p50":
        return launch
    return [Round([s for one in launch for s in one.service_s], [n for one in launch for n in one.pairs])]


def _seconds(metric: Metric, block: Round) -> float:
    if metric == "throughput":
        return math.fsum(block.service_s) / sum(block.pairs)
    nearest_rank = math.ceil(QUANTILES[metric] * len(block.service_s)) - 1
    return sorted(block.service_s)[nearest_rank]


def _findings(
    margins: Mapping[Metric, float],
    shifts: Mapping[Metric, Shift],
    slowdowns: Mapping[Metric, Sequence[float]],
    reasons: Mapping[Metric, str],
) -> dict[Metric, MetricFinding]:
    adjusted = holm({metric: shift.p_slower for metric, shift in shifts.items()})
    found = {}
    for metric in (metric for metric in METRICS if metric in margins):
        margin = margins[metric]
        if metric not in shifts:
            found[metric] = MetricFinding(metric, margin, None, reason=reasons[metric])
            continue
        outcome, reason = _outcome(shifts[metric], margin, adjusted[metric], len(shifts))
        found[metric] = MetricFinding(
            metric, margin, outcome, slowdowns.get(metric, ()), shifts[metric], adjusted[metric], reason
        )
    return found


def _outcome(shift: Shift, margin: float, p_holm: float, tests: int) -> tuple[Outcome, str]:
    bound = math.log1p(margin)
    if p_holm <= ALPHA:
        return "regression", ""
    if shift.lo is None or shift.hi is None:
        return "inconclusive", f"too few launches for an interval; {fewest_launch_pairs(tests)} pairs can decide"
    if shift.hi < bound:
        return "pass", ""
    if shift.lo > bound:
        return "inconclusive", f"beyond the margin, but not after Holm's adjustment over {tests} metrics; more launches"
    return "inconclusive", "the interval holds the margin; more launches make it narrower"
