"""The plots of a run's report: quality, time per query, and quality against time."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from harness.figures.measures import HEADLINE
from harness.records import Row
from harness.report import labels, plots
from harness.report.plots import Plot, Style
from harness.run.page.table import by_benchmark, is_measured

Painter = Callable[[Mapping[str, list[Row]], Mapping[str, Style]], Figure]

_QUALITY = Plot(
    "quality",
    "Ranking quality of each engine",
    "nDCG@10 with its 95% interval. The thin line marks the candidates in their best order, the dotted line in "
    "random order. Hollow marks are incomplete runs.",
)
_LATENCY = Plot(
    "latency",
    "Time that each engine takes per query",
    "Share of queries that are scored within a time; a curve further left is faster. Dashed lines are incomplete runs.",
)
_TRADEOFF = Plot(
    "tradeoff",
    "Ranking quality against time per query",
    "nDCG@10 with its 95% interval against the p50 of the time per query; up and left is better. Hollow marks are "
    "incomplete runs.",
)


def draw(rows: Sequence[Row]) -> list[Plot]:
    """The plots for which the rows have data."""
    styles = plots.style(list(dict.fromkeys(row.engine for row in rows)))
    measured = [row for row in rows if is_measured(row)]
    ranked = [row for row in measured if HEADLINE in row.measures]
    timed = [row for row in measured if any(seconds > 0 for seconds in row.service_s)]
    timed_and_ranked = [row for row in ranked if row.p50.value]
    painted: list[tuple[Plot, Painter, Sequence[Row]]] = [
        (_QUALITY, _quality, rows if ranked else ()),
        (_LATENCY, _latency, timed),
        (_TRADEOFF, _tradeoff, timed_and_ranked),
    ]
    with plots.drawing():
        return [plots.saved(plot, paint(by_benchmark(shown), styles)) for plot, paint, shown in painted if shown]


def _quality(groups: Mapping[str, list[Row]], styles: Mapping[str, Style]) -> Figure:
    sizes = [len(group) for group in groups.values()]
    figure = plots.new_figure(7.2, sum(0.3 * size + 0.62 for size in sizes) + 0.3)
    grid = figure.subplots(len(sizes), 1, sharex=True, squeeze=False, height_ratios=[size + 0.6 for size in sizes])
    for axes, (name, group) in zip(grid[:, 0], groups.items(), strict=True):
        axes.set_title(plots.short(name))
        candidates = [row.candidates for row in group if row.candidates is not None]
        for bound in {entry.oracle for entry in candidates}:
            axes.axvline(bound, color=plots.MUTED, linewidth=0.8, linestyle="solid")
        for bound in {entry.random for entry in candidates}:
            axes.axvline(bound, color=plots.MUTED, linewidth=0.8, linestyle="dotted")
        for number, row in enumerate(group):
            if is_measured(row) and HEADLINE in row.measures:
                _mark(axes, (row.measures[HEADLINE].value, number), row, styles, along="x")
        names = [plots.short(row.engine) + ("" if is_measured(row) else f" ({row.verdict})") for row in group]
        axes.set_yticks(range(len(group)), names)
        axes.set_ylim(len(group) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, labelcolor=plots.INK)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
    grid[-1, 0].set_xlabel(HEADLINE)
    return figure


def _latency(groups: Mapping[str, list[Row]], styles: Mapping[str, Style]) -> Figure:
    figure, panels = plots.panels(groups)
    for axes, group in zip(panels, groups.values(), strict=True):
        for row in group:
            axes.ecdf(
                [seconds for seconds in row.service_s if seconds > 0],
                color=styles[row.engine].colour,
                linewidth=1.6,
                linestyle=styles[row.engine].line if row.verdict == "complete" else "--",
            )
        plots.time_axis(axes, "time per query, log scale")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
        axes.set_ylabel("queries")
    shown = dict.fromkeys(row.engine for group in groups.values() for row in group)
    plots.legend(figure, {engine: styles[engine]._replace(marker="") for engine in shown})
    return figure


def _tradeoff(groups: Mapping[str, list[Row]], styles: Mapping[str, Style]) -> Figure:
    figure, panels = plots.panels(groups)
    points: list[tuple[Axes, list[labels.LabelPoint]]] = []
    for axes, group in zip(panels, groups.values(), strict=True):
        axes.margins(0.2)
        marks = []
        for row in group:
            value, lo, hi = row.measures[HEADLINE]
            seconds = row.p50.value or 0.0
            _mark(axes, (seconds, value), row, styles, along="y")
            reach = (value if lo is None else lo, value if hi is None else hi)
            marks.append(labels.LabelPoint(plots.short(row.engine), seconds, value, *reach))
        plots.time_axis(axes, "p50 of the time per query, log scale")
        axes.set_ylabel(HEADLINE)
        points.append((axes, marks))
    FigureCanvasAgg(figure)
    if not labels.place(figure, points):
        shown = dict.fromkeys(row.engine for group in groups.values() for row in group)
        plots.legend(figure, {engine: styles[engine] for engine in shown})
    return figure


def _mark(axes: Axes, at: tuple[float, float], row: Row, styles: Mapping[str, Style], *, along: str) -> None:
    """A point with its interval along x or y."""
    value, lo, hi = row.measures[HEADLINE]
    reach = None if lo is None or hi is None else [[max(value - lo, 0)], [max(hi - value, 0)]]
    colour, marker, _ = styles[row.engine]
    complete = row.verdict == "complete"
    axes.errorbar(
        *at,
        xerr=reach if along == "x" else None,
        yerr=reach if along == "y" else None,
        fmt=marker,
        color=colour,
        markersize=7,
        markerfacecolor=colour if complete else plots.PAPER,
        markeredgecolor=plots.PAPER if complete else colour,
        elinewidth=1.6,
    )
