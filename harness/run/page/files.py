"""The report of a run, written as files or printed on a terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records import Row
from harness.report import press

if TYPE_CHECKING:
    from harness.published import Reproduction


def write(rows: Sequence[Row], folder: Path, title: str, reproductions: Sequence["Reproduction"] = ()) -> list[Path]:
    """Write report.md, index.html, table.tex and each plot as .svg and .png; the paths."""
    from harness.run.page import content, plots

    return press.write(content.build(rows, title, reproductions), folder, name="report", plots=plots.draw(rows))
