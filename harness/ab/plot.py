"""A plot of every launch pair's slowdown, with estimate, interval and margin. Equal runs give equal SVG bytes."""

from collections.abc import Iterator
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from harness.ab.records import Metric
from harness.ab.result import AbRecord, MetricResult
from harness.outcome import Outcome
from harness.report import notation, plots


class RatioLine(NamedTuple):
    """One line of the plot: a metric that was measured."""

    name: Metric
    metric: MetricResult
    slowdown: float


def draw(result: AbRecord) -> plots.Plot:
    """One panel: a line per metric, a dot per launch pair, a bar for the interval, a dash for the margin."""
    plot = plots.Plot(
        name="ratios",
        title="Slowdown of every launch pair",
        caption="The share by which B is slower than A. Small dots are launch pairs, the large dot is their "
        "Hodges-Lehmann estimate with its interval, and the dashed line is the margin.",
    )
    with plots.drawing():
        return plots.saved(plot, _paint(result))


def _paint(result: AbRecord) -> Figure:
    lines = list(_lines(result))
    figure = Figure(figsize=(7.2, 0.42 * len(lines) + 1.1), layout="constrained")
    axes = figure.subplots()
    arms = result.setup.arms
    axes.set_title(plots.short(f"{arms['B'].engine} against {arms['A'].engine}"))
    axes.axvline(0, color=plots.MUTED, linewidth=0.8)
    for height, line in enumerate(lines):
        _draw_line(axes, height, line)
    axes.set_yticks(range(len(lines)), [line.name for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=plots.INK)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:+.1%}".replace("-", notation.MINUS)))
    axes.set_xlabel("B slower by")
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    return figure


def _lines(result: AbRecord) -> Iterator[RatioLine]:
    for name, metric in result.metrics.items():
        if metric.slowdown is not None:
            yield RatioLine(name, metric, metric.slowdown)


def _draw_line(axes: Axes, height: int, line: RatioLine) -> None:
    metric = line.metric
    colour = plots.PALETTE[1 if metric.outcome is Outcome.REGRESSION else 0]
    shares = [ratio - 1 for ratio in metric.launch_slowdowns]
    axes.plot(shares, [height + 0.18] * len(shares), "o", color=plots.MUTED, markersize=3, alpha=0.7)
    axes.plot([metric.margin] * 2, [height - 0.35, height + 0.35], color=plots.MUTED, linewidth=1.2, linestyle="dashed")
    if metric.lo is not None and metric.hi is not None:
        axes.plot([metric.lo - 1, metric.hi - 1], [height - 0.1] * 2, color=colour, linewidth=1.8)
    axes.plot(
        line.slowdown - 1,
        height - 0.1,
        "o",
        color=colour,
        markersize=7,
    )
