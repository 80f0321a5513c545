"""The verdict over launches: whether B is slower than A by more than the margin. Pure; docs/ab.md gives the reasons."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from harness.ab.records import METRICS, AbVerdict, Launch, LaunchPair, Metric, MetricFinding, Round
from harness.figures.percentiles import samples_needed
from harness.figures.shifts import ALPHA, Shift, Values, fewest_launch_pairs, paired
from harness.figures.statistics import holm
from harness.outcome import Outcome

QUANTILES: Mapping[Metric, float] = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
Findings = Mapping[Metric, MetricFinding]


def judge(launch_pairs: Sequence[LaunchPair], margins: Mapping[Metric, float]) -> dict[Metric, MetricFinding]:
    """The finding for every metric with a margin, from one set of launch pairs; Holm covers the measured metrics."""
    slowdowns: dict[Metric, list[float]] = {}
    reasons: dict[Metric, str] = {}
    for metric in margins:
        reasons[metric] = shortage(metric, [launch for launch_pair in launch_pairs for launch in launch_pair])
        if not reasons[metric]:
            slowdowns[metric] = [_slowdown(metric, launch_pair) for launch_pair in launch_pairs]
    shifts = {metric: paired(values, math.log1p(margins[metric])) for metric, values in slowdowns.items()}
    p_holm = holm({metric: shift.p_slower for metric, shift in shifts.items()})
    findings = {}
    for metric in (metric for metric in METRICS if metric in margins):
        margin = margins[metric]
        if metric not in shifts:
            findings[metric] = MetricFinding(metric, margin, None, reason=reasons[metric])
            continue
        outcome, reason = _outcome(shifts[metric], margin, p_holm[metric], len(shifts))
        findings[metric] = MetricFinding(
            metric, margin, outcome, slowdowns[metric], shifts[metric], p_holm[metric], reason
        )
    return findings


def red(findings: Findings) -> list[Metric]:
    return [metric for metric, finding in findings.items() if finding.outcome is Outcome.REGRESSION]


def conclude(first: Findings, second: Findings | None = None) -> AbVerdict:
    """The verdict over a first set and, if it was red, over the set that was launched to confirm it.

    Red in both sets: regression. Red in the first only: inconclusive. Not red: pass if every measured metric passes.
    """
    if second is not None:
        return AbVerdict(Outcome.REGRESSION if red(second) else Outcome.INCONCLUSIVE, first, second)
    if red(first):
        raise ValueError("a red set alone gives no verdict: launch a second set")
    measured = [finding.outcome for finding in first.values() if finding.outcome is not None]
    passed = bool(measured) and all(outcome is Outcome.PASS for outcome in measured)
    return AbVerdict(Outcome.PASS if passed else Outcome.INCONCLUSIVE, first)


def shortage(metric: Metric, launches: Sequence[Launch]) -> str:
    """The reason why there are too few queries for the metric; empty if there are enough."""
    if metric == "throughput":
        return ""
    blocks = [len(block.service_s) for launch in launches for block in _blocks(metric, launch)]
    needed, fewest = samples_needed(QUANTILES[metric]), min(blocks, default=0)
    unit = "round" if metric == "p50" else "launch"
    return f"needs {needed} queries per {unit}; there are {fewest}" if fewest < needed else ""


def _slowdown(metric: Metric, launch_pair: LaunchPair) -> float:
    return float(np.median(_logs(metric, launch_pair.b) - _logs(metric, launch_pair.a)))


def _logs(metric: Metric, launch: Launch) -> Values:
    """Logarithm of the seconds per query or per pair, for every block."""
    return np.log([_seconds(metric, block) for block in _blocks(metric, launch)])


def _blocks(metric: Metric, launch: Launch) -> Sequence[Round]:
    """p50 has a value per round, so that a disturbance of one turn is outvoted; other metrics need all queries."""
    if metric == "p50":
        return launch
    service_s = [seconds for block in launch for seconds in block.service_s]
    return [Round(service_s, [pairs for block in launch for pairs in block.pairs])]


def _seconds(metric: Metric, block: Round) -> float:
    if metric == "throughput":
        return math.fsum(block.service_s) / sum(block.pairs)
    nearest_rank = math.ceil(QUANTILES[metric] * len(block.service_s)) - 1
    return sorted(block.service_s)[nearest_rank]


def _outcome(shift: Shift, margin: float, p_holm: float, tests: int) -> tuple[Outcome, str]:
    """The outcome of one metric, and the reason if it is undecided."""
    bound = math.log1p(margin)
    if p_holm <= ALPHA:
        return Outcome.REGRESSION, ""
    if shift.lo is None or shift.hi is None:
        return Outcome.INCONCLUSIVE, f"too few launches for an interval; {fewest_launch_pairs(tests)} pairs can decide"
    if shift.hi < bound:
        return Outcome.PASS, ""
    if shift.lo > bound:
        reason = f"beyond the margin, but not after Holm's adjustment over {tests} metrics; more launches may decide"
        return Outcome.INCONCLUSIVE, reason
    return Outcome.INCONCLUSIVE, "the interval contains the margin; more launches make it narrower"
