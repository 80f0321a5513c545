"""The verdict of a check on quality, by the rule of `crispbench compare`."""

from collections.abc import Sequence
from typing import NamedTuple

from harness.check.findings import Change, CheckPart, CheckRow
from harness.check.sides import CheckSide
from harness.compare import comparability, noninferiority
from harness.compare.comparability import Recorded
from harness.compare.comparison import Effect
from harness.figures.measures import HEADLINE
from harness.figures.statistics import ALPHA
from harness.outcome import Outcome, worst
from harness.store import NotComparable, StoreError

RECORD = f"record it with `crispbench run`, or leave quality out with --margin {HEADLINE}=none"


class QualityPart(NamedTuple):
    part: CheckPart
    left_out: tuple[str, ...] = ()  # one phrase per benchmark that only one side has
    alarms: tuple[str, ...] = ()  # what makes the figures doubtful, one line each


class QualityTerms(NamedTuple):
    """The margin of the quality, and the differences that are allowed."""

    margin: float | None  # accepted loss of nDCG@10; None: quality is left out
    asked: bool  # whether the margin was given, so that everything that the baseline has must be judged
    allow: Sequence[str]


def judge(baseline: CheckSide, current: CheckSide, terms: QualityTerms) -> QualityPart:
    """A row for every average and benchmark."""
    before, now = baseline.recorded, current.recorded
    if terms.margin is None:
        return QualityPart(CheckPart("quality", (), None, f"left out by --margin {HEADLINE}=none", shared=False))
    if before is None or now is None:
        return _unrecorded(before, now, asked=terms.asked)
    try:
        ground = comparability.ground(before, now, [name for name in terms.allow if name == "template"])
    except NotComparable as error:
        return _refused(Outcome.NOT_COMPARABLE, str(error))
    except StoreError as error:
        return _refused(Outcome.INVALID, str(error))
    averaging = noninferiority.layout(ground.benchmarks)
    reference, candidate = ({name: side.rows[name].per_query for name in ground.benchmarks} for side in (before, now))
    effects = noninferiority.effects(reference, candidate, averaging, terms.margin, before.available)
    outcome = noninferiority.verdict(effects, averaging, terms.margin).outcome
    lost = [name for name in before.rows if name not in ground.benchmarks] if terms.asked else []
    rows = (*(_row(effect, terms.margin) for effect in effects), *map(_lost, lost))
    part = CheckPart("quality", rows, worst([outcome, *(row.outcome for row in rows if row.subject in lost)]))
    return QualityPart(part, tuple(f"not compared: {phrase}" for phrase in ground.left_out), ground.alarms)


def _unrecorded(before: Recorded | None, now: Recorded | None, *, asked: bool) -> QualityPart:
    """The part if a side has no scores. It is inconclusive if a margin was given, or if the baseline has scores."""
    lacking = "either side" if before is None and now is None else "the baseline" if before is None else "CURRENT"
    outcome = Outcome.INCONCLUSIVE if asked or before is not None else None
    step = f": {RECORD}" if outcome else ""
    return QualityPart(CheckPart("quality", (), outcome, f"not recorded by {lacking}{step}", shared=False))


def _lost(benchmark: str) -> CheckRow:
    reason = f"not recorded by CURRENT: {RECORD}"
    return CheckRow(benchmark, HEADLINE, "nDCG", outcome=Outcome.INCONCLUSIVE, reason=reason)


def _refused(outcome: Outcome, reason: str) -> QualityPart:
    return QualityPart(CheckPart("quality", (), outcome, reason))


def _row(effect: Effect, margin: float) -> CheckRow:
    difference = effect.difference
    return CheckRow(
        subject=effect.name,
        metric=HEADLINE,
        unit="nDCG",
        baseline=effect.reference,
        current=effect.candidate,
        change=Change(difference.value, difference.lo, difference.hi, 1 - ALPHA),
        margin=-margin,
        outcome=effect.outcome,
        reason=effect.note,
    )
