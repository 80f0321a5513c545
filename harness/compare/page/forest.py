"""The forest plot of a comparison: every difference with its interval, and lines at zero and at the margin."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.compare.comparison import Comparison, Comparisons
from harness.compare.page import FOREST
from harness.figures.measures import HEADLINE
from harness.report import notation, plots


def draw(result: Comparisons) -> plots.Plot:
    """One panel per candidate. Equal comparisons give equal SVG bytes."""
    plot = plots.Plot(
        name=FOREST,
        title=f"Change of {HEADLINE}",
        caption="Candidate minus reference with a 97.5% bound on either side. The solid line marks no change, the "
        "dashed line minus the margin. Diamonds are averages; hollow marks are inconclusive.",
    )
    with plots.drawing():
        return plots.saved(plot, _paint(result))


def _paint(result: Comparisons) -> Figure:
    sizes = [len(comparison.effects) for comparison in result.comparisons]
    figure = plots.new_figure(7.2, sum(0.3 * size + 0.62 for size in sizes) + 0.4)
    grid = figure.subplots(len(sizes), 1, sharex=True, squeeze=False, height_ratios=[size + 0.6 for size in sizes])
    for number, (axes, comparison) in enumerate(zip(grid[:, 0], result.comparisons, strict=True)):
        _panel(axes, comparison, plots.PALETTE[number % len(plots.PALETTE)])
    grid[-1, 0].set_xlabel(f"Δ {HEADLINE}")
    return figure


def _panel(axes: Axes, comparison: Comparison, colour: str) -> None:
    axes.set_title(plots.short(f"{comparison.candidate.name} − {comparison.reference.name}"))
    axes.axvline(0, color=plots.MUTED, linewidth=0.8)
    axes.axvline(-comparison.verdict.margin, color=plots.MUTED, linewidth=0.8, linestyle="dashed")
    for height, effect in enumerate(comparison.effects):
        value, lo, hi = effect.difference[:3]
        decided = effect.outcome != "inconclusive"
        axes.errorbar(
            value,
            height,
            xerr=[[max(value - lo, 0)], [max(hi - value, 0)]],
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
