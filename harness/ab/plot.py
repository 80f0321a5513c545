"""The slowdown of every launch pair, with estimate, interval and margin. Equal runs give equal SVG bytes."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from harness.report import notation, plots

SETS = ("metrics", "confirmation")


def draw(document: Mapping[str, Any]) -> plots.Plot:
    """One panel; a line per metric and set, a dot per launch pair, a bar for the interval, a tick for the margin."""
    plot = plots.Plot(
        name="ratios",
        title="Slowdown of every launch pair",
        caption="How much slower B is than A: small dots are launch pairs, the large one their Hodges-Lehmann estimate "
        "with its interval, the dashed mark the margin. Hollow: the set that was launched to confirm.",
    )
    with plots.drawing():
        return plots.saved(plot, _paint(document))


def _paint(document: Mapping[str, Any]) -> Figure:
    rows = [
        (name, place, entry)
        for place, key in enumerate(SETS)
        for name, entry in (document[key] or {}).items()
        if entry["slowdown"] is not None
    ]
    figure = Figure(figsize=(7.2, 0.42 * len(rows) + 1.1), layout="constrained")
    axes = figure.subplots()
    arms = document["arms"]
    axes.set_title(plots.short(f"{arms['B']['engine']} against {arms['A']['engine']}"))
    axes.axvline(0, color=plots.MUTED, linewidth=0.8)
    for line, (_, place, entry) in enumerate(rows):
        _row(axes, line, entry, confirms=place == 1)
    axes.set_yticks(range(len(rows)), [name + (" again" if place else "") for name, place, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=plots.INK)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:+.1%}".replace("-", notation.MINUS)))
    axes.set_xlabel("B slower by")
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    return figure


def _row(axes: Axes, line: int, entry: Mapping[str, Any], *, confirms: bool) -> None:
    colour = plots.PALETTE[1 if entry["outcome"] == "regression" else 0]
    shares = [ratio - 1 for ratio in entry["launch_slowdowns"]]
    axes.plot(shares, [line + 0.18] * len(shares), "o", color=plots.MUTED, markersize=3, alpha=0.7)
    axes.plot([entry["margin"]] * 2, [line - 0.35, line + 0.35], color=plots.MUTED, linewidth=1.2, linestyle="dashed")
    if entry["lo"] is not None and entry["hi"] is not None:
        axes.plot([entry["lo"] - 1, entry["hi"] - 1], [line - 0.1] * 2, color=colour, linewidth=1.8)
    axes.plot(
        entry["slowdown"] - 1,
        line - 0.1,
        "o",
        color=colour,
        markersize=7,
        markerfacecolor=plots.PAPER if confirms else colour,
    )
