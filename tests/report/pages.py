"""A run's report as the verbs publish it, built from given rows."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness.records import Row
from harness.report import press
from harness.run.page import content, plots


def write(rows: Sequence[Row], folder: Path, title: str) -> list[Path]:
    return press.write(content.build(rows, title), folder, name=content.NAME, plots=plots.draw(rows))


def show(rows: Sequence[Row], console: Console) -> None:
    press.show(content.build(rows, ""), console)
