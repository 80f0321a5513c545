"""The three plots of a report, each as SVG and PNG. Equal rows give equal SVG bytes."""

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


def short(name: str) -> str:
    name = notation.plain(name)
    half = LONGEST // 2  # names of variants differ at their ends
    return name if len(name) <= LONGEST else f"{name[: half - 1]}…{name[-half:]}"


def _figure(width_in: float, height_in: float) -> Figure:
    return Figure(figsize=(width_in, height_in), layout="constrained")


def _panels(groups: Collection[str]) -> Panels:
    columns = min(2, len(groups))
    lines = math.ceil(len(groups) / columns)
    figure = _figure(7.2, 2.7 * lines + 0.3)
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, name in zip(grid, groups, strict=False):
        axes.set_title(short(name))
    for unused in grid[len(groups) :]:
        unused.remove()
    return Panels(figure, grid[: len(groups)])


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
