"""The plots of `crispbench latency`: distributions of times, time against the size of a request, and the roofline."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from harness.figures.percentiles import QUANTILES
from harness.latency.page import roofline
from harness.latency.summary import Summary
from harness.report import plots
from harness.report.plots import Plot, Style

_ECDF = Plot(
    "ecdf",
    "Time that a request takes",
    "Share of the requests that are answered within a time after they were due; further left is faster. The bars are "
    "the 95% intervals of p50, p90, p95 and p99 where they are known. Dashed lines are invalid or incomplete.",
)
_HISTOGRAM = Plot(
    "histogram",
    "Distribution of the times",
    "Number of requests in equal parts of the logarithmic time axis. The vertical lines are the known percentiles: p50 "
    "is solid, and p90, p95 and p99 are dotted. The bands are their 95% intervals. Dashed curves are invalid or "
    "incomplete.",
)
_SIZE = Plot(
    "size",
    "Time against the size of a request",
    "Each mark is a request. The size is its number of tokens or, if no engine counts tokens, of documents. The time "
    "counts from the sending.",
)

BINS = 40
LEAST_SPAN = 1.05  # smallest ratio of the highest to the lowest time on a histogram's axis, for equal times
NARROW = 20  # largest ratio of the highest to the lowest time for which the axis is linear

Groups = Mapping[str, Sequence[Summary]]


def draw(summaries: Sequence[Summary]) -> list[Plot]:
    """The plots that have samples, with one panel per benchmark and scenario."""
    styles = plots.style(list(dict.fromkeys(summary.engine for summary in summaries)))
    groups: dict[str, list[Summary]] = {}
    for summary in summaries:
        if summary.response and any(timing.response_s > 0 for timing in summary.answered):
            groups.setdefault(f"{plots.short(summary.benchmark)}, {summary.scenario}", []).append(summary)
    roof = roofline.draw(summaries, styles)
    roofs = [] if roof is None else [roof]
    if not groups:
        return roofs
    with plots.drawing():
        return [
            plots.saved(_ECDF, _ecdf(groups, styles)),
            plots.saved(_HISTOGRAM, _histogram(groups, styles)),
            plots.saved(_SIZE, _size(groups, styles)),
            *roofs,
        ]


def _ecdf(groups: Groups, styles: Mapping[str, Style]) -> Figure:
    figure, panels = plots.panels(groups)
    for axes, group in zip(panels, groups.values(), strict=True):
        for summary in group:
            style = styles[summary.engine]
            line = style.line if summary.verdict == "VALID" else "--"
            times_s = [timing.response_s for timing in summary.answered if timing.response_s > 0]
            axes.ecdf(times_s, color=style.colour, linewidth=1.6, linestyle=line)
            _intervals(axes, summary, style)
        plots.time_axis(axes, "time since the request was due, log scale")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
        axes.set_ylabel("requests")
    _legend(figure, groups, styles, marked=False)
    return figure


def _histogram(groups: Groups, styles: Mapping[str, Style]) -> Figure:
    figure, panels = plots.panels(groups)
    for axes, group in zip(panels, groups.values(), strict=True):
        times_s = [[timing.response_s for timing in summary.answered if timing.response_s > 0] for summary in group]
        lo, hi = min(map(min, times_s)), max(map(max, times_s))
        edges = np.geomspace(lo, max(hi, lo * LEAST_SPAN), BINS + 1)
        edges[-1] = np.nextafter(edges[-1], np.inf)  # rounding the edge down would lose the longest time
        for summary, values in zip(group, times_s, strict=True):
            style = styles[summary.engine]
            line = style.line if summary.verdict == "VALID" else "--"
            axes.hist(values, edges.tolist(), histtype="step", color=style.colour, linewidth=1.4, linestyle=line)
            _percentiles(axes, summary, style)
        plots.time_axis(axes, "time since the request was due, log scale")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_ylabel("requests")
    _legend(figure, groups, styles, marked=False)
    return figure


def _percentiles(axes: Axes, summary: Summary, style: Style) -> None:
    for name, percentile in summary.response.items():
        if percentile.estimate is not None and percentile.estimate > 0:
            line = "-" if name == "p50" else ":"
            axes.axvline(percentile.estimate, color=style.colour, linewidth=1, alpha=0.7, linestyle=line)
        if percentile.lo is not None and percentile.hi is not None and percentile.lo > 0:
            axes.axvspan(percentile.lo, percentile.hi, color=style.colour, alpha=0.12, linewidth=0)


def _intervals(axes: Axes, summary: Summary, style: Style) -> None:
    for name, quantile in QUANTILES.items():
        lo, hi = summary.response[name].lo, summary.response[name].hi
        if lo is not None and hi is not None and lo > 0:
            axes.plot(
                [lo, hi], [quantile, quantile], color=style.colour, linewidth=4, alpha=0.45, solid_capstyle="butt"
            )


def _size(groups: Groups, styles: Mapping[str, Style]) -> Figure:
    figure, panels = plots.panels(groups)
    for axes, group in zip(panels, groups.values(), strict=True):
        counting = [summary for summary in group if all(timing.tokens for timing in summary.answered)]
        for summary in counting or group:
            timed = [timing for timing in summary.answered if timing.service_s > 0]
            sizes = [(timing.tokens or 0) if counting else timing.pairs for timing in timed]
            style, times_s = styles[summary.engine], [timing.service_s for timing in timed]
            axes.scatter(sizes, times_s, s=10, color=style.colour, marker=style.marker, alpha=0.6, linewidths=0)
        axes.set_xlabel("tokens per query" if counting else "documents per query")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        lo, hi = axes.dataLim.intervaly
        if hi > NARROW * lo:  # a logarithmic scale of less than a decade has hardly any ticks
            axes.set_yscale("log")
            axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(plots.seconds())
        axes.set_ylabel("time since it was sent")
    _legend(figure, groups, styles, marked=True)
    return figure


def _legend(figure: Figure, groups: Groups, styles: Mapping[str, Style], *, marked: bool) -> None:
    shown = dict.fromkeys(summary.engine for group in groups.values() for summary in group)
    plots.legend(figure, {name: styles[name] if marked else styles[name]._replace(marker="") for name in shown})
