"""The report of a check: one table and one verdict for a CI log of 110 columns, and the same as Markdown."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.check.findings import Change, CheckPart, CheckResult, CheckRow, CheckSubject, Unit
from harness.report import notation

WIDTH = 110
LONGEST = 22  # characters of a benchmark's name
HEADER = ("", "metric", "baseline", "current", "change", "interval", "margin", "verdict")
RIGHT = range(2, 7)  # columns of figures
NOT_JUDGED = "not judged"
SHOWN = 2  # rows that the last line names


def lines(check: CheckResult) -> list[str]:
    """What a terminal or a CI log shows."""
    found = [_side("baseline", check.baseline), _side("current", check.current), ""]
    rows = list(_cells(check))
    if rows:
        found += [*_aligned([HEADER, *rows]), ""]
    for note in notes(check):
        found += textwrap.wrap(note, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return [*found, conclusion(check)]


def conclusion(check: CheckResult) -> str:
    """The verdict in one line: `REGRESSION: quality pass, latency regression (single-stream p50)`."""
    parts = (_part(part, deciding=part.outcome == check.outcome) for part in (check.quality, check.latency))
    return f"{check.outcome.upper()}: {'; '.join(parts)}"


def notes(check: CheckResult) -> list[str]:
    """Why what is not a pass is none, and what else a reader has to know."""
    found = []
    for part in (check.quality, check.latency):
        if part.reason:
            found.append(f"{part.name}: {part.reason}")
        reasons: dict[str, list[str]] = {}
        for row in part.rows:
            if row.reason and row.outcome != "pass":
                reasons.setdefault(row.reason, []).append(_where(row))
        found += [f"{', '.join(rows)}: {reason}" for reason, rows in reasons.items()]
    return [notation.plain(note) for note in (*found, *check.notes)]


def markdown(check: CheckResult) -> str:
    """check.md."""
    rows = [HEADER, ("---",) * len(HEADER), *_cells(check)]
    table = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    known = [_side("baseline", check.baseline), _side("current", check.current), *notes(check)]
    return "\n\n".join([f"**{conclusion(check)}**", table, "\n".join(f"- {note}" for note in known)]) + "\n"


def write(check: CheckResult, folder: Path) -> list[Path]:
    """check.md and check.json in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    document = json.dumps(check.document(), indent=1, ensure_ascii=False) + "\n"
    paths = [folder / "check.md", folder / "check.json"]
    for path, text in zip(paths, (markdown(check), document), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def _side(title: str, subject: CheckSubject) -> str:
    words = [subject.folders[0] if len(subject.folders) == 1 else f"{len(subject.folders)} folders"]
    if subject.saved is not None:
        commit = "commit not known" if subject.commit is None else f"commit {subject.commit[:12]}"
        words = [f"{subject.name}, saved {subject.saved[:16].replace('T', ' ')} UTC, {commit}"]
    if subject.launches:
        words.append(f"{subject.launches} launch{'es' if subject.launches > 1 else ''}")
    return f"{title:<8}  {notation.plain(', '.join(words))}"


def _part(part: CheckPart, *, deciding: bool) -> str:
    if part.outcome is None:
        return f"{part.name} {part.reason or NOT_JUDGED}"
    rows = [_where(row) for row in part.rows if row.outcome == part.outcome]
    shown = ", ".join(rows[:SHOWN]) + (f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else "")
    return f"{part.name} {part.outcome}" + (f" ({shown})" if shown and deciding and part.outcome != "pass" else "")


def _where(row: CheckRow) -> str:
    return short(row.subject) if row.unit == "nDCG" or not row.metric else f"{row.subject} {row.metric}"


def _cells(check: CheckResult) -> Iterator[tuple[str, ...]]:
    for part in (check.quality, check.latency):
        for row in part.rows:
            yield (
                short(row.subject),
                row.metric,
                figure(row.baseline, row.unit),
                figure(row.current, row.unit),
                change(None if row.change is None else row.change.value, row.unit),
                _interval(row.change, row.unit),
                change(row.margin, row.unit),
                row.outcome or (NOT_JUDGED if row.recorded else "not recorded"),
            )


def figure(value: float | None, unit: Unit) -> str:
    """A figure as every report writes it."""
    if unit == "nDCG":
        return notation.decimal(value)
    return notation.duration(value) if unit == "s" else notation.significant(value)


def change(value: float | None, unit: Unit) -> str:
    """A difference of nDCG, or a share of a time or a throughput."""
    if value is None:
        return notation.MISSING
    return f"{value:+.4f}" if unit == "nDCG" else f"{value:+.1%}"


def _interval(found: Change | None, unit: Unit) -> str:
    if found is None or found.lo is None or found.hi is None:
        return notation.MISSING
    return f"[{change(found.lo, unit)}, {change(found.hi, unit)}]"


def short(name: str) -> str:
    """A benchmark's name that a column has room for."""
    name = notation.plain(name)
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2 - 2]}...{name[-LONGEST // 2 + 1 :]}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:>{width}}" if place in RIGHT else f"{cell:<{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
