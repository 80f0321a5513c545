"""The report of `crispbench compare`: one content, printed on the terminal or written as files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.compare.comparison import Comparisons
from harness.compare.page import content
from harness.compare.page.content import Page
from harness.files import replace_file
from harness.report import latex, markdown

if TYPE_CHECKING:
    from harness.report.plots import Plot


def write(found: Comparisons, directory: Path) -> list[Path]:
    """Write index.html, compare.md, table.tex, forest.svg, forest.png and compare.json; the paths, in that order.

    Each file is replaced as a whole: a reader sees the old one or the new one.
    """
    from harness.compare.page import forest

    page, plot = content.build(found), forest.draw(found)
    files = {
        "index.html": _html(page, plot).encode(),
        "compare.md": _markdown(page, plot).encode(),
        "table.tex": latex.render(replace(page.report, sections=(*page.effects, *page.matrices))).encode(),
        "forest.svg": plot.svg,
        "forest.png": plot.png,
        "compare.json": (json.dumps(found.document(), indent=1, ensure_ascii=False) + "\n").encode(),
    }
    directory.mkdir(parents=True, exist_ok=True)
    return [replace_file(directory / name, data) for name, data in files.items()]


def _markdown(page: Page, plot: "Plot") -> str:
    report = page.report
    sections = (*report.sections, *(section for losses in page.losses for section in losses.sections))
    return markdown.render(replace(report, sections=sections), [(f"{plot.name}.png", plot.title)])


def _html(page: Page, plot: "Plot") -> str:
    from harness.report.html import template

    return template("compare.html").render(page=page, plot=plot)
