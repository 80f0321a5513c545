"""The parts of a report. A builder fills them with raw text; each format escapes the text at its own door."""

from dataclasses import dataclass
from typing import NamedTuple

from harness.report.table import Table


class Term(NamedTuple):
    """A word of the tables and its meaning."""

    name: str
    meaning: str


class Note(NamedTuple):
    """A remark below a table, about some of its lines or, with an empty `about`, about all of them."""

    about: str
    text: str

    @property
    def line(self) -> str:
        return f"{self.about}: {self.text}" if self.about else self.text


class SourceLine(NamedTuple):
    """The origin of the figures of a table."""

    line: str
    short: str = ""  # shown on a terminal instead of the line, which may be long

    @property
    def brief(self) -> str:
        return self.short or self.line


class Footnote(NamedTuple):
    """The origin of one cell; an average has a line for every member."""

    cell: str
    line: str
    members: tuple[str, ...] = ()


class EngineLine(NamedTuple):
    """The kind, the model and the machine of an engine."""

    engine: str
    kind: str
    model: str
    machine: str


@dataclass(frozen=True)
class Section:
    """A heading with at most one table, the sentence that says what the table shows, and what belongs to them.

    `details` are sections that a reader may skip. HTML folds them, opened where `opened` is true; a terminal prints
    the sentence of an opened one only; LaTeX leaves them out.
    """

    anchor: str  # unique in the report; letters, digits and hyphens
    title: str
    table: Table | None = None
    sentence: str = ""
    sources: tuple[SourceLine, ...] = ()
    notes: tuple[Note, ...] = ()
    footnotes: tuple[Footnote, ...] = ()
    details: "tuple[Section, ...]" = ()
    plots: tuple[str, ...] = ()  # names of the plots that are shown in this section
    opened: bool = False  # for a detail only
    printed: bool = True  # whether table.tex holds the table


@dataclass(frozen=True)
class Report:
    """Everything on one page, from top to bottom."""

    title: str
    sections: tuple[Section, ...] = ()
    lead: tuple[str, ...] = ()  # sentences above all tables: what was compared
    warnings: tuple[str, ...] = ()
    conclusion: str = ""  # one bold sentence: first on a page, last on a terminal
    engines: tuple[EngineLine, ...] = ()
    legend: tuple[Term, ...] = ()
    hint: str = ""  # one line on a terminal, which has no room for the legend
