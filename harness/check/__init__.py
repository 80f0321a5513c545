"""`crispbench check`: is what is recorded now worse than what was recorded before? Quality and latency, one verdict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from engines.base import BadOptions
from harness import progress
from harness.ab.records import Metric
from harness.ab.verdict import MARGINS
from harness.check import sides, times
from harness.check.baselines import Stored, find, names
from harness.check.findings import Change, CheckPart, CheckResult, CheckRow, CheckSubject
from harness.check.sides import CheckSide
from harness.compare import comparability, noninferiority
from harness.compare.comparison import Effect
from harness.figures.measures import HEADLINE
from harness.outcome import Outcome
from harness.store import NotComparable, StoreError

ALLOWANCES = ("template", "machine")
NAMES = (HEADLINE, *get_args(Metric))


@dataclass(frozen=True)
class CheckOptions:
    """On what terms the sides are compared."""

    quality: float = noninferiority.MARGIN  # the loss of nDCG@10 that is accepted
    slower: Mapping[Metric, float] = field(default_factory=lambda: dict(MARGINS))  # by which share a metric may be
    allow: tuple[str, ...] = ()  # of ALLOWANCES


def read_terms(margins: Sequence[str], allow: Sequence[str]) -> CheckOptions:
    """The default terms, changed by texts such as `nDCG@10=0.01`, `p50=0.05` or `p99=none`. Raises BadOptions."""
    for name in allow:
        if name not in ALLOWANCES:
            raise BadOptions(f"allow {name!r}: known are {', '.join(ALLOWANCES)}")
    quality, slower = noninferiority.MARGIN, dict(MARGINS)
    for text in margins:
        name, _, value = text.partition("=")
        if name not in NAMES:
            raise BadOptions(f"margin {text!r}: expected NAME=SHARE with a name of {', '.join(NAMES)}")
        if name == HEADLINE:
            quality = _share(text, value)
        elif value == "none":
            slower = {metric: share for metric, share in slower.items() if metric != name}
        else:
            slower = {metric: _share(text, value) if metric == name else share for metric, share in slower.items()}
    return CheckOptions(quality, slower, tuple(allow))


def _share(text: str, value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise BadOptions(f"margin {text!r}: expected a number above 0 and below 1, such as 0.05")
    return share


def check(baseline: str, current: Sequence[str], terms: CheckOptions, *, store: Path, last: int = 1) -> CheckResult:
    """The recorded folders `current` against `baseline`: a folder, or a name of the store and its `last` entries.

    Raises BadOptions for arguments that cannot be meant, StoreError for a folder that holds nothing, NotComparable
    where the folders of one side are no launches of one thing.
    """
    if not current:
        raise BadOptions("no CURRENT folder: expected at least one RUN/ENGINE folder")
    stored = find(store, baseline, last)
    if stored is None and not Path(baseline).is_dir():
        known = ", ".join(names(store)) or "none"
        raise BadOptions(f"{baseline!r} is neither a folder nor a baseline of {store}, whose names are: {known}")
    before, now = stored.folders if stored else [Path(baseline)], [Path(each) for each in current]
    twice = {folder.resolve() for folder in before} & {folder.resolve() for folder in now}
    if twice:
        raise BadOptions(f"{twice.pop()} is on both sides: expected two recordings")
    with progress.waiting("reading the folders"):
        one, other = sides.read(before), sides.read(now)
    sides.require_one_engine(one)
    sides.require_one_engine(other)
    with progress.waiting("comparing"):
        quality, left_out = judge_quality(one, other, terms)
        latency = times.judge(one, other, times.TimeTerms(terms.slower, terms.allow))
    notes = (*left_out, *_notes(one, other, terms))
    return CheckResult(
        _subject(baseline, one, stored), _subject(" ".join(current), other, None), quality, latency, notes
    )


def judge_quality(baseline: CheckSide, current: CheckSide, terms: CheckOptions) -> tuple[CheckPart, tuple[str, ...]]:
    """The rule of `crispbench compare`; and the benchmarks that only one side has."""
    one, other = baseline.recorded, current.recorded
    if one is None or other is None:
        lacking = "either side" if one is None and other is None else "the baseline" if one is None else "CURRENT"
        return CheckPart("quality", (), None, f"not recorded by {lacking}"), ()
    try:
        ground = comparability.ground(one, other, [name for name in terms.allow if name == "template"])
    except NotComparable as error:
        return CheckPart("quality", (), Outcome.NOT_COMPARABLE, str(error)), ()
    except StoreError as error:
        return CheckPart("quality", (), Outcome.INVALID, str(error)), ()
    laid = noninferiority.layout(ground.benchmarks)
    per_query = [{name: side.rows[name].per_query for name in ground.benchmarks} for side in (one, other)]
    found = noninferiority.effects(per_query[0], per_query[1], laid, terms.quality)
    verdict = noninferiority.verdict(found, laid, terms.quality)
    part = CheckPart("quality", tuple(_row(effect, terms.quality) for effect in found), verdict.outcome)
    return part, tuple(f"not compared: {phrase}" for phrase in ground.left_out)


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


def _subject(name: str, side: CheckSide, stored: Stored | None) -> CheckSubject:
    folders = tuple(map(str, side.folders))
    if stored is None:
        return CheckSubject(name, folders, side.most_launches)
    return CheckSubject(name, folders, side.most_launches, stored.saved, stored.commit)


def _notes(baseline: CheckSide, current: CheckSide, terms: CheckOptions) -> list[str]:
    """What differs between the engines, and whether the machine does although that was allowed."""
    changed = sides.described(baseline.source, current.source)
    found = [f"the engine changed: {'; '.join(changed)}"] if changed else []
    for scenario, launches in baseline.launches.items():
        fields = times.other_machine([*launches, *current.launches.get(scenario, ())])
        if fields and "machine" in terms.allow:
            found.append(f"times of another machine, margins doubled: {'; '.join(fields)}")
            break
    return found
