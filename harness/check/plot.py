"""The plot of a baseline's history, a panel per figure. Equal histories give equal SVG bytes.

Change points are dashed. Points of different machines have different marks; points of different machines or different
work are not joined.
"""

import math
from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from harness.check.history import History, Series, Track, changes, machine_letter
from harness.check.page import figure
from harness.report import plots

NAME = "trend"
TICKS = 7


def draw(history: History) -> plots.Plot:
    """A panel for each figure: small dots are launches, large marks are entries, and bars are levels."""
    plot = plots.Plot(
        name=NAME,
        title=f"History of {history.name}",
        caption="The entries of the baseline. Small dots are launches, large marks are their median, bars are levels, "
        "and dashed lines are change points. Entries of different machines or different work are not joined.",
    )
    with plots.drawing():
        return plots.saved(plot, _paint(history))


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
    axes.set_title(f"{plots.short(series.subject)} {series.metric}")
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
    entries = [point.entry for point in track.points]
    axes.plot(entries, [point.value for point in track.points], color=colour, linewidth=0.8, alpha=0.6)
    axes.plot(entries, [point.value for point in track.points], marker, color=colour, markersize=4.5, zorder=3)
    for level in track.levels:
        ends = [track.points[level.start].entry - 0.4, track.points[level.stop - 1].entry + 0.4]
        axes.plot(ends, [level.value] * 2, color=colour, linewidth=3, alpha=0.35, solid_capstyle="butt")
    for change in changes(track):
        axes.axvline(change.entry - 0.5, color=plots.INK, linewidth=1, linestyle="dashed")


def _style(machine: int) -> plots.Style:
    turn, index = divmod(machine, len(plots.PALETTE))
    marker = ("o", "s", "D", "^", "v")[machine % 5]
    return plots.Style(plots.PALETTE[index], marker, plots.TURNS[turn % len(plots.TURNS)][1])


def _legend(history: History) -> Iterator[Line2D]:
    for index, name in enumerate(history.machines):
        colour, marker, _ = _style(index)
        label = f"machine {machine_letter(index)}: {name}"
        yield Line2D([], [], color=colour, marker=marker, linestyle="", label=label)
    if any(changes(track) for series in history.series for track in series.tracks):
        yield Line2D([], [], color=plots.INK, linewidth=1, linestyle="dashed", label="change point")
