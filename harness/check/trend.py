"""The report on the history of a baseline: a line per entry, changes of level, and a plot with a panel per figure."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.check.history import ChangePoint, History, SavedEntry, Series, changes, machine_letter, title
from harness.check.page import figure
from harness.figures.changepoints import LEAST_POINTS
from harness.report import notation, press
from harness.report.content import Note, Report, Section, Term
from harness.report.table import Cell, Table

NAME = "trend"
COLUMNS = ("entry", "saved (UTC)", "commit", "machine", "launches")
LEGEND = (
    Term("entry", "number of the save; `check NAME@NUMBER` takes it"),
    Term("machine", "a letter per machine; figures of different machines are not joined"),
    Term("figures", "median over the launches of an entry"),
    Term("change of level", f"the cheapest piecewise constant fit has a step there; {LEAST_POINTS} entries are needed"),
    Term(notation.MISSING, "not recorded; never zero"),
)


def build(history: History) -> Report:
    section = Section(
        anchor="entries",
        title="",
        table=Table(
            columns=(*COLUMNS, *(title(series) for series in history.series)),
            cells=tuple(tuple(_cells(entry, history.series)) for entry in history.entries),
            words=4,
            judged=False,
        ),
        notes=tuple(Note(f"machine {machine_letter(index)}", name) for index, name in enumerate(history.machines)),
        plots=(NAME,),
    )
    steps = list(_steps(history))
    return Report(
        title=f"History of {history.name}",
        sections=(section,),
        warnings=tuple(_step(series, change) for series, change in steps),
        conclusion=_conclusion(history, len(steps)),
        legend=LEGEND,
    )


def write(history: History, folder: Path) -> list[Path]:
    """Write index.html, trend.md, table.tex, trend.svg and trend.png into the folder; return their paths."""
    from harness.check import plot

    return press.write(build(history), folder, name=NAME, plots=[plot.draw(history)])


def _cells(entry: SavedEntry, series: Sequence[Series]) -> Iterator[Cell]:
    yield Cell(str(entry.entry))
    yield Cell(entry.saved[:16].replace("T", " "))
    yield Cell((entry.commit or notation.MISSING)[:12])
    yield Cell(machine_letter(entry.machine))
    yield Cell(str(entry.launches))
    for line in series:
        yield Cell(figure(_value(line, entry.entry), line.unit))


def _steps(history: History) -> Iterator[tuple[Series, ChangePoint]]:
    for series in history.series:
        for track in series.tracks:
            for change in changes(track):
                yield series, change


def _step(series: Series, change: ChangePoint) -> str:
    before, after = figure(change.before, series.unit), figure(change.after, series.unit)
    return f"change at entry {change.entry}: {title(series)} from {before} to {after}"


def _conclusion(history: History, steps: int) -> str:
    """The number of changes, or the reason why there are too few points to look for any."""
    longest = max((len(track.points) for series in history.series for track in series.tracks), default=0)
    if longest < LEAST_POINTS:
        return f"no change points: one machine has at most {longest} entries, and {LEAST_POINTS} are needed"
    return f"{steps} change{'s' if steps > 1 else ''} of level" if steps else "no change of level"


def _value(series: Series, entry: int) -> float | None:
    points: Sequence[float] = [point.value for track in series.tracks for point in track.points if point.entry == entry]
    return points[0] if points else None
