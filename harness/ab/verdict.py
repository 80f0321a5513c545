"""The verdict over launches: whether B is slower than A by more than the margin. Pure; docs/ab.md gives the reasons."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from harness.ab.records import METRICS, Findings, Launch, LaunchPair, Metric, MetricFinding, Round
from harness.figures.percentiles import samples_needed
from harness.figures.sequential import Looks, RepeatedInterval, at_look, plan_looks
from harness.figures.shifts import Values
from harness.outcome import Outcome

QUANTILES: Mapping[Metric, float] = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


class PairSlowdowns(NamedTuple):
    """The slowdown of B in one launch pair, per metric, as the logarithm of a ratio; a reason where there is none."""

    logs: Mapping[Metric, float]
    reasons: Mapping[Metric, str]


def slowdowns(launch_pair: LaunchPair, metrics: Collection[Metric]) -> PairSlowdowns:
    """The numbers of one launch pair for these metrics, as far as it has enough queries."""
    reasons = {metric: shortage(metric, launch_pair) for metric in METRICS if metric in metrics}
    logs = {metric: slowdown(metric, launch_pair) for metric, reason in reasons.items() if not reason}
    return PairSlowdowns(logs, {metric: reason for metric, reason in reasons.items() if reason})


def judge(made: Sequence[PairSlowdowns], margins: Mapping[Metric, float], *, most: int) -> dict[Metric, MetricFinding]:
    """The finding for every metric with a margin, at one look of a run with at most `most` launch pairs.

    The lower ends of the measured metrics share an error rate of 5% over all looks (Bonferroni).
    """
    if not made:
        none = (Outcome.INCONCLUSIVE, "no launch pair was finished")
        return {m: MetricFinding(m, margins[m], none[0], reason=none[1]) for m in METRICS if m in margins}
    reasons = {metric: reason for pair in made for metric, reason in pair.reasons.items()}
    looks = plan_looks(most, len(measured(made)) or 1)
    return {
        metric: MetricFinding(metric, margins[metric], None, reason=reasons[metric])
        if metric in reasons
        else _finding(metric, margins[metric], [pair.logs[metric] for pair in made], looks)
        for metric in METRICS
        if metric in margins
    }


def measured(made: Sequence[PairSlowdowns]) -> list[Metric]:
    """The metrics that every launch pair has."""
    return [metric for metric in METRICS if all(metric in pair.logs for pair in made)]


def red(findings: Findings) -> list[Metric]:
    return [metric for metric, finding in findings.items() if finding.outcome is Outcome.REGRESSION]


def conclude(findings: Findings) -> Outcome:
    """Regression if a metric is one, pass if every measured metric passes, inconclusive in every other case."""
    if red(findings):
        return Outcome.REGRESSION
    outcomes = [finding.outcome for finding in findings.values() if finding.outcome is not None]
    passed = bool(outcomes) and all(outcome is Outcome.PASS for outcome in outcomes)
    return Outcome.PASS if passed else Outcome.INCONCLUSIVE


def shortage(metric: Metric, launches: Sequence[Launch]) -> str:
    """The reason why there are too few queries for the metric; empty if there are enough."""
    if metric == "throughput":
        return ""
    needed = samples_needed(QUANTILES[metric])
    fewest = min((sum(len(block.service_s) for block in launch) for launch in launches), default=0)
    return f"needs {needed} queries per launch; there are {fewest}" if fewest < needed else ""


def slowdown(metric: Metric, launch_pair: LaunchPair) -> float:
    """The slowdown of B in one launch pair, as the logarithm of a ratio."""
    if metric == "p50":
        return float(np.median(np.concatenate(request_slowdowns(launch_pair))))
    a, b = (_seconds(metric, launch) for launch in launch_pair)
    return math.log(b / a)


def request_slowdowns(launch_pair: LaunchPair) -> list[Values]:
    """Per round, the logarithm of B's time over A's for each request, which both scored in adjacent turns."""
    return [
        np.log(np.asarray(b.service_s)) - np.log(np.asarray(a.service_s))
        for a, b in zip(launch_pair.a, launch_pair.b, strict=True)
    ]


def _seconds(metric: Metric, launch: Launch) -> float:
    """Seconds per pair, or the percentile of the seconds per query (nearest rank), over all rounds of a launch."""
    block = _joined(launch)
    if metric == "throughput":
        return math.fsum(block.service_s) / sum(block.pairs)
    nearest_rank = math.ceil(QUANTILES[metric] * len(block.service_s)) - 1
    return sorted(block.service_s)[nearest_rank]


def _joined(launch: Launch) -> Round:
    service_s = [seconds for block in launch for seconds in block.service_s]
    return Round(service_s, [pairs for block in launch for pairs in block.pairs])


def _finding(metric: Metric, margin: float, slowdowns: Sequence[float], looks: Looks) -> MetricFinding:
    interval = at_look(slowdowns, looks)
    outcome, reason = _outcome(interval, margin)
    return MetricFinding(metric, margin, outcome, slowdowns, interval, reason)


def _outcome(interval: RepeatedInterval, margin: float) -> tuple[Outcome, str]:
    """The outcome of one metric, and the reason if it is undecided."""
    bound = math.log1p(margin)
    if interval.lo is not None and interval.lo > bound:
        return Outcome.REGRESSION, ""
    if interval.hi is not None and interval.hi < bound:
        return Outcome.PASS, ""
    if interval.hi is None:
        return Outcome.INCONCLUSIVE, "too few launch pairs for an interval"
    return Outcome.INCONCLUSIVE, "the interval contains the margin"
