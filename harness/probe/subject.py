"""An engine under examination: its scores of the canaries, all computed once, and its reference."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from engines.base import Engine, EngineFailed, Pair, ScoringFailed
from engines.own_errors import own_errors_as
from harness.probe.canaries import CANARIES, Canary
from harness.run.loop import checked

SHARE_OF_SPREAD = 0.05  # largest tolerance as a share of the score range; the range of a cosine is about 1


class Reference(NamedTuple):
    """Scores of the canaries by a trusted engine."""

    name: str
    scores: Mapping[Pair, float]
    long: Mapping[Pair, float]  # scores of documents longer than the engine's limit
    max_tokens: int | None
    stripped: Mapping[Pair, float] | None  # scores with a prompt without its last newline
    no_stripped: str = ""  # reason why `stripped` is None


@dataclass(frozen=True)
class ProbedEngine:
    """The engine, the terms of its checks, and its scores, which are computed on first use."""

    engine: Engine
    tolerance: float  # largest accepted difference between two scores of a pair, in log-odds
    reference: Reference | None = None
    golden: str | None = None  # published checkpoint that the engine claims to be: base or large
    instructed: bool = False  # the prompt contains an instruction

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        """One finite number per pair. Raises ScoringFailed."""
        with own_errors_as(EngineFailed):
            return checked(self.engine.score(pairs), pairs)

    def score_alone(self, pairs: Iterable[Pair]) -> dict[Pair, float]:
        """One call per pair, so that no score can belong to another pair. Raises ScoringFailed."""
        return {pair: self.score([pair])[0] for pair in pairs}

    @cached_property
    def failures(self) -> dict[Canary, str]:
        """Canaries without scores, and the reason for each."""
        failures = {}
        for canary in CANARIES:
            try:
                self.score(canary.pairs)
            except ScoringFailed as error:
                failures[canary] = str(error)
        return failures

    @cached_property
    def canaries(self) -> list[Canary]:
        """Canaries with scores."""
        return [canary for canary in CANARIES if canary not in self.failures]

    @cached_property
    def pairs(self) -> list[Pair]:
        return [pair for canary in self.canaries for pair in canary.pairs]

    @cached_property
    def together(self) -> dict[Pair, float]:
        """Scores of all pairs in one call."""
        return dict(zip(self.pairs, self.score(self.pairs), strict=True))

    @cached_property
    def alone(self) -> dict[Pair, float]:
        """Scores of all pairs, one call per pair."""
        return self.score_alone(self.pairs)

    @property
    def spread(self) -> float:
        return max(self.together.values()) - min(self.together.values())

    @property
    def limit(self) -> float:
        """The largest accepted difference between two of the engine's own scores of a pair."""
        return min(self.tolerance, SHARE_OF_SPREAD * self.spread)


def max_tokens(engine: Engine) -> int | None:
    """The length in tokens at which the engine cuts a prompt; None if its description gives no limit."""
    return engine.describe().max_tokens
