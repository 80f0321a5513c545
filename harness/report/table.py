"""The cells of a table as text, so that all formats show the same figures."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from harness.report import notation

Tone = Literal["plain", "good", "bad", "muted"]  # the colour of a cell, in formats with colours


class Cell(NamedTuple):
    """One figure as printed, with its interval or coverage beside it."""

    value: str = notation.MISSING
    detail: str = ""
    best: bool = False
    tone: Tone = "plain"

    @property
    def text(self) -> str:
        return f"{self.value} {self.detail}".rstrip()


@dataclass(frozen=True)
class Table:
    """Lines of cells below their columns. The first cell of a line names it."""

    columns: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    words: int = 1  # number of leading columns that hold words, which are aligned to the left
    judged: bool = True  # the last column is a verdict in words
    joined: frozenset[int] = frozenset()  # numbers of the lines that continue the line above them

    def is_text(self, column: int) -> bool:
        """Whether a column holds words, which every format aligns to the left."""
        return column < self.words or (self.judged and column == len(self.columns) - 1)
