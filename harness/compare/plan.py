"""The frozen records of a planned comparison: the queries that a verdict needs, and the margins that suites decide."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from harness.figures.statistics import CONFIDENCE
from harness.outcome import Outcome

Origin = Literal["least", "recorded", "assumed"]


@dataclass(frozen=True)
class PlannedSpread:
    """How much the queries' differences vary, and the queries of one benchmark that this takes."""

    name: str  # of the recorded engine, or the assumption
    origin: Origin
    changed: float | None  # share of the queries whose nDCG@10 differs; None if it is assumed
    deviation: float  # standard deviation of a query's difference
    needed: int


@dataclass(frozen=True)
class PlannedMargin:
    """The smallest margin at which a number of queries decides, for one spread."""

    spread: str
    margin: float
    enough: bool  # whether it is at most the planned one


@dataclass(frozen=True)
class PlannedPool:
    """The queries of a benchmark or of an average."""

    name: str
    benchmarks: int
    queries: int | None  # None if a size is not known before the benchmark is loaded
    effective: float | None  # number of queries of one benchmark as which an average counts
    margins: tuple[PlannedMargin, ...]
    single: Mapping[str, tuple[str, ...]]  # spread -> benchmarks of the average that have enough queries by themselves


@dataclass(frozen=True)
class ComparisonPlan:
    """The plan of a comparison."""

    reference: str
    margin: float
    power: float
    least: int  # fewest queries that can pass at this margin, whatever they show
    spreads: tuple[PlannedSpread, ...]  # smallest first
    pools: tuple[PlannedPool, ...]
    notes: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        return Outcome.PASS

    def document(self) -> dict[str, Any]:
        head = {"format": 1, "outcome": self.outcome, "confidence": CONFIDENCE}
        return head | asdict(self)
