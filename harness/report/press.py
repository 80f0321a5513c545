"""The press: it publishes a report as files in every format, or on a terminal.

matplotlib, jinja2 and rich are imported on use.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.files import replace_file
from harness.report.content import Report

if TYPE_CHECKING:
    from rich.console import Console

    from harness.report.plots import Plot


def write(
    report: Report, folder: Path, *, name: str, plots: "Sequence[Plot]" = (), data: Mapping[str, bytes] | None = None
) -> list[Path]:
    """Write index.html, NAME.md, table.tex and each plot as .svg and .png; return the paths in that order.

    `data` holds further files by name. Each file is replaced as a whole: a reader sees either the old or the new file.
    """
    from harness.report import html, latex, markdown

    files = {
        "index.html": html.render(report, plots).encode(),
        f"{name}.md": markdown.render(report, [(plot.name, plot.title) for plot in plots]).encode(),
        "table.tex": latex.render(report).encode(),
    }
    for plot in plots:
        files |= {f"{plot.name}.svg": plot.svg, f"{plot.name}.png": plot.png}
    files |= data or {}
    folder.mkdir(parents=True, exist_ok=True)
    return [replace_file(folder / file, content) for file, content in files.items()]


def show(report: Report, console: "Console | None" = None) -> None:
    """Print the report on the console; by default on standard output, with 110 columns in a log."""
    from harness.report import terminal

    terminal.show(report, console or terminal.standard_output())
