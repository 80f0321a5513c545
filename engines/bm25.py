"""BM25 by bm25s: the first stage, and as an engine over its own candidates the baseline row of every table."""

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import ClassVar

from pydantic import Field, field_validator

from engines.analysis import analyzer
from engines.base import BadOptions, Options, Pair, Retriever, ScoringFailed, require


class BM25Options(Options):
    k1: float = Field(default=0.9, ge=0)  # Anserini's defaults
    b: float = Field(default=0.4, ge=0, le=1)
    analysis: str | None = None  # see engines/analysis.py; None: what the collection is said to be

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
    """Scores any pair whose document was in the prepared corpus, whose statistics it uses."""

    options_type: ClassVar[type[Options]] = BM25Options
    options: BM25Options

    def __init__(self, options: BM25Options) -> None:
        super().__init__(options)
        self._bm25s = require("bm25s", extra="bm25")
        self._terms = analyzer(options.analysis or "english")
        self._vocabulary: set[str] | None = None

    def prepare(self, documents: Collection[str], *, analysis: str) -> None:
        self._terms = analyzer(self.options.analysis or analysis)
        terms: list[list[str]] = []
        self._positions: dict[str, int] = {}
        for position, document in enumerate(documents):
            terms.append(self.terms(document))
            self._positions.setdefault(document, position)
        self._size = len(terms)
        self._vocabulary = {term for document in terms for term in document}
        self._index = self._bm25s.BM25(method="lucene", k1=self.options.k1, b=self.options.b)
        if self._vocabulary:  # bm25s divides by the mean length
            self._index.index(terms, show_progress=False)

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        scores: list[float] = []
        for query, group in groupby(pairs, key=lambda pair: pair.query):
            all_scores = self._all_scores(query)
            scores += [float(all_scores[self._position(pair.document)]) for pair in group]
        return scores

    def search(self, query: str, k: int) -> list[int]:
        import numpy as np

        scores = self._all_scores(query)
        best = np.argsort(-scores, kind="stable")[:k]
        return [int(position) for position in best if scores[position] > 0]

    def describe(self) -> Mapping[str, str]:
        settings = self.options
        return {
            "model": f"bm25s {self._bm25s.__version__}, k1={settings.k1}, b={settings.b}",
            "analysis": settings.analysis or "the collection's",
        }

    def terms(self, text: str) -> list[str]:
        """The index terms of a text, in order."""
        return self._terms(text)

    def _all_scores(self, query: str):  # type: ignore[no-untyped-def]  # numpy stays out of the import
        import numpy as np

        if self._vocabulary is None:
            raise ScoringFailed("BM25 was not shown a corpus: call prepare first")
        terms = [term for term in self.terms(query) if term in self._vocabulary]
        return self._index.get_scores(terms) if terms else np.zeros(self._size)  # bm25s fails on a query without terms

    def _position(self, document: str) -> int:
        try:
            return self._positions[document]
        except KeyError:
            raise ScoringFailed(f"document {document[:60]!r} was not in the corpus BM25 was prepared with") from None
