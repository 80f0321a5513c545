"""The parts that all plots share: looks, panels, axes and legends. Equal figures give equal SVG bytes."""

import io
import math
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from harness.report import notation

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

INK, MUTED, RULE, PAPER = "#1d2126", "#5c6670", "#d9dee3", "#ffffff"
LineStyle = Literal["-", ":", "-."]

# Okabe and Ito, "Color Universal Design" (2008), with grey for black and without yellow: seen on white and on black.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#858585")
# Mark and line of the first seven engines, of the next seven, and of the seven after them.
TURNS: tuple[tuple[str, LineStyle], ...] = (("o", "-"), ("s", ":"), ("D", "-."))
LONGEST = 30  # characters of a name that fit into a plot

SETTINGS: "dict[RcKeyType, object]" = {
    "svg.hashsalt": "crispbench",  # without it, ids would be random
    "svg.fonttype": "path",  # looks the same without our fonts
    "text.parse_math": False,  # a "$" in a name stays a "$"
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
    """A drawn figure; `name` is the stem of its files and its id on the page."""

    name: str
    title: str
    caption: str
    svg: bytes = b""
    png: bytes = b""


class Style(NamedTuple):
    """The colour, mark and line of one engine."""

    colour: str
    marker: str
    line: LineStyle


class Panels(NamedTuple):
    """A figure with one panel per group."""

    figure: Figure
    axes: Sequence[Axes]


@contextmanager
def drawing() -> Iterator[None]:
    """Give the project's looks to every figure that is made in this context."""
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name outside the font's scripts
        yield


def saved(plot: Plot, figure: Figure) -> Plot:
    """Add the pictures to the plot."""
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    # Comments repeat the text of labels; the outlines are enough.
    return plot._replace(svg=re.sub(rb"<!--.*?-->\s*", b"", svg.getvalue(), flags=re.DOTALL), png=png.getvalue())


def style(engines: Sequence[str]) -> dict[str, Style]:
    """The style of each engine, the same in every plot of a report."""
    styles = {}
    for number, engine in enumerate(engines):
        turn, colour = divmod(number, len(PALETTE))
        styles[engine] = Style(PALETTE[colour], *TURNS[turn % len(TURNS)])
    return styles


def short(name: str) -> str:
    """A foreign name as a plot shows it: the one door for text into a figure."""
    name = notation.plain(name)
    half = LONGEST // 2  # names of variants differ at their ends, so the middle is cut
    return name if len(name) <= LONGEST else f"{name[: half - 1]}…{name[-half:]}"


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure whose layout keeps labels inside it; sizes in inches."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


def panels(groups: Collection[str]) -> Panels:
    """One panel for each name, in two columns."""
    columns = min(2, len(groups))
    lines = math.ceil(len(groups) / columns)
    figure = new_figure(7.2, 2.7 * lines + 0.3)
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, name in zip(grid, groups, strict=False):
        axes.set_title(short(name))
    for unused in grid[len(groups) :]:
        unused.remove()
    return Panels(figure, grid[: len(groups)])


def seconds() -> FuncFormatter:
    """Ticks in seconds or milliseconds, for an axis of seconds."""
    return FuncFormatter(lambda value, _: f"{value:g} s" if value >= 1 else f"{value * 1e3:g} ms")


def time_axis(axes: Axes, label: str) -> None:
    """Make the x axis one of seconds with a logarithmic scale."""
    axes.set_xscale("log")
    lo, hi = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if hi / lo > 40 else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(seconds())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)


def legend(figure: Figure, styles: Mapping[str, Style]) -> None:
    """Name the styles below the figure; a style without a marker is shown as a line."""
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="" if marker else line, label=short(engine))
        for engine, (colour, marker, line) in styles.items()
    ]
    columns = 4 if max(map(len, styles)) < 16 else 2
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, labelcolor=INK)
