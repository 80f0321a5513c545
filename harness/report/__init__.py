"""Reports: rows in, one page in every format out. Knows neither engines nor stores.

Every format prints the same `content.Report`. matplotlib, jinja2 and rich are imported on use.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records import Row

if TYPE_CHECKING:
    from rich.console import Console

    from harness.published import Reproduction


def write(rows: Sequence[Row], directory: Path, title: str, reproductions: Sequence["Reproduction"] = ()) -> list[Path]:
    """Write report.md, index.html, table.tex and each plot as .svg and .png; the paths, in that order.

    Each file is replaced as a whole: a reader sees the old one or the new one.
    """
    from harness.report import content, html, latex, markdown, plots

    report, drawn = content.build(rows, title, reproductions), plots.draw(rows)
    files = {
        "report.md": markdown.render(report, [(f"{plot.name}.png", plot.title) for plot in drawn]).encode(),
        "index.html": html.render(report, drawn).encode(),
        "table.tex": latex.render(report).encode(),
    }
    for plot in drawn:
        files |= {f"{plot.name}.svg": plot.svg, f"{plot.name}.png": plot.png}
    directory.mkdir(parents=True, exist_ok=True)
    return [replace_file(directory / name, data) for name, data in files.items()]


def show(rows: Sequence[Row], console: "Console", reproductions: Sequence["Reproduction"] = ()) -> None:
    """Print tables and sentences."""
    from harness.report import content, terminal

    terminal.show(content.build(rows, "", reproductions), console)


def replace_file(path: Path, data: bytes) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
