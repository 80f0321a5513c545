"""A deterministic engine for tests and dry runs: on request it is slow, fails, returns NaN, ties or disagrees.

Without options a pair's score is the share of the query's words that the document holds, plus a small part from a hash,
so that orders are stable and almost free of ties.
"""

import hashlib
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from engines.base import Counts, Description, Engine, Options, ScoringFailed, by_query


class FakeOptions(Options):
    delay_s: float = 0.0  # time of one call
    fail_on: str = ""  # a query that holds this text raises ScoringFailed
    die_on: str = ""  # a query that holds this text kills the process, like a fault in a driver
    nan_on: str = ""  # a document that holds this text scores NaN
    constant: bool = False  # every score is 0.0, like those of a broken low-precision head
    decimals: int | None = None  # round scores: fewer decimals give more ties
    noise: float = 0.0  # standard deviation of the disagreement with an engine without noise
    seed: int = 0


class Fake(Engine):
    options_type: ClassVar[type[Options]] = FakeOptions
    options: FakeOptions

    def __init__(self, options: FakeOptions) -> None:
        super().__init__(options)
        self._counts = Counts()

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        if self.options.delay_s:
            time.sleep(self.options.delay_s)
        return [
            score
            for query, documents in by_query(pairs)  # pairs of one query share its words and hash
            for score in self._scores(query, documents)
        ]

    def describe(self) -> Description:
        return Description(model="word overlap")

    def counts(self) -> Counts:
        return self._counts

    def _scores(self, query: str, documents: Sequence[str]) -> Iterator[float]:
        options = self.options
        if options.fail_on and options.fail_on in query:
            raise ScoringFailed(f"query {query!r} holds {options.fail_on!r}, which this engine fails on")
        if options.die_on and options.die_on in query:
            os.kill(os.getpid(), signal.SIGKILL)
        words = query.lower().split()
        distinct = frozenset(words)
        order, radius, angle = (self._uniform(purpose, query) for purpose in ("order", "radius", "angle"))
        tokens: int | None = None
        for document in documents:
            if options.nan_on and options.nan_on in document:
                yield math.nan
            elif options.constant:
                yield 0.0
            else:
                held = document.lower().split()
                tokens = (tokens or 0) + len(words) + len(held)
                score = len(distinct.intersection(held)) / max(len(distinct), 1) + 0.01 * order(document)
                if options.noise:  # Box and Muller, 1958
                    length = math.sqrt(-2 * math.log(1 - radius(document)))
                    score += options.noise * (length * math.cos(2 * math.pi * angle(document)))
                yield score if options.decimals is None else round(score, options.decimals)
        self._counts += Counts(tokens=tokens)

    def _uniform(self, purpose: str, query: str) -> Callable[[str], float]:
        """A function from a document to a number in [0, 1), the same for the same pair."""
        begun = hashlib.blake2b(_bytes("\0".join([str(self.options.seed), purpose, query, ""])), digest_size=8)

        def draw(document: str) -> float:
            digest = begun.copy()
            digest.update(_bytes(document))
            return int.from_bytes(digest.digest(), "big") / 2**64

        return draw


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
