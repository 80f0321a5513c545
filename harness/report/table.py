"""Rows of one benchmark -> the one table that every format prints, so that formats cannot disagree."""

from dataclasses import dataclass
from typing import NamedTuple

from harness.report import notation

QUALITY = "nDCG@10"  # the measure that ranks engines; its name is that in Row.measures


class Cell(NamedTuple):
    """One figure as printed, with its interval or coverage beside it."""

    value: str = notation.MISSING
    detail: str = ""
    best: bool = False

    @property
    def text(self) -> str:
        return f"{self.value} {self.detail}".rstrip()


@dataclass(frozen=True)
class Table:
    """The rows of one benchmark as text. The first cell of a line is the engine."""

    title: str
    columns: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    judged: bool = True  # the last cell of a line is its verdict; else the second says what kind of line it is
