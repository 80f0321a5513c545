"""`crispbench check`: recorded folders against a baseline, quality and latency, one verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engines.base import BadOptions
from engines.spelling import expected
from harness import progress
from harness.ab.margins import RECORDED_MARGINS, read_margins
from harness.ab.records import METRICS, Metric
from harness.check import noise, page, quality, sides, times
from harness.check.baselines import STORE, StoredLaunches, find, names
from harness.check.findings import CheckFindings, CheckSubject
from harness.check.sides import CheckSide
from harness.compare import noninferiority
from harness.figures.measures import HEADLINE
from harness.report.content import Report

ALLOWANCES = ("template", "machine")
WITHOUT_LATENCY = [f"{metric}=none" for metric in METRICS]


@dataclass(frozen=True)
class CheckOptions:
    """The margins of the verdict, the allowed differences, and the store of the baselines."""

    quality: float | None = noninferiority.MARGIN  # accepted loss of nDCG@10; None: quality is left out
    slower: Mapping[Metric, float] = field(default_factory=lambda: dict(RECORDED_MARGINS))  # accepted, as a share
    asked: frozenset[str] = frozenset()  # metrics whose margin was given: without a judgement there is no pass
    allow: tuple[str, ...] = ()  # names from ALLOWANCES
    store: Path = STORE
    last: int = 1  # entries of the baseline whose launches count together


class CheckResult(CheckFindings):
    """The findings of a check, with their report."""

    def report(self) -> Report:
        return page.build(self)


def read_options(margins: Sequence[str], allow: Sequence[str], *, store: Path, last: int) -> CheckOptions:
    """The default options, changed by texts such as `nDCG@10=0.01`, `p50=0.05` or `latency=none`. Raises BadOptions."""
    for name in allow:
        if name not in ALLOWANCES:
            raise BadOptions(f"allow {name!r}: {expected(name, ALLOWANCES)}")
    for given in margins:
        if given.startswith("latency=") and given != times.LEAVE_OUT:
            raise BadOptions(f"margin {given!r}: expected {times.LEAVE_OUT}, or a margin of {', '.join(METRICS)}")
    written = [text for given in margins for text in (WITHOUT_LATENCY if given == times.LEAVE_OUT else [given])]
    shares = read_margins(written, dict([(HEADLINE, noninferiority.MARGIN), *RECORDED_MARGINS.items()]))
    if shares.get(HEADLINE) == 0:
        raise BadOptions(f"margin of {HEADLINE}: expected a number above 0 and below 1, such as {HEADLINE}=0.005")
    slower = {metric: shares[metric] for metric in METRICS if metric in shares}
    asked = frozenset(text.partition("=")[0] for text in written) & shares.keys()
    return CheckOptions(shares.get(HEADLINE), slower, asked, tuple(allow), store, last)


def check(baseline: str, current: Sequence[str], options: CheckOptions, *, out: Path | None = None) -> CheckResult:
    """The recorded folders `current` against `baseline`: a folder, or the newest entries of a name in the store.

    A report is written to the folder `out` if it is given. Raises BadOptions for arguments that contradict each other,
    StoreError for a folder without recordings, NotComparable if the folders of one side are not launches of one engine
    on one machine.
    """
    if not current:
        raise BadOptions("no CURRENT folder: expected at least one RUN/ENGINE folder")
    stored = find(options.store, baseline, options.last)
    if stored is None and not Path(baseline).is_dir():
        saved = ", ".join(names(options.store)) or "none"
        raise BadOptions(
            f"{baseline!r} is neither a folder nor a baseline of {options.store}, whose names are: {saved}"
        )
    sources, targets = stored.folders if stored else [Path(baseline)], [Path(folder) for folder in current]
    shared = {folder.resolve() for folder in sources} & {folder.resolve() for folder in targets}
    if shared:
        raise BadOptions(f"{shared.pop()} is on both sides: expected different folders")
    with progress.waiting("reading the folders"):
        before, now = sides.read(sources), sides.read(targets)
    sides.require_one_engine(before)
    sides.require_one_engine(now)
    with progress.waiting("comparing"):
        terms = quality.QualityTerms(options.quality, HEADLINE in options.asked, options.allow)
        judged = quality.judge(before, now, terms)
        noises = noise.of_history(stored.history, before) if stored and options.slower else {}
        latency = times.judge(before, now, times.TimeTerms(options.slower, options.asked, options.allow, noises))
    saves = None if stored is None else len(stored.history)
    result = CheckResult(
        _subject(baseline, before, stored),
        _subject(" ".join(current), now, None),
        judged.part,
        latency,
        (
            *judged.alarms,
            *judged.left_out,
            *_notes(before, now, options),
            *noise.notes(latency.rows, (before.most_launches, now.most_launches), saves),
        ),
    )
    if out is not None:
        page.write(result, out)
    return result


def _subject(name: str, side: CheckSide, stored: StoredLaunches | None) -> CheckSubject:
    folders = tuple(map(str, side.folders))
    if stored is None:
        return CheckSubject(name, folders, side.most_launches)
    return CheckSubject(name, folders, side.most_launches, stored.saved, stored.commit)


def _notes(baseline: CheckSide, current: CheckSide, options: CheckOptions) -> list[str]:
    """The differences between the engines and, if they are allowed, between the machines."""
    changes = sides.described(baseline.source, current.source)
    notes = [f"the engine changed: {'; '.join(changes)}"] if changes else []
    before, now = times.timed(baseline, current)
    if any(times.is_run(launches) for launches in before.values()):
        notes.append("run: the times of the run's own queries, one after the other; the machine was not watched")
    for subject, launches in before.items():
        fields = times.other_machine([*launches, *now.get(subject, ())])
        if fields and "machine" in options.allow:
            notes.append(f"the times are of another machine, so the margins are doubled: {'; '.join(fields)}")
            break
    return notes
