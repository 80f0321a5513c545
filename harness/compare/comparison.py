"""The frozen records of a comparison, from the statistics to the report."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple

from harness.figures.fidelity import Fidelity, Move, Noise
from harness.figures.statistics import CONFIDENCE, Contrast, PValue
from harness.outcome import Outcome, worst


class Field(NamedTuple):
    """A field of the manifests that differs; None where one does not have it."""

    name: str
    reference: str | None
    candidate: str | None


class ComparedEngine(NamedTuple):
    """One of the compared engines."""

    name: str  # unique among them
    kind: str
    model: str
    machine: str
    folder: str


@dataclass(frozen=True)
class Effect:
    """The candidate's nDCG@10 minus the reference's, on one benchmark or averaged over several."""

    name: str
    benchmarks: tuple[str, ...]  # more than one: an average
    queries: int
    reference: float
    candidate: float
    difference: Contrast
    p: PValue  # two-sided, sign flips
    wins: int  # queries on which the candidate is better
    ties: int
    losses: int
    standardised: float | None  # Cohen's d_z; an average has none
    outcome: Outcome
    needed: int | None  # queries that would decide, where the outcome is inconclusive
    note: str = ""
    p_holm: float | None = None  # adjusted over the units; a member of a unit and an average have none

    @property
    def is_average(self) -> bool:
        return len(self.benchmarks) > 1


@dataclass(frozen=True)
class QualityVerdict:
    """Whether the change cost accuracy, over everything compared."""

    outcome: Outcome
    margin: float
    gates: tuple[str, ...]  # the effects that have to pass
    regressions: tuple[str, ...]  # the effects that are a regression also after Holm's adjustment


@dataclass(frozen=True)
class Loss:
    """A query on which the candidate's nDCG@10 is lower."""

    benchmark: str
    query_id: str
    text: str | None  # None: not recorded, and no config given to load it
    reference: float
    candidate: float
    moves: tuple[Move, ...]  # among the first ten of either order

    @property
    def difference(self) -> float:
        return self.candidate - self.reference


@dataclass(frozen=True)
class BenchmarkFidelity:
    """What the orders and scores say on one benchmark."""

    benchmark: str
    candidate: Fidelity
    repeated: Fidelity | None  # the noise floor: the reference against its repetition
    noise: Noise | None


@dataclass(frozen=True)
class Comparison:
    """One candidate against the reference."""

    reference: ComparedEngine
    candidate: ComparedEngine
    verdict: QualityVerdict
    effects: tuple[Effect, ...]  # averages first, then single benchmarks in the order of the run
    fidelity: tuple[BenchmarkFidelity, ...]
    losses: tuple[Loss, ...]  # the largest first
    differing: tuple[Field, ...]
    left_out: tuple[str, ...]  # benchmarks that only one of the two has, one phrase each
    notes: tuple[str, ...] = ()


class Standing(NamedTuple):
    """An engine in the order of a matrix."""

    engine: str
    quality: float  # nDCG@10
    letters: str  # engines that share a letter cannot be told apart


class Duel(NamedTuple):
    """Two engines of a matrix, the better one first."""

    better: str
    worse: str
    difference: float
    p: float
    p_holm: float  # adjusted over the pairs of the matrix


@dataclass(frozen=True)
class Matrix:
    """All engines on one benchmark or average, best first."""

    name: str
    standings: tuple[Standing, ...]
    duels: tuple[Duel, ...]


@dataclass(frozen=True)
class Comparisons:
    """Each candidate against the reference and, with several candidates, all pairs of engines."""

    comparisons: tuple[Comparison, ...]
    matrices: tuple[Matrix, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """The worst of the candidates' outcomes."""
        return worst(comparison.verdict.outcome for comparison in self.comparisons) or Outcome.PASS

    def document(self) -> dict[str, Any]:
        """The content of compare.json, which docs/compare.schema.json describes."""
        head = {"format": 1, "outcome": self.outcome, "confidence": CONFIDENCE}
        return head | {"comparisons": _plain(self.comparisons), "matrices": _plain(self.matrices)}


def _plain(value: Any) -> Any:
    """A record as JSON data; values per query stay in the stores."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value) if field.name != "per_query"}
    if hasattr(value, "_asdict"):  # a NamedTuple
        return {name: _plain(item) for name, item in value._asdict().items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
