"""The verdict of a check on quality, by the rule of `crispbench compare`."""

from collections.abc import Sequence
from typing import NamedTuple

from harness.check.findings import Change, CheckPart, CheckRow
from harness.check.sides import CheckSide
from harness.compare import comparability, noninferiority
from harness.compare.comparison import Effect
from harness.figures.measures import HEADLINE
from harness.outcome import Outcome
from harness.store import NotComparable, StoreError


class QualityPart(NamedTuple):
    part: CheckPart
    left_out: tuple[str, ...] = ()  # one phrase per benchmark that only one side has


def judge(baseline: CheckSide, current: CheckSide, margin: float, allow: Sequence[str]) -> QualityPart:
    """A row for every average and benchmark; `margin` is the accepted loss of nDCG@10."""
    before, now = baseline.recorded, current.recorded
    if before is None or now is None:
        lacking = "either side" if before is None and now is None else "the baseline" if before is None else "CURRENT"
        return _refused(None, f"not recorded by {lacking}")
    try:
        ground = comparability.ground(before, now, [name for name in allow if name == "template"])
    except NotComparable as error:
        return _refused(Outcome.NOT_COMPARABLE, str(error))
    except StoreError as error:
        return _refused(Outcome.INVALID, str(error))
    averaging = noninferiority.layout(ground.benchmarks)
    reference, candidate = ({name: side.rows[name].per_query for name in ground.benchmarks} for side in (before, now))
    effects = noninferiority.effects(reference, candidate, averaging, margin)
    outcome = noninferiority.verdict(effects, averaging, margin).outcome
    part = CheckPart("quality", tuple(_row(effect, margin) for effect in effects), outcome)
    return QualityPart(part, tuple(f"not compared: {phrase}" for phrase in ground.left_out))


def _refused(outcome: Outcome | None, reason: str) -> QualityPart:
    return QualityPart(CheckPart("quality", (), outcome, reason))


def _row(effect: Effect, margin: float) -> CheckRow:
    difference = effect.difference
    return CheckRow(
        subject=effect.name,
        metric=HEADLINE,
        unit="nDCG",
        baseline=effect.reference,
        current=effect.candidate,
        change=Change(difference.value, difference.lo, difference.hi, 1 - noninferiority.ALPHA),
        margin=-margin,
        outcome=effect.outcome,
        reason=effect.note,
    )
