"""BM25 by bm25s: the first stage of a run, and as an engine the baseline row of every table."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from engines.base import (
    BadOptions,
    Description,
    Options,
    Retriever,
    ScoringFailed,
    by_query,
    require,
    require_installed,
)
from engines.bm25.analysis import analyzer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engines.bm25.index import Index


class BM25Options(Options):
    k1: float = Field(default=0.9, ge=0)  # Anserini's defaults
    b: float = Field(default=0.4, ge=0, le=1)
    analysis: str | None = None  # a name in engines/bm25/analysis.py; None: the benchmark's

    @field_validator("analysis")
    @classmethod
    def _is_known(cls, analysis: str | None) -> str | None:
        try:
            if analysis is not None:
                analyzer(analysis)
        except BadOptions as error:
            raise ValueError(str(error)) from None
        return analysis


class BM25(Retriever):
    """Scores pairs whose documents were in the prepared corpus, by the statistics of that corpus."""

    options_type: ClassVar[type[Options]] = BM25Options
    options: BM25Options

    @classmethod
    def preflight(cls, options: BM25Options) -> Sequence[str]:
        require_installed("bm25s", "Stemmer", extra="bm25")
        return ()

    def __init__(self, options: BM25Options) -> None:
        super().__init__(options)
        self._bm25s = require("bm25s", extra="bm25")
        self._terms = analyzer(options.analysis or "english")
        self._index: Index | None = None

    def prepare(self, documents: Collection[str], *, analysis: str) -> None:
        from engines.bm25.index import IndexSettings, open_index

        name = self.options.analysis or analysis
        self._terms = analyzer(name)
        self.close()
        self._index = open_index(documents, IndexSettings(name, self.options.k1, self.options.b))

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        scores: list[float] = []
        for query, documents in by_query(pairs):
            all_scores = self._all_scores(query)
            scores += all_scores[self._positions(documents)].tolist()
        return scores

    def search(self, query: str, k: int) -> list[int]:
        import numpy as np

        scores = self._all_scores(query)
        positions = np.flatnonzero(scores)
        if k < len(positions):  # only documents that can be among the best are sorted
            positions = positions[scores[positions] >= np.partition(scores[positions], -k)[-k]]
        best = positions[np.argsort(-scores[positions], kind="stable")][:k]
        return [int(position) for position in best]

    def close(self) -> None:
        self._index = None  # closes its memory maps

    def describe(self) -> Description:
        settings = self.options
        return Description(
            model=f"bm25s {self._bm25s.__version__}, k1={settings.k1}, b={settings.b}",
            details={"analysis": settings.analysis or "the collection's"},
        )

    def terms(self, text: str) -> list[str]:
        """The index terms of a text, in order."""
        return self._terms(text)

    def _all_scores(self, query: str) -> "NDArray[np.float32]":
        return self._prepared().scores(self.terms(query))

    def _positions(self, documents: Sequence[str]) -> "NDArray[np.int64]":
        positions = self._prepared().positions(documents)
        for document in (document for document, position in zip(documents, positions, strict=True) if position < 0):
            raise ScoringFailed(f"document {document[:60]!r} was not in the corpus BM25 was prepared with")
        return positions

    def _prepared(self) -> "Index":
        if self._index is None:
            raise ScoringFailed("BM25 has no corpus: call prepare first")
        return self._index
