"""The three plots of a report, each as SVG and PNG. Equal rows give equal SVG bytes."""

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from harness.records import Row
from harness.report import labels, notation
from harness.report.table import QUALITY, by_benchmark, is_measured

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

INK, MUTED, RULE, PAPER = "#1d2126", "#5c6670", "#d9dee3", "#ffffff"
LineStyle = Literal["-", ":", "-."]

# Okabe and Ito, "Color Universal Design" (2008), with grey for black and without yellow: seen on white and on black.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#858585")
TURNS: tuple[tuple[str, LineStyle], ...] = (
    ("o", "-"),
    ("s", ":"),
    ("D", "-."),
)  # mark and line: the next ones with each turn of the palette
LONGEST = 30  # characters of a name that a plot has room for

SETTINGS: "dict[RcKeyType, object]" = {
    "svg.hashsalt": "crispbench",  # ids would be random
    "svg.fonttype": "path",  # looks alike without our fonts
    "text.parse_math": False,  # a "$" in a name is a "$"
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "legend.frameon": False,
}


class Plot(NamedTuple):
    name: str
    title: str
    caption: str
    svg: bytes = b""
    png: bytes = b""


class Style(NamedTuple):
    colour: str
    marker: str
    line: LineStyle


class Panels(NamedTuple):
    figure: Figure
    axes: Sequence[Axes]


Painter = Callable[[Mapping[str, list[Row]], Mapping[str, Style]], Figure]

_QUALITY = Plot(
    "quality",
    "Ranking quality of each engine",
    "nDCG@10 with its 95% interval. Thin line: the candidates in their best order; dotted: in random order. "
    "Hollow: incomplete run.",
)
_LATENCY = Plot(
    "latency",
    "Time that each engine takes per query",
    "Share of the queries that are scored within a time; further left is faster. Dashed: incomplete run.",
)
_TRADEOFF = Plot(
    "tradeoff",
    "Ranking quality against time per query",
    "nDCG@10 with its 95% interval over the p50 of the time per query; up and left is better. Hollow: incomplete run.",
)


def draw(rows: Sequence[Row]) -> list[Plot]:
    """The plots that the rows have data for."""
    styles = style(list(dict.fromkeys(row.engine for row in rows)))
    measured = [row for row in rows if is_measured(row)]
    ranked = [row for row in measured if QUALITY in row.measures]
    timed = [row for row in measured if any(seconds > 0 for seconds in row.service_s)]
    placed = [row for row in ranked if row.p50.value]
    painted: list[tuple[Plot, Painter, Sequence[Row]]] = [
        (_QUALITY, _quality, rows if ranked else ()),
        (_LATENCY, _latency, timed),
        (_TRADEOFF, _tradeoff, placed),
    ]
    with drawing():
        return [saved(plot, paint(by_benchmark(shown), styles)) for plot, paint, shown in painted if shown]


@contextmanager
def drawing() -> Iterator[None]:
    """In it every figure has the project's looks."""
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name outside the font's scripts
        yield


def saved(plot: Plot, figure: Figure) -> Plot:
    """The plot with its pictures; equal figures give equal SVG bytes."""
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    # Comments repeat the text of labels; the outlines are enough.
    return plot._replace(svg=re.sub(rb"<!--.*?-->\s*", b"", svg.getvalue(), flags=re.DOTALL), png=png.getvalue())


def style(engines: Sequence[str]) -> dict[str, Style]:
    """How each engine looks in every plot."""
    places = {engine: divmod(number, len(PALETTE)) for number, engine in enumerate(engines)}
    return {engine: Style(PALETTE[n], *TURNS[turn % len(TURNS)]) for engine, (turn, n) in places.items()}


def _quality(groups: Mapping[str, list[Row]], styles: Mapping[str, Style]) -> Figure:
    sizes = [len(group) for group in groups.values()]
    figure = _figure(7.2, sum(0.3 * size + 0.62 for size in sizes) + 0.3)
    grid = figure.subplots(len(sizes), 1, sharex=True, squeeze=False, height_ratios=[size + 0.6 for size in sizes])
    for axes, (name, group) in zip(grid[:, 0], groups.items(), strict=True):
        axes.set_title(short(name))
        for bound, line in (("oracle", "solid"), ("random", "dotted")):
            for value in {row.candidates.get(bound) for row in group} - {None}:
                axes.axvline(value, color=MUTED, linewidth=0.8, linestyle=line)
        for number, row in enumerate(group):
            if is_measured(row) and QUALITY in row.measures:
                _mark(axes, (row.measures[QUALITY].value, number), row, styles, along="x")
        names = [short(row.engine) + ("" if is_measured(row) else f" ({row.verdict})") for row in group]
        axes.set_yticks(range(len(group)), names)
        axes.set_ylim(len(group) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
    grid[-1, 0].set_xlabel(QUALITY)
    return figure


def _latency(groups: Mapping[str, list[Row]], styles: Mapping[str, Style]) -> Figure:
    figure, panels = _panels(groups)
    for axes, group in zip(panels, groups.values(), strict=True):
        for row in group:
            axes.ecdf(
                [seconds for seconds in row.service_s if seconds > 0],
                color=styles[row.engine].colour,
                linewidth=1.6,
                linestyle=styles[row.engine].line if row.verdict == "complete" else "--",
            )
        _time_axis(axes, "time per query, log scale")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
        axes.set_ylabel("queries")
    shown = dict.fromkeys(row.engine for group in groups.values() for row in group)
    _legend(figure, {engine: styles[engine]._replace(marker="") for engine in shown})
    return figure


def _tradeoff(groups: Mapping[str, list[Row]], styles: Mapping[str, Style]) -> Figure:
    figure, panels = _panels(groups)
    points: list[tuple[Axes, list[labels.Point]]] = []
    for axes, group in zip(panels, groups.values(), strict=True):
        axes.margins(0.2)
        marks = []
        for row in group:
            value, lo, hi = row.measures[QUALITY]
            seconds = row.p50.value or 0.0
            _mark(axes, (seconds, value), row, styles, along="y")
            reach = (value if lo is None else lo, value if hi is None else hi)
            marks.append(labels.Point(short(row.engine), seconds, value, *reach))
        _time_axis(axes, "p50 of the time per query, log scale")
        axes.set_ylabel(QUALITY)
        points.append((axes, marks))
    FigureCanvasAgg(figure)
    if not labels.place(figure, points):
        shown = dict.fromkeys(row.engine for group in groups.values() for row in group)
        _legend(figure, {engine: styles[engine] for engine in shown})
    return figure


def short(name: str) -> str:
    name = notation.plain(name)
    half = LONGEST // 2  # names of variants differ at their ends
    return name if len(name) <= LONGEST else f"{name[: half - 1]}…{name[-half:]}"


def _figure(width_in: float, height_in: float) -> Figure:
    return Figure(figsize=(width_in, height_in), layout="constrained")


def _panels(groups: Mapping[str, list[Row]]) -> Panels:
    columns = min(2, len(groups))
    lines = math.ceil(len(groups) / columns)
    figure = _figure(7.2, 2.7 * lines + 0.3)
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, name in zip(grid, groups, strict=False):
        axes.set_title(short(name))
    for unused in grid[len(groups) :]:
        unused.remove()
    return Panels(figure, grid[: len(groups)])


def _mark(axes: Axes, at: tuple[float, float], row: Row, styles: Mapping[str, Style], *, along: str) -> None:
    """A point with its interval along x or y."""
    value, lo, hi = row.measures[QUALITY]
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
        markerfacecolor=colour if complete else PAPER,
        markeredgecolor=PAPER if complete else colour,
        elinewidth=1.6,
    )


def _time_axis(axes: Axes, label: str) -> None:
    axes.set_xscale("log")
    lo, hi = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if hi / lo > 40 else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda s, _: f"{s:g} s" if s >= 1 else f"{s * 1e3:g} ms"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)


def _legend(figure: Figure, styles: Mapping[str, Style]) -> None:
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="" if marker else line, label=short(engine))
        for engine, (colour, marker, line) in styles.items()
    ]
    columns = 4 if max(map(len, styles)) < 16 else 2
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, labelcolor=INK)
