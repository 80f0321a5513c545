"""A deterministic engine for tests and dry runs: it can be slow, fail, return NaN, tie and disagree on request.

Without options a pair's score is the share of the query's words that the document holds, plus a small part
decided by a hash, so that orders are stable and almost free of ties.
"""

import hashlib
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar

from engines.base import Engine, Options, Pair, ScoringFailed


class FakeOptions(Options):
    delay_s: float = 0.0  # per call
    fail_on: str = ""  # a query that holds this text raises ScoringFailed
    nan_on: str = ""  # a document that holds this text scores NaN
    constant: bool = False  # every score is 0.0, as a broken low-precision head gives
    decimals: int | None = None  # round the scores: fewer decimals, more ties
    noise: float = 0.0  # standard deviation of a disagreement with the engine of noise 0
    seed: int = 0


class Fake(Engine):
    options_type: ClassVar[type[Options]] = FakeOptions
    options: FakeOptions

    def __init__(self, options: FakeOptions) -> None:
        super().__init__(options)
        self._counts: Counter[str] = Counter()

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        if self.options.delay_s:
            time.sleep(self.options.delay_s)
        return [self._score(pair) for pair in pairs]

    def describe(self) -> Mapping[str, str]:
        return {"model": "word overlap"}

    def counts(self) -> Mapping[str, int]:
        return dict(self._counts)

    def _score(self, pair: Pair) -> float:
        options = self.options
        if options.fail_on and options.fail_on in pair.query:
            raise ScoringFailed(f"query {pair.query!r} holds {options.fail_on!r}, which this engine fails on")
        if options.nan_on and options.nan_on in pair.document:
            return math.nan
        if options.constant:
            return 0.0
        self._counts["tokens"] += len(pair.query.split()) + len(pair.document.split())
        asked = set(pair.query.lower().split())
        overlap = len(asked & set(pair.document.lower().split())) / max(len(asked), 1)
        score = overlap + 0.01 * self._uniform(pair, "order") + options.noise * self._normal(pair)
        return score if options.decimals is None else round(score, options.decimals)

    def _normal(self, pair: Pair) -> float:
        first, second = self._uniform(pair, "radius"), self._uniform(pair, "angle")
        return math.sqrt(-2 * math.log(1 - first)) * math.cos(2 * math.pi * second)  # Box and Muller, 1958

    def _uniform(self, pair: Pair, purpose: str) -> float:
        text = "\0".join([str(self.options.seed), purpose, pair.query, pair.document])
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64
