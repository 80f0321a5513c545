"""The forest plot of a comparison: each difference with its interval, beside zero and the margin."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.compare.comparison import Comparison, Comparisons
from harness.report import notation, plots
from harness.report.table import QUALITY


def draw(contest: Comparisons) -> plots.Plot:
    """One panel per candidate. Equal comparisons give equal SVG bytes."""
    plot = plots.Plot(
        name="forest",
        title=f"Change of {QUALITY}",
        caption="Candidate minus reference with its 95% interval; solid line: no change, dashed: minus the margin. "
        "Diamond: average. Hollow: inconclusive.",
    )
    with plots.drawing():
        return plots.saved(plot, _paint(contest))


def _paint(contest: Comparisons) -> Figure:
    sizes = [len(comparison.effects) for comparison in contest.comparisons]
    figure = Figure(figsize=(7.2, sum(0.3 * size + 0.62 for size in sizes) + 0.4), layout="constrained")
    grid = figure.subplots(len(sizes), 1, sharex=True, squeeze=False, height_ratios=[size + 0.6 for size in sizes])
    for number, (axes, comparison) in enumerate(zip(grid[:, 0], contest.comparisons, strict=True)):
        _panel(axes, comparison, plots.PALETTE[number % len(plots.PALETTE)])
    grid[-1, 0].set_xlabel(f"Δ {QUALITY}")
    return figure


def _panel(axes: Axes, comparison: Comparison, colour: str) -> None:
    axes.set_title(plots.short(f"{comparison.candidate.name} − {comparison.reference.name}"))
    axes.axvline(0, color=plots.MUTED, linewidth=0.8)
    axes.axvline(-comparison.verdict.margin, color=plots.MUTED, linewidth=0.8, linestyle="dashed")
    for place, effect in enumerate(comparison.effects):
        value, lo, hi = effect.difference[:3]
        decided = effect.outcome != "inconclusive"
        axes.errorbar(
            value,
            place,
            xerr=None if lo is None or hi is None else [[max(value - lo, 0)], [max(hi - value, 0)]],
            fmt="D" if effect.is_average else "o",
            color=colour,
            markersize=7,
            markerfacecolor=colour if decided else plots.PAPER,
            markeredgecolor=plots.PAPER if decided else colour,
            elinewidth=1.6,
        )
    axes.set_yticks(range(len(comparison.effects)), [plots.short(effect.name) for effect in comparison.effects])
    axes.set_ylim(len(comparison.effects) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=plots.INK)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:+g}".replace("-", notation.MINUS) if value else "0")
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
