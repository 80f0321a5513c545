"""index.html: one file that needs nothing else, neither network nor scripts."""

import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from harness.report.content import Report
from harness.report.plots import INK, MUTED, PAPER, RULE, Plot

# The plots' neutral colours follow the page, so that they are readable on a dark one too.
_PAGE_COLOURS = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)", PAPER: "var(--paper)"}


def render(report: Report, plots: Sequence[Plot]) -> str:
    return template("index.html").render(report=report, plots=plots)


def template(name: str) -> Template:
    """A page by the name of its file; whatever is put into it is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = inline
    return environment.get_template(name)


def inline(plot: Plot) -> Markup:
    """The plot as an element of the page: its ids made unique, its neutral colours those of the page."""
    svg = plot.svg.decode()
    svg = re.sub(r"<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{plot.name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{plot.name}-", svg)
    for colour, variable in _PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    # Safe: drawn by us, and all text in it is outlines of glyphs.
    return Markup(svg.replace("<svg ", '<svg role="presentation" ', 1))
