"""The frozen records of a comparison, from the statistics to the report. A leaf: imports `records` and `statistics`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, NamedTuple

from harness.statistics import CONFIDENCE, Contrast, PValue

Outcome = Literal["pass", "regression", "inconclusive"]


class Field(NamedTuple):
    """A field of the manifests that differs; None where one does not have it."""

    name: str
    reference: str | None
    candidate: str | None


class Engine(NamedTuple):
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
class Verdict:
    """Whether the change cost accuracy, over everything compared."""

    outcome: Outcome
    margin: float
    gates: tuple[str, ...]  # the effects that have to pass
    regressions: tuple[str, ...]  # the effects that are a regression also after Holm's adjustment


class Drift(NamedTuple):
    """Candidate's score minus the reference's, over all pairs, in units of the score."""

    mean_absolute: float
    p99: float  # of the absolute drift
    maximum: float  # of the absolute drift
    bias: float  # mean of the signed drift
    query_id: str  # of the maximum
    doc_id: str


class Correlation(NamedTuple):
    """Of the two orders of a query; None where no query has one."""

    mean: float | None
    lowest: float | None
    undefined: int  # queries with fewer than two documents, or with equal scores only


class Scale(NamedTuple):
    """How well one engine's scores keep documents apart."""

    tie_rate: float  # share of the pairs that another pair of the query ties with
    saturation: float  # share of the pairs that have, with others, the highest or lowest score of the benchmark


class Changes(NamedTuple):
    """Queries whose order changed, by where it matters; they add up to all that changed."""

    first_relevant: int  # the first relevant document has another rank
    above: int  # only documents above it, or above and below, changed places
    below: int  # it and everything above it kept their places
    without: int  # no candidate is relevant


@dataclass(frozen=True)
class Fidelity:
    """How far the candidate's scores and orders are from the reference's, whatever the judgements say."""

    queries: int  # those that have candidates
    pairs: int
    drift: Drift | None  # None: the two engines' scores are not on one scale
    tau: Correlation  # Kendall's tau-b of the scores
    overlap: Correlation  # rank-biased overlap, p = 0.9
    top1: int  # queries whose first document is another one
    top10: int  # queries whose first ten documents are other ones
    top10_order: int  # queries whose first ten documents are others or in another order
    changes: Changes
    reference: Scale
    candidate: Scale
    per_query: Mapping[str, float]  # mean absolute drift, or 1 - RBO where the scores are not on one scale


class Noise(NamedTuple):
    """The candidate's distance from the reference beside that of the reference from its own repetition."""

    candidate: float  # mean over queries of the mean absolute drift, or of 1 - RBO
    repeated: float
    lo: float | None  # 95% interval of the paired difference, candidate - repeated; None for one query
    hi: float | None

    @property
    def exceeded(self) -> bool:
        return self.lo is not None and self.lo > 0


class Move(NamedTuple):
    """A document that changed its place, on both sides."""

    doc_id: str
    grade: int | None  # None: not judged
    rank_reference: int
    rank_candidate: int
    score_reference: float
    score_candidate: float


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

    reference: Engine
    candidate: Engine
    verdict: Verdict
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
class Contest:
    """All that `compare` found: each candidate against the reference and, with several candidates, all pairs."""

    comparisons: tuple[Comparison, ...]
    matrices: tuple[Matrix, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """The worst of the candidates'."""
        found = {comparison.verdict.outcome for comparison in self.comparisons}
        order: tuple[Outcome, ...] = ("regression", "inconclusive", "pass")
        return next(outcome for outcome in order if outcome in found)

    def document(self) -> dict[str, Any]:
        """The content of compare.json, which docs/compare.schema.json describes."""
        found: dict[str, Any] = _plain(self)
        return {"format": 1, "outcome": self.outcome, "confidence": CONFIDENCE, **found}


def _plain(value: Any) -> Any:
    """A record as JSON data; what is kept per query stays in the stores."""
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value) if each.name != "per_query"}
    if hasattr(value, "_asdict"):  # a NamedTuple
        return {name: _plain(item) for name, item in value._asdict().items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
