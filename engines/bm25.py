"""BM25 by bm25s: the first stage, and as an engine over its own candidates the baseline row of every table."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import ClassVar, Literal

from pydantic import Field

from engines.base import BadOptions, Options, Pair, Retriever, ScoringFailed, require

# Lucene's EnglishAnalyzer, as Anserini runs it: words by Unicode rules (an apostrophe or a full stop inside a
# word stays, "3.5" is one word), possessive removed, these 33 stop words, Porter's stemmer.
WORD = re.compile(r"\w+(?:['’.]\w+)*")
POSSESSIVE = re.compile(r"['’][sS]$")
STOP_WORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
    "this to was will with".split()
)
# camelCase, PascalCase, HTTPServer, snake_case: borders inside an identifier; sha256 stays one word
IDENTIFIER_BORDER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_+")


ANALYSES = ("english", "code")


class BM25Options(Options):
    k1: float = Field(default=0.9, ge=0)  # Anserini's defaults
    b: float = Field(default=0.4, ge=0, le=1)
    analysis: Literal["english", "code"] | None = None  # None: what the collection is said to be


class BM25(Retriever):
    """Scores any pair whose document was in the prepared corpus, whose statistics it uses."""

    options_type: ClassVar[type[Options]] = BM25Options
    options: BM25Options

    def __init__(self, options: BM25Options) -> None:
        super().__init__(options)
        self._bm25s = require("bm25s", extra="bm25")
        self._stem = require("Stemmer", extra="bm25").Stemmer("porter").stemWords
        self._analysis = "english"
        self._vocabulary: set[str] | None = None

    def prepare(self, documents: Iterable[str], *, analysis: str) -> None:
        self._analysis = self.options.analysis or analysis
        if self._analysis not in ANALYSES:
            raise BadOptions(f"analysis {self._analysis!r} is not known to BM25; known are {', '.join(ANALYSES)}")
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
        if self._analysis == "code":
            text = IDENTIFIER_BORDER.sub(" ", text)
        words = (POSSESSIVE.sub("", word) for word in WORD.findall(text.lower()))
        return list(self._stem([word for word in words if word not in STOP_WORDS]))

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
