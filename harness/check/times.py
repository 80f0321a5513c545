"""The verdict of a check on latency: unpaired launches, with one test per scenario and metric.

The unit is the launch: one recording gives one number per metric, however many requests it holds. docs/check.md gives
the reasons.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from harness import machine
from harness.ab.records import Metric
from harness.check.findings import Change, CheckPart, CheckRow
from harness.check.launches import TimedLaunch
from harness.check.noise import DayNoise, DayNoises
from harness.check.sides import CheckSide, Launches, differing, invalid, obstacles, run_subject
from harness.figures.shifts import ALPHA, Shift, unpaired, visible_shift
from harness.figures.statistics import holm
from harness.manifest import Manifest
from harness.outcome import Outcome, worst

# In `server`, the schedule sets the throughput; `offline` is one call, so its queries have no single times.
METRICS: Mapping[str, tuple[Metric, ...]] = {
    "single-stream": ("p50", "p95", "p99", "throughput"),
    "server": ("p50", "p95", "p99"),
    "offline": ("throughput",),
}
OTHER_MACHINE = 2  # factor on the margins if another machine is allowed
LEAVE_OUT = "latency=none"  # the margin that leaves all times out
RECORD = f"record it with `crispbench latency`, one --out per launch, or leave times out with --margin {LEAVE_OUT}"
MORE = f"repeat `crispbench latency`, one --out per launch, or leave times out with --margin {LEAVE_OUT}"
LONGER = "measure more requests, or leave the metric out with --margin METRIC=none"


class TimeTerms(NamedTuple):
    """The margins of the times, and the differences that are allowed."""

    margins: Mapping[Metric, float]  # share by which a metric may be slower
    asked: Collection[str]  # metrics whose margin was given: whatever the baseline has of them must be judged
    allow: Sequence[str]
    noises: DayNoises = MappingProxyType({})  # what the history of the baseline tells of the machine


class Logs(NamedTuple):
    """Logarithms of seconds, per request or per pair, one per launch."""

    baseline: Sequence[float]
    current: Sequence[float]


class Spread(NamedTuple):
    """How much launches of a side vary."""

    baseline: int  # launches
    current: int
    deviation: float  # standard deviation of a launch, a logarithm


class Trial(NamedTuple):
    """A row before Holm's adjustment; `shift` is None if there is nothing to test."""

    row: CheckRow
    shift: Shift | None = None
    bound: float = 0.0  # logarithm of the accepted slowdown
    spread: Spread | None = None
    day: float = 0.0  # logarithm of what two days of the machine may differ by

    def visible(self, tests: int) -> float | None:
        """The slowdown, a share, that is found in 80% of checks; infinite if none can be; None if it is unknown."""
        if self.spread is None:
            return None
        multiple = visible_shift(self.spread.baseline, self.spread.current, ALPHA / tests)
        return (
            math.inf if math.isinf(multiple) else math.expm1(self.bound + self.day + multiple * self.spread.deviation)
        )


def judge(baseline: CheckSide, current: CheckSide, terms: TimeTerms) -> CheckPart:
    """A row for every subject and metric; Holm's adjustment covers everything that can be tested."""
    if not terms.margins:
        return CheckPart("latency", (), None, f"left out by --margin {LEAVE_OUT}", shared=False)
    before, now = timed(baseline, current)
    subjects = dict.fromkeys([*(name for name in METRICS if name in before or name in now), *before, *now])
    trials = [tested for name in subjects for tested in _subject(name, before.get(name, ()), now.get(name, ()), terms)]
    rows = [_required(row, terms) if row.subject in before else row for row in adjusted(trials)]
    rows += _unjudged(rows, terms)
    shared = bool(before.keys() & now.keys())
    outcome = worst(row.outcome for row in rows)
    if outcome is None and before:
        outcome = Outcome.INCONCLUSIVE  # all that the baseline has is missing now
    reason = "" if rows else "not recorded by either side"
    return CheckPart("latency", tuple(rows), outcome, reason, shared)


def timed(baseline: CheckSide, current: CheckSide) -> tuple[Launches, Launches]:
    """The launches to compare: recordings if both sides have one of the same scenario, else also the times of runs."""
    sides = (baseline, current)
    if baseline.launches.keys() & current.launches.keys():
        return baseline.launches, current.launches
    both = [name for name in baseline.runs if name in current.runs]
    runs = ({run_subject(name): side.runs[name] for name in both} for side in sides)
    before, now = ({**side.launches, **timed} for side, timed in zip(sides, runs, strict=True))
    return before, now


def _subject(
    subject: str, baseline: Sequence[TimedLaunch], current: Sequence[TimedLaunch], terms: TimeTerms
) -> Iterator[Trial]:
    if not baseline or not current:
        reason = f"not recorded by {'CURRENT' if baseline else 'the baseline'}"
        yield Trial(CheckRow(subject, "", "s", reason=reason))
        return
    refused = _refused(baseline, current, terms.allow)
    if refused is not None:
        yield Trial(CheckRow(subject, "", "s", outcome=refused[0], reason=refused[1]))
        return
    widened = OTHER_MACHINE if other_machine([*baseline, *current]) else 1
    measured = 0
    for metric in metrics(subject):
        if metric not in terms.margins:
            continue
        sides = [[launch.times[metric] for launch in side] for side in (baseline, current)]
        shortage = next((time.reason for side in sides for time in side if time.seconds is None), None)
        if shortage is not None:
            yield Trial(replace(_empty(subject, metric), reason=f"not measured: {shortage}"))
            continue
        measured += 1
        logs = Logs(*([math.log(time.seconds) for time in side if time.seconds is not None] for side in sides))
        yield trial(subject, metric, logs, terms.margins[metric] * widened, terms.noises.get((subject, metric)))
    if not measured and set(metrics(subject)) & terms.margins.keys():
        reason = "no metric could be measured on both sides"
        yield Trial(CheckRow(subject, "", "s", outcome=Outcome.INCONCLUSIVE, reason=reason))


def metrics(subject: str) -> tuple[Metric, ...]:
    """The metrics of a scenario; a run has those of a single stream, because it scores one query at a time."""
    return METRICS.get(subject, METRICS["single-stream"])


def _required(row: CheckRow, terms: TimeTerms) -> CheckRow:
    """The row, inconclusive if a margin was given and it has no verdict on it, or could only have passed."""
    wanted = (row.metric,) if row.recorded else metrics(row.subject)
    if row.outcome is Outcome.PASS and row.reason and row.metric in terms.asked:
        return replace(row, outcome=Outcome.INCONCLUSIVE, reason=f"{row.reason}: {MORE}")
    if row.outcome is not None or not set(wanted) & set(terms.asked):
        return row
    return replace(row, outcome=Outcome.INCONCLUSIVE, reason=f"{row.reason}: {LONGER if row.recorded else RECORD}")


def _unjudged(rows: Sequence[CheckRow], terms: TimeTerms) -> Iterator[CheckRow]:
    """A row for every margin that was given although no recording of both sides has its metric."""
    refused = {metric for row in rows if not row.metric and row.outcome is not None for metric in metrics(row.subject)}
    known = {row.metric for row in rows} | refused
    for metric in terms.margins:
        if metric in terms.asked and metric not in known:
            reason = f"no recording of both sides has {metric}: {RECORD}"
            yield replace(_empty("latency", metric), outcome=Outcome.INCONCLUSIVE, reason=reason)


def _refused(
    baseline: Sequence[TimedLaunch], current: Sequence[TimedLaunch], allow: Sequence[str]
) -> tuple[Outcome, str] | None:
    """The reason why a subject is not judged: times that cannot be used, different work or another machine.

    The times of a run never refuse a whole check, because its quality may be compared between machines.
    """
    sides = {"baseline": invalid(baseline), "current": invalid(current)}
    cause = next((f"{name}: {cause}" for name, cause in sides.items() if cause), "")
    if cause:
        return (Outcome.INCONCLUSIVE, f"{cause}: {RECORD}") if is_run(baseline) else (Outcome.INVALID, cause)
    phrases = obstacles(baseline[0], current[0], allow)
    if phrases:
        return Outcome.NOT_COMPARABLE, f"different work: {'; '.join(phrases)}"
    fields = other_machine([*baseline, *current])
    if not fields or "machine" in allow:
        return None
    reason = f"different machine: {'; '.join(fields)} (--allow machine doubles the margins"
    if is_run(baseline):
        return Outcome.INCONCLUSIVE, f"{reason}; --margin {LEAVE_OUT} leaves times out)"
    return Outcome.NOT_COMPARABLE, f"{reason})"


def is_run(launches: Sequence[TimedLaunch]) -> bool:
    """Whether these are times that `crispbench run` recorded beside its scores."""
    return isinstance(launches[0].source, Manifest)


def other_machine(launches: Sequence[TimedLaunch]) -> list[str]:
    """Fields that decide a time and differ between the machine of the first launch and that of a later one."""
    first = launches[0].machine
    fields = [field for launch in launches for field in machine.differences(first, launch.machine)]
    return list(dict.fromkeys(map(differing, fields)))


def trial(scenario: str, metric: Metric, logs: Logs, margin: float, noise: DayNoise | None = None) -> Trial:
    """One metric, tested against the share by which it may be slower and by what two days of the machine may differ."""
    bound, day = math.log1p(margin), 0.0 if noise is None else noise.allowance
    launches = unpaired(logs.baseline, logs.current, bound)
    allowed = day if launches.lo is None else _longer(launches.value - launches.lo, day)
    shift = _widened(unpaired(logs.baseline, logs.current, bound + allowed), day)
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
        day=None if noise is None else math.expm1(day),
        reason=reason,
    )
    return Trial(row, shift, bound, _spread(logs), day)


def _widened(shift: Shift, day: float) -> Shift:
    """The shift with ends that allow for `day` too."""
    lo = None if shift.lo is None else shift.lo - _longer(shift.value - shift.lo, day)
    hi = None if shift.hi is None else shift.hi + _longer(shift.hi - shift.value, day)
    return shift._replace(lo=lo, hi=hi)


def _longer(arm: float, day: float) -> float:
    """By how much an arm of an interval grows: the noise of launches and that of days are independent."""
    return math.hypot(arm, day) - arm


def _spread(logs: Logs) -> Spread | None:
    """The spread of launches, pooled over both sides; None where neither side has two."""
    freedom = sum(len(side) - 1 for side in logs)
    if not freedom:
        return None
    squares = sum(float(np.sum((np.asarray(side) - np.mean(side)) ** 2)) for side in logs)
    return Spread(len(logs.baseline), len(logs.current), math.sqrt(squares / freedom))


def adjusted(trials: Sequence[Trial]) -> list[CheckRow]:
    """The rows, with outcomes after Holm's adjustment over all tests."""
    p_holm = holm({index: tested.shift.p_slower for index, tested in enumerate(trials) if tested.shift is not None})
    return [
        _judged(tested, p_holm[index], len(p_holm)) if index in p_holm else tested.row
        for index, tested in enumerate(trials)
    ]


def _judged(tested: Trial, p_holm: float, tests: int) -> CheckRow:
    outcome, reason = _outcome(tested, p_holm, tests)
    visible = tested.visible(tests)
    if outcome is Outcome.PASS and visible == math.inf:
        reason = f"so few launches could not show a regression either; {fewest_launches(tests)} of each can"
    shown = visible if visible is not None and math.isfinite(visible) else None
    return replace(tested.row, p_holm=p_holm, outcome=outcome, reason=reason, visible=shown)


def _outcome(tested: Trial, p_holm: float, tests: int) -> tuple[Outcome, str]:
    """The outcome by the rules of `crispbench ab`, for launches without pairs, and the reason."""
    shift = tested.shift
    assert shift is not None
    if p_holm <= ALPHA:
        return Outcome.REGRESSION, ""
    if shift.lo is None or shift.hi is None:
        return Outcome.INCONCLUSIVE, (
            f"{tested.row.reason} are too few for an interval; {fewest_launches(tests)} of each can decide: {MORE}"
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


def _empty(scenario: str, metric: Metric) -> CheckRow:
    return CheckRow(scenario, metric, "pairs/s" if metric == "throughput" else "s")
