"""The report of `crispbench check`: one table, the reasons for every result that is not a pass, one verdict."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.check.findings import Change, CheckFindings, CheckPart, CheckRow, CheckSubject, Unit
from harness.outcome import Outcome
from harness.report import notation, press
from harness.report.content import Note, Report, Section, Term
from harness.report.table import Cell, Table, Tone

NAME = "check"
LONGEST = 22  # characters of a benchmark's name
COLUMNS = ("", "metric", "baseline", "current", "change", "interval", "margin", "verdict")
NOT_JUDGED, NOT_RECORDED = "not judged", "not recorded"
SHOWN = 2  # rows that the verdict names
TONES: Mapping[Outcome | None, Tone] = {Outcome.PASS: "good", Outcome.REGRESSION: "bad", Outcome.INVALID: "bad"}
LEGEND = (
    Term("change", "current minus baseline for nDCG@10; a share of the baseline for times and throughput"),
    Term("interval", "quality: 97.5% bounds, as compare's; times: exact Mann-Whitney interval over launches"),
    Term("margin", "the largest accepted change for the worse"),
    Term("pass, regression, inconclusive", "not worse than the margin; worse than the margin; neither is shown"),
    Term(f"{NOT_JUDGED}, {NOT_RECORDED}", "there are too few samples for the metric; one side has no recording"),
    Term(notation.MISSING, "unknown; never zero"),
)  # fmt: skip


def build(check: CheckFindings) -> Report:
    rows = tuple(tuple(_cells(row)) for part in (check.quality, check.latency) for row in part.rows)
    section = Section(
        anchor="figures",
        title="",
        table=Table(COLUMNS, rows, words=2),
        notes=(*_reasons(check), *(Note("", note) for note in check.notes)),
    )
    return Report(
        title=f"{_name(check.current)} against {_name(check.baseline)}",
        sections=(section,),
        lead=(f"baseline: {_side(check.baseline)}", f"current: {_side(check.current)}"),
        conclusion=conclusion(check),
        legend=LEGEND,
    )


def write(check: CheckFindings, folder: Path) -> list[Path]:
    """Write index.html, check.md, table.tex and check.json into the folder; return their paths."""
    document = json.dumps(check.document(), indent=1, ensure_ascii=False) + "\n"
    return press.write(build(check), folder, name=NAME, data={"check.json": document.encode()})


def conclusion(check: CheckFindings) -> str:
    """The verdict in one line: `REGRESSION: quality pass; latency regression (single-stream p50)`."""
    parts = (_part(part, deciding=part.outcome == check.outcome) for part in (check.quality, check.latency))
    return f"{check.outcome.upper()}: {'; '.join(parts)}"


def _name(subject: CheckSubject) -> str:
    return subject.name if len(subject.folders) == 1 or subject.saved else f"{len(subject.folders)} folders"


def _side(subject: CheckSubject) -> str:
    facts = [subject.folders[0] if len(subject.folders) == 1 else f"{len(subject.folders)} folders"]
    if subject.saved is not None:
        commit = "commit unknown" if subject.commit is None else f"commit {subject.commit[:12]}"
        facts = [f"{subject.name}, saved {subject.saved[:16].replace('T', ' ')} UTC, {commit}"]
    if subject.launches:
        facts.append(f"{subject.launches} launch{'es' if subject.launches > 1 else ''}")
    return ", ".join(facts)


def _part(part: CheckPart, *, deciding: bool) -> str:
    if part.outcome is None:
        return f"{part.name} {part.reason or NOT_JUDGED}"
    rows = [_where(row) for row in part.rows if row.outcome == part.outcome]
    shown = ", ".join(rows[:SHOWN]) + (f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else "")
    named = shown and deciding and part.outcome is not Outcome.PASS
    return f"{part.name} {part.outcome}" + (f" ({shown})" if named else "")


def _reasons(check: CheckFindings) -> Iterator[Note]:
    """The reasons for every result that is not a pass; each reason appears once."""
    for part in (check.quality, check.latency):
        if part.reason:
            yield Note(part.name, part.reason)
        reasons: dict[str, list[str]] = {}
        for row in part.rows:
            if row.reason and row.outcome is not Outcome.PASS:
                reasons.setdefault(row.reason, []).append(_where(row))
        for reason, rows in reasons.items():
            yield Note(", ".join(rows), reason)


def _where(row: CheckRow) -> str:
    return short(row.subject) if row.unit == "nDCG" or not row.metric else f"{row.subject} {row.metric}"


def _cells(row: CheckRow) -> Iterator[Cell]:
    places = _places(row)
    yield Cell(short(row.subject))
    yield Cell(row.metric)
    yield Cell(figure(row.baseline, row.unit))
    yield Cell(figure(row.current, row.unit))
    yield Cell(change(None if row.change is None else row.change.value, row.unit, places))
    yield Cell(_interval(row.change, row.unit, places))
    yield Cell(change(row.margin, row.unit, places))
    verdict = row.outcome or (NOT_JUDGED if row.recorded else NOT_RECORDED)
    yield Cell(verdict, tone=TONES.get(row.outcome, "muted"))


def _places(row: CheckRow) -> int:
    """Decimals with which the change and its interval print on their own sides of the margin."""
    least, scale = (4, 1) if row.unit == "nDCG" else (1, 100)
    if row.change is None or row.margin is None:
        return least
    ends = (None if end is None else end * scale for end in row.change[:3])
    return notation.places(ends, [row.margin * scale], least)


def figure(value: float | None, unit: Unit) -> str:
    """A figure in its unit."""
    if unit == "nDCG":
        return notation.decimal(value)
    return notation.duration(value) if unit == "s" else notation.significant(value)


def change(value: float | None, unit: Unit, places: int | None = None) -> str:
    """A difference of nDCG, by default with four decimals, or a share of a time or a throughput with one."""
    if value is None:
        return notation.MISSING
    if unit == "nDCG":
        return f"{value:+.{4 if places is None else places}f}"
    return f"{value:+.{1 if places is None else places}%}"


def _interval(difference: Change | None, unit: Unit, places: int) -> str:
    if difference is None or difference.lo is None or difference.hi is None:
        return notation.MISSING
    return f"[{change(difference.lo, unit, places)}, {change(difference.hi, unit, places)}]"


def short(name: str) -> str:
    """A benchmark's name, shortened to fit into a column."""
    name = notation.plain(name)
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2 - 2]}...{name[-LONGEST // 2 + 1 :]}"
