"""The roofline: the speed of an engine below the limits of this machine's arithmetic and memory.

Williams, Waterman, Patterson, "Roofline", Communications of the ACM 52(4), 2009: attainable FLOP/s = min(ceiling of
the arithmetic, FLOP per byte x bytes per second of the memory). Both ceilings are measured, not data-sheet values.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from harness.latency.page.cost import operations
from harness.latency.summary import Summary
from harness.report import plots
from harness.report.plots import Plot, Style

_ROOFLINE = Plot(
    "roofline",
    "Speed of the arithmetic below its ceiling",
    "Floating-point operations per second over operations per byte moved, both logarithmic; higher is faster. The line "
    "is the speed that the machine reaches in the engine's matrix products (flat) and in a copy of memory (slope), "
    "measured before the warm-up; the tables name both. The bytes count a matrix once per forward, and its inputs and "
    "outputs once per token. Hollow marks are invalid or incomplete.",
)
MARKS = ("o", "s", "D", "^", "v", "P", "X")  # one per scenario
ROOM = 4.0  # the axis ends at this multiple of the outermost point, so that the bend of the roof is visible

Styles = Mapping[str, Style]


def draw(summaries: Sequence[Summary], styles: Styles) -> Plot | None:
    """One panel per benchmark; None if no measurement has a ceiling and a count of operations."""
    groups: dict[str, list[Summary]] = {}
    for summary in summaries:
        if summary.header.ceiling and summary.efficiency.intensity and summary.efficiency.utilisation:
            groups.setdefault(plots.short(summary.benchmark), []).append(summary)
    if not groups:
        return None
    marks = {name: MARKS[i % len(MARKS)] for i, name in enumerate(_scenarios(summaries))}
    with plots.drawing():
        return plots.saved(_ROOFLINE, _figure(groups, styles, marks))


def _scenarios(summaries: Sequence[Summary]) -> list[str]:
    return list(dict.fromkeys(summary.scenario for summary in summaries))


def _figure(groups: Mapping[str, Sequence[Summary]], styles: Styles, marks: Mapping[str, str]) -> Figure:
    figure, panels = plots.panels(groups)
    figure.set_size_inches(7.2, 1.4 * figure.get_figheight())
    for axes, group in zip(panels, groups.values(), strict=True):
        axes.set(xscale="log", yscale="log")
        for summary in group:
            _point(axes, summary, styles[summary.engine].colour, marks[summary.scenario])
        _roofs(axes, group, styles)
        _scales(axes)
    shown = [summary for group in groups.values() for summary in group]
    FigureCanvasAgg(figure)
    figure.legend(handles=_handles(shown, styles, marks), loc="outside lower center", ncols=3, labelcolor=plots.INK)
    return figure


def _point(axes: Axes, summary: Summary, colour: str, mark: str) -> None:
    efficiency = summary.efficiency
    axes.plot(
        [efficiency.intensity or 0.0],
        [efficiency.computed_flops_per_s or 0.0],
        linestyle="",
        marker=mark,
        markersize=7,
        color=colour,
        markerfacecolor=colour if summary.verdict == "VALID" else plots.PAPER,
        markeredgecolor=plots.PAPER if summary.verdict == "VALID" else colour,
        zorder=3,
    )


def _roofs(axes: Axes, group: Sequence[Summary], styles: Styles) -> None:
    """The roof of each engine, wide enough to show its points and its bend."""
    roofs = {summary.engine: roof for summary in group if (roof := summary.header.ceiling) is not None}
    intensities = [summary.efficiency.intensity or 1.0 for summary in group]
    bends = [roof.flops_per_s / roof.bytes_per_s for roof in roofs.values()]
    across = np.geomspace(min(*intensities, *bends) / ROOM, max(*intensities, *bends) * ROOM, 200)
    for engine, roof in roofs.items():
        style = styles[engine]
        height = np.minimum(roof.flops_per_s, across * roof.bytes_per_s)
        axes.plot(across, height, color=style.colour, linewidth=1.6, linestyle=style.line)


def _scales(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: operations(value)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        axis.set_major_locator(LogLocator(subs=(1.0,) if limits[1] / limits[0] > 40 else (1.0, 2.0, 5.0)))
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("floating-point operations per byte, log scale")
    axes.set_ylabel("operations per second, log scale")


def _handles(shown: Sequence[Summary], styles: Styles, marks: Mapping[str, str]) -> list[Line2D]:
    engines = {name: styles[name] for name in dict.fromkeys(summary.engine for summary in shown)}
    lines = [
        Line2D([], [], color=style.colour, linestyle=style.line, label=plots.short(name))
        for name, style in engines.items()
    ]
    points = [
        Line2D([], [], color=plots.MUTED, marker=marks[name], linestyle="", label=plots.short(name))
        for name in _scenarios(shown)
    ]
    return lines + points
