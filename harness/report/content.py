"""What every format prints, built once from the rows: tables, sentences, origins and notes."""

from dataclasses import dataclass
from typing import NamedTuple

from harness.report.table import Table


class Term(NamedTuple):
    name: str
    meaning: str


class Origin(NamedTuple):
    """Where the numbers of a table come from: enough to find the same candidates again."""

    queries: str
    source: str
    k: str
    recall: str  # R@k of the candidates
    oracle: str  # nDCG@10 of the best order of the candidates that the judgements allow
    random: str  # nDCG@10 to expect of a random order of the candidates
    sha256: str
    revision: str  # of the benchmark
    engines: str = ""  # only where the engines of one table differ in it

    @property
    def line(self) -> str:
        prefix = f"{self.engines}: " if self.engines else ""
        return (
            f"{prefix}{self.queries} queries, revision {self.revision}; candidates {self.source}, k = {self.k}, "
            f"R@{self.k} {self.recall}, oracle nDCG@10 {self.oracle}, random order {self.random}, "
            f"sha256 {self.sha256[:16]}"
        )

    @property
    def brief(self) -> str:
        return self.line


class OriginLine(NamedTuple):
    """Where the published figures of a table come from."""

    line: str
    brief: str  # for where there is little room


class Audited(NamedTuple):
    """What the prompts of a benchmark had to take. A terminal shows the sentence alone, and only of what was found."""

    table: Table
    sentence: str
    notes: tuple[Term, ...]
    found: bool


class Traced(NamedTuple):
    """Where one cell comes from; an average has a line for every member."""

    cell: str
    line: str
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """One benchmark, or the published figures beside ours."""

    anchor: str  # unique in the report, safe in a URL
    table: Table
    sentence: str
    origins: tuple[Origin | OriginLine, ...]
    notes: tuple[Term, ...] = ()  # engine and one line
    traces: tuple[Traced, ...] = ()  # where single cells come from
    audit: Audited | None = None


class Scorer(NamedTuple):
    engine: str
    kind: str
    model: str
    machine: str


@dataclass(frozen=True)
class Report:
    title: str
    sections: tuple[Section, ...]
    scorers: tuple[Scorer, ...]
    legend: tuple[Term, ...]
    remarks: tuple[str, ...]
    verdict: str = ""  # the last line on a terminal
