"""The history of a baseline: a table for a log, and a plot with a panel per figure.

Equal histories give equal SVG bytes. Change points are dashed. Points of different machines, or of different work,
have marks of their own and no line between them.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from harness.check.history import History, Series, Track, changes
from harness.check.page import WIDTH, figure, short
from harness.figures.changepoints import LEAST_POINTS
from harness.report import notation, plots

FILES = ("trend.svg", "trend.png")
TICKS = 7
GAP = "  "


def lines(history: History) -> list[str]:
    """One line per entry, then machines and changes of level. Figures that do not fit into a log are counted only."""
    columns = [
        ("", "entry", *(str(entry.entry) for entry in history.entries)),
        ("", "saved (UTC)", *(entry.saved[:16].replace("T", " ") for entry in history.entries)),
        ("", "commit", *((entry.commit or notation.MISSING)[:12] for entry in history.entries)),
        ("", "launches", *(str(entry.launches) for entry in history.entries)),
        ("", "machine", *(letter(entry.machine) for entry in history.entries)),
    ]
    for series in history.series:
        figures = (figure(_value(series, entry.entry), series.unit) for entry in history.entries)
        columns.append((short(series.subject), series.metric, *figures))
    widths = [max(map(len, column)) + len(GAP) for column in columns]
    fitting = [column for place, column in enumerate(columns) if sum(widths[: place + 1]) <= WIDTH + len(GAP)]
    rows = zip(*([f"{cell:<{max(map(len, column))}}" for cell in column] for column in fitting), strict=True)
    hidden = len(columns) - len(fitting)
    more = [f"figures that do not fit: {hidden}; --json and --out show them"] if hidden else []
    machines = [f"machine {letter(place)}: {notation.plain(name)}" for place, name in enumerate(history.machines)]
    return [*(GAP.join(row).rstrip() for row in rows), "", *more, *machines, *remarks(history)]


def remarks(history: History) -> list[str]:
    """The change points; or that there are too few points to look for some."""
    found, longest = [], 0
    for series in history.series:
        for track in series.tracks:
            longest = max(longest, len(track.points))
            found += [
                f"change at entry {each.entry}: {_title(series)} from {figure(each.before, series.unit)} "
                f"to {figure(each.after, series.unit)}"
                for each in changes(track)
            ]
    if longest < LEAST_POINTS:
        return [f"no change points: at most {longest} entries of one machine, {LEAST_POINTS} are needed"]
    return found or ["no change of level"]


def draw(history: History) -> plots.Plot:
    """A panel for each figure; small dots are launches, large ones entries, bars the levels."""
    plot = plots.Plot(
        name="trend",
        title=f"History of {history.name}",
        caption="Each entry of the baseline: small dots are launches, the large one their median. Bars: levels between "
        "change points, which are dashed. Other marks: another machine or other work, never joined.",
    )
    with plots.drawing():
        return plots.saved(plot, _paint(history))


def write(history: History, folder: Path) -> list[Path]:
    """trend.svg and trend.png in the folder."""
    drawn = draw(history)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in FILES]
    for path, data in zip(paths, (drawn.svg, drawn.png), strict=True):
        path.write_bytes(data)
    return paths


def letter(machine: int) -> str:
    """A, B, ..., Z, AA, ..."""
    more, last = divmod(machine, 26)
    return (letter(more - 1) if more else "") + chr(ord("A") + last)


def _paint(history: History) -> Figure:
    count = len(history.series)
    columns = min(2, count)
    rows = math.ceil(count / columns)
    painted = Figure(figsize=(4.2 * columns + 0.6, 2.1 * rows + 0.9), layout="constrained")
    grid = list(painted.subplots(rows, columns, squeeze=False).flat)
    numbers = [entry.entry for entry in history.entries]
    for axes, series in zip(grid, history.series, strict=False):
        _panel(axes, series)
        axes.set_xlim(min(numbers) - 0.7, max(numbers) + 0.7)
        axes.xaxis.set_major_locator(MaxNLocator(TICKS, integer=True, min_n_ticks=1))
        dates = {entry.entry: entry.saved[:10] for entry in history.entries}
        axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _, dates=dates: _tick(dates, at)))
    for unused in grid[count:]:
        unused.remove()
    painted.legend(handles=list(_legend(history)), loc="outside lower center", ncols=2, labelcolor=plots.INK)
    return painted


def _tick(dates: dict[int, str], at: float) -> str:
    number = round(at)
    return f"{number}\n{dates[number][5:]}" if number == at and number in dates else ""


def _panel(axes: Axes, series: Series) -> None:
    axes.set_title(_title(series))
    for track in series.tracks:
        _track(axes, track)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: figure(value, series.unit)))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(y=0.15)


def _track(axes: Axes, track: Track) -> None:
    colour, marker, _ = _style(track.machine)
    for point in track.points if max(len(point.launches) for point in track.points) > 1 else ():
        at = [point.entry] * len(point.launches)
        axes.plot(at, point.launches, "o", color=plots.MUTED, markersize=2.5, alpha=0.6, zorder=2)
    places = [point.entry for point in track.points]
    axes.plot(places, [point.value for point in track.points], color=colour, linewidth=0.8, alpha=0.6)
    axes.plot(places, [point.value for point in track.points], marker, color=colour, markersize=4.5, zorder=3)
    for level in track.levels:
        ends = [track.points[level.start].entry - 0.4, track.points[level.stop - 1].entry + 0.4]
        axes.plot(ends, [level.value] * 2, color=colour, linewidth=3, alpha=0.35, solid_capstyle="butt")
    for change in changes(track):
        axes.axvline(change.entry - 0.5, color=plots.INK, linewidth=1, linestyle="dashed")


def _style(machine: int) -> plots.Style:
    turn, place = divmod(machine, len(plots.PALETTE))
    marker = ("o", "s", "D", "^", "v")[machine % 5]
    return plots.Style(plots.PALETTE[place], marker, plots.TURNS[turn % len(plots.TURNS)][1])


def _legend(history: History) -> Iterator[Line2D]:
    for place, name in enumerate(history.machines):
        colour, marker, _ = _style(place)
        label = f"machine {letter(place)}: {notation.plain(name)}"
        yield Line2D([], [], color=colour, marker=marker, linestyle="", label=label)
    if any(changes(track) for series in history.series for track in series.tracks):
        yield Line2D([], [], color=plots.INK, linewidth=1, linestyle="dashed", label="change point")


def _title(series: Series) -> str:
    return notation.plain(f"{plots.short(series.subject)} {series.metric}")


def _value(series: Series, entry: int) -> float | None:
    points: Sequence[float] = [point.value for track in series.tracks for point in track.points if point.entry == entry]
    return points[0] if points else None
