"""One of our engines as the model of beir's reranking: `Rerank(BeirModel(engine)).rerank(corpus, queries, ...)`."""

from collections.abc import Sequence
from itertools import groupby

from engines.base import BadOptions, Engine, Pair
from harness.run.loop import checked


class BeirModel:
    """A model whose `predict` takes the pairs of all queries at once; the engine gets those of one query per call.

    beir joins title and text itself, and fails on a title that is null. The caller closes the engine.
    """

    def __init__(self, engine: Engine) -> None:
        """Raises BadOptions for an engine with random weights."""
        if engine.options.speed_only:
            raise BadOptions("the engine has random weights, whose scores mean nothing: use `crispbench latency`")
        self._engine = engine

    def predict(self, sentences: Sequence[Sequence[str]], batch_size: int = 0) -> list[float]:
        """One score per pair, in their order; the engine decides the size of a batch. Raises ScoringFailed."""
        pairs = [Pair(query, document) for query, document in sentences]
        if self._engine.prepares != "nothing":
            self._engine.prepare(dict.fromkeys(pair.document for pair in pairs), analysis="english")
        scores: list[float] = []
        for _, group in groupby(pairs, key=lambda pair: pair.query):
            same = list(group)
            scores += checked(self._engine.score(same), same)
        return scores
