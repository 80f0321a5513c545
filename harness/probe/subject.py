"""An engine under examination: its scores of the canaries, each asked for once, and what it is compared with."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from engines.base import Engine, Pair, ScoringFailed
from harness.probe.canaries import CANARIES, Canary
from harness.run.loop import checked

SHARE_OF_SPREAD = 0.05  # of the range of the scores, where that is less: a cosine's whole range is about 1


class Reference(NamedTuple):
    """What an engine that is trusted says of the canaries."""

    name: str
    scores: Mapping[Pair, float]
    long: Mapping[Pair, float]  # of documents that run over its limit
    max_tokens: int | None
    stripped: Mapping[Pair, float] | None  # of the prompt without its last newline
    no_stripped: str = ""  # why there are none


@dataclass(frozen=True)
class ProbedEngine:
    engine: Engine
    tolerance: float  # in log-odds: how far two scores of the same pair may lie apart
    reference: Reference | None = None
    golden: str | None = None  # which of the published checkpoints it says it is
    instructed: bool = False  # its prompt holds an instruction

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        """One finite number per pair. Raises ScoringFailed."""
        return checked(self.engine.score(pairs), pairs)

    def score_alone(self, pairs: Iterable[Pair]) -> dict[Pair, float]:
        """One call per pair, so that no score can be given to a wrong one. Raises ScoringFailed."""
        return {pair: self.score([pair])[0] for pair in pairs}

    @cached_property
    def failures(self) -> dict[Canary, str]:
        """Canaries without scores, and why."""
        failures = {}
        for canary in CANARIES:
            try:
                self.score(canary.pairs)
            except ScoringFailed as error:
                failures[canary] = str(error)
        return failures

    @cached_property
    def canaries(self) -> list[Canary]:
        """Those that have scores."""
        return [canary for canary in CANARIES if canary not in self.failures]

    @cached_property
    def pairs(self) -> list[Pair]:
        return [pair for canary in self.canaries for pair in canary.pairs]

    @cached_property
    def together(self) -> dict[Pair, float]:
        """All pairs in one call."""
        return dict(zip(self.pairs, self.score(self.pairs), strict=True))

    @cached_property
    def alone(self) -> dict[Pair, float]:
        return self.score_alone(self.pairs)

    @property
    def spread(self) -> float:
        return max(self.together.values()) - min(self.together.values())

    @property
    def limit(self) -> float:
        """How far two of its own scores of the same pair may lie apart."""
        return min(self.tolerance, SHARE_OF_SPREAD * self.spread)


def max_tokens(engine: Engine) -> int | None:
    """The length at which it cuts a prompt, if it says so."""
    return engine.describe().max_tokens
