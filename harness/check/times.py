"""The verdict of a check on latency: unpaired launches, with one test per scenario and metric.

The unit is the launch: one recording gives one number per metric, however many requests it holds. docs/check.md gives
the reasons.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from harness import machine
from harness.ab.records import Metric
from harness.check.findings import Change, CheckPart, CheckRow
from harness.check.sides import CheckSide, differing, invalid, obstacles
from harness.figures.shifts import ALPHA, Shift, unpaired
from harness.figures.statistics import holm
from harness.latency.summary import Summary
from harness.outcome import Outcome, worst

# In `server`, the schedule sets the throughput; `offline` is one call, so its queries have no single times.
METRICS: Mapping[str, tuple[Metric, ...]] = {
    "single-stream": ("p50", "p95", "p99", "throughput"),
    "server": ("p50", "p95", "p99"),
    "offline": ("throughput",),
}
OTHER_MACHINE = 2  # factor on the margins if another machine is allowed


class TimeTerms(NamedTuple):
    """The margins of the times, and the differences that are allowed."""

    margins: Mapping[Metric, float]  # share by which a metric may be slower
    allow: Sequence[str]


class Logs(NamedTuple):
    """Logarithms of seconds, per request or per pair, one per launch."""

    baseline: Sequence[float]
    current: Sequence[float]


class Trial(NamedTuple):
    """A row before Holm's adjustment; `shift` is None if there is nothing to test."""

    row: CheckRow
    shift: Shift | None = None
    bound: float = 0.0  # logarithm of the accepted slowdown


def judge(baseline: CheckSide, current: CheckSide, terms: TimeTerms) -> CheckPart:
    """A row for every scenario and metric; Holm's adjustment covers everything that can be tested."""
    trials: list[Trial] = []
    for scenario in METRICS:
        before, now = (side.launches.get(scenario, ()) for side in (baseline, current))
        if before or now:
            trials += _scenario(scenario, before, now, terms)
    judged = adjusted(trials)
    outcome = worst(row.outcome for row in judged)
    return CheckPart("latency", tuple(judged), outcome, "" if judged else "not recorded by either side")


def _scenario(
    scenario: str, baseline: Sequence[Summary], current: Sequence[Summary], terms: TimeTerms
) -> Iterator[Trial]:
    if not baseline or not current:
        yield Trial(CheckRow(scenario, "", "s", reason=f"not recorded by {'CURRENT' if baseline else 'the baseline'}"))
        return
    refused = _refused(baseline, current, terms.allow)
    if refused is not None:
        yield Trial(CheckRow(scenario, "", "s", outcome=refused[0], reason=refused[1]))
        return
    widened = OTHER_MACHINE if other_machine([*baseline, *current]) else 1
    measured = 0
    for metric in METRICS[scenario]:
        if metric not in terms.margins:
            continue
        sides = [[_seconds(launch, metric) for launch in side] for side in (baseline, current)]
        if any(value is None for side in sides for value in side):
            yield Trial(replace(_empty(scenario, metric), reason=_shortage([*baseline, *current], metric)))
            continue
        measured += 1
        logs = Logs(*([math.log(value) for value in side if value is not None] for side in sides))
        yield trial(scenario, metric, logs, terms.margins[metric] * widened)
    if not measured:
        reason = "no metric could be measured on both sides"
        yield Trial(CheckRow(scenario, "", "s", outcome=Outcome.INCONCLUSIVE, reason=reason))


def _refused(
    baseline: Sequence[Summary], current: Sequence[Summary], allow: Sequence[str]
) -> tuple[Outcome, str] | None:
    """The reason why a scenario is not judged: an invalid recording, different work or another machine."""
    for name, side in (("baseline", baseline), ("current", current)):
        cause = invalid(side)
        if cause:
            return Outcome.INVALID, f"{name}: {cause}"
    phrases = obstacles(baseline[0].header, current[0].header, allow)
    if phrases:
        return Outcome.NOT_COMPARABLE, f"different work: {'; '.join(phrases)}"
    fields = other_machine([*baseline, *current])
    if fields and "machine" not in allow:
        return Outcome.NOT_COMPARABLE, f"different machine: {'; '.join(fields)} (--allow machine doubles the margins)"
    return None


def other_machine(launches: Sequence[Summary]) -> list[str]:
    """Fields that decide a time and differ between the machine of the first launch and that of a later one."""
    first = launches[0].header.machine
    fields = [field for launch in launches for field in machine.differences(first, launch.header.machine)]
    return list(dict.fromkeys(map(differing, fields)))


def trial(scenario: str, metric: Metric, logs: Logs, margin: float) -> Trial:
    """One metric, tested against the share by which it may be slower."""
    bound = math.log1p(margin)
    shift = unpaired(logs.baseline, logs.current, bound)
    baseline, current = (math.exp(float(np.median(side))) for side in logs)
    if metric == "throughput":
        baseline, current = 1 / baseline, 1 / current
    reason = "" if shift.lo is not None else f"{len(logs.baseline)} and {len(logs.current)} launches"
    row = replace(
        _empty(scenario, metric),
        baseline=baseline,
        current=current,
        change=_change(shift, metric),
        margin=1 / (1 + margin) - 1 if metric == "throughput" else margin,
        p=shift.p_slower,
        reason=reason,
    )
    return Trial(row, shift, bound)


def adjusted(trials: Sequence[Trial]) -> list[CheckRow]:
    """The rows, with outcomes after Holm's adjustment over all tests."""
    p_holm = holm({index: tested.shift.p_slower for index, tested in enumerate(trials) if tested.shift is not None})
    return [
        _judged(tested, p_holm[index], len(p_holm)) if index in p_holm else tested.row
        for index, tested in enumerate(trials)
    ]


def _judged(tested: Trial, p_holm: float, tests: int) -> CheckRow:
    outcome, reason = _outcome(tested, p_holm, tests)
    return replace(tested.row, p_holm=p_holm, outcome=outcome, reason=reason)


def _outcome(tested: Trial, p_holm: float, tests: int) -> tuple[Outcome, str]:
    """The outcome by the rules of `crispbench ab`, for launches without pairs, and the reason."""
    shift = tested.shift
    assert shift is not None
    if p_holm <= ALPHA:
        return Outcome.REGRESSION, ""
    if shift.lo is None or shift.hi is None:
        return Outcome.INCONCLUSIVE, (
            f"{tested.row.reason} are too few for an interval; {fewest_launches(tests)} of each can decide"
        )
    if shift.hi < tested.bound:
        return Outcome.PASS, ""
    if shift.lo > tested.bound:
        return (
            Outcome.INCONCLUSIVE,
            f"beyond the margin, but not after Holm's adjustment over {tests} tests; more launches may decide",
        )
    return Outcome.INCONCLUSIVE, "the interval contains the margin; more launches make it narrower"


def fewest_launches(tests: int) -> int:
    """Fewest launches n per side with which one of `tests` can be red after Holm: tests / C(2n, n) <= 5%."""
    launches = 1
    while tests / math.comb(2 * launches, launches) > ALPHA:
        launches += 1
    return launches


def _change(shift: Shift, metric: Metric) -> Change:
    """The shift of logarithms as a share of the baseline. A ratio of throughputs is the inverse of a ratio of times."""
    ends = (shift.value, shift.lo, shift.hi)
    if metric == "throughput":
        ends = (-shift.value, None if shift.hi is None else -shift.hi, None if shift.lo is None else -shift.lo)
    value, lo, hi = (None if end is None else math.expm1(end) for end in ends)
    assert value is not None
    return Change(value, lo, hi, shift.level)


def _seconds(launch: Summary, metric: Metric) -> float | None:
    if metric == "throughput":
        return None if launch.pairs_per_s is None else 1 / launch.pairs_per_s
    return launch.response[metric].estimate


def _shortage(launches: Sequence[Summary], metric: Metric) -> str:
    if metric == "throughput":
        return "a launch answered no request"
    reasons = (launch.response[metric].reason for launch in launches if launch.response[metric].estimate is None)
    return f"not measured: {next(reasons)}"


def _empty(scenario: str, metric: Metric) -> CheckRow:
    return CheckRow(scenario, metric, "pairs/s" if metric == "throughput" else "s")
