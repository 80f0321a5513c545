"""The frozen records of a comparison, from the statistics to the report."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple

from harness.figures.fidelity import Fidelity, Move, Noise
from harness.figures.statistics import CONFIDENCE, Contrast, PValue
from harness.outcome import Outcome, worst


class Field(NamedTuple):
    """A field that differs between two manifests; the value is None if a manifest does not have the field."""

    name: str
    reference: str | None
    candidate: str | None


class ComparedEngine(NamedTuple):
    """One of the compared engines."""

    name: str  # unique among the compared engines
    kind: str
    model: str
    machine: str
    folder: str


@dataclass(frozen=True)
class Effect:
    """The candidate's nDCG@10 minus the reference's, on one benchmark or averaged over several."""

    name: str
    benchmarks: tuple[str, ...]  # more than one for an average
    queries: int
    reference: float
    candidate: float
    difference: Contrast
    unseen_loss: float  # largest average loss that these queries hide if none of them loses (97.5% confidence)
    p: PValue  # two-sided, sign flips
    wins: int  # queries on which the candidate is better
    ties: int
    losses: int
    standardised: float | None  # Cohen's d_z; None for an average
    outcome: Outcome
    needed: int | None  # number of queries that would decide, if the outcome is INCONCLUSIVE
    note: str = ""
    p_holm: float | None = None  # adjusted over the units; None for a member of a unit and for an average

    @property
    def is_average(self) -> bool:
        return len(self.benchmarks) > 1


@dataclass(frozen=True)
class QualityVerdict:
    """Whether the change cost accuracy, over the whole comparison."""

    outcome: Outcome
    margin: float
    gates: tuple[str, ...]  # names of the effects that have to pass
    regressions: tuple[str, ...]  # names of the effects that remain a regression after Holm's adjustment


@dataclass(frozen=True)
class Loss:
    """A query on which the candidate's nDCG@10 is lower."""

    benchmark: str
    query_id: str
    text: str | None  # None if no config is given to load it from
    reference: float
    candidate: float
    moves: tuple[Move, ...]  # documents in the top 10 of either order that moved

    @property
    def difference(self) -> float:
        return self.candidate - self.reference


@dataclass(frozen=True)
class BenchmarkFidelity:
    """Changes of scores and orders on one benchmark."""

    benchmark: str
    candidate: Fidelity
    repeated: Fidelity | None  # the reference against its repetition: the noise floor
    noise: Noise | None


@dataclass(frozen=True)
class Comparison:
    """One candidate against the reference."""

    reference: ComparedEngine
    candidate: ComparedEngine
    verdict: QualityVerdict
    effects: tuple[Effect, ...]  # averages first, then single benchmarks in the order of the run
    fidelity: tuple[BenchmarkFidelity, ...]
    losses: tuple[Loss, ...]  # largest first
    differing: tuple[Field, ...]
    left_out: tuple[str, ...]  # one phrase per benchmark that only one of the engines has
    notes: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()  # what makes the figures doubtful, one line each


class Standing(NamedTuple):
    """An engine in a matrix."""

    engine: str
    quality: float  # nDCG@10
    letters: str  # engines that share a letter cannot be told apart


class Duel(NamedTuple):
    """Two engines of a matrix, the better engine first."""

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
