"""index.html: one file that needs nothing else, neither network nor scripts."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from harness.report import notation
from harness.report.content import Report

if TYPE_CHECKING:
    from harness.report.plots import Plot


def render(report: Report, plots: "Sequence[Plot]" = ()) -> str:
    """The page with the plots inside it."""
    placed = {name for section in report.sections for name in section.plots}
    unplaced = [plot for plot in plots if plot.name not in placed]
    return _template().render(report=report, plots=plots, unplaced=unplaced)


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = inline
    return environment.get_template("index.html")


def _finalize(value: object) -> object:
    """The one door: every text that a template prints passes through here, and jinja escapes it afterwards."""
    return notation.plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def inline(plot: "Plot") -> Markup:
    """The plot as an element of the page, with unique ids and with the neutral colours of the page."""
    from harness.report.plots import INK, MUTED, PAPER, RULE

    svg = plot.svg.decode()
    svg = re.sub(r"<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{plot.name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{plot.name}-", svg)
    # The neutral colours follow the page, so that plots are readable on a dark page too.
    for colour, variable in {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper"}.items():
        svg = svg.replace(colour, f"var(--{variable})")
    # This is safe: we drew the plot, and all text in it consists of outlines of glyphs.
    return Markup(svg.replace("<svg ", '<svg role="presentation" ', 1))
