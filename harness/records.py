"""The frozen records that the stages pass to each other. This module imports only other records."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from engines.base import Counts, Description
from harness.manifest import CandidatesRecord

Qrels = Mapping[str, Mapping[str, int]]  # query_id -> doc_id -> grade; a grade of 0 is judged not relevant


@dataclass(frozen=True)
class Benchmark:
    """Queries, documents and judgements, and the rules by which they are evaluated.

    The queries are exactly those that have judgements. A document is its title and text as one string,
    `(title + " " + text).strip()`, as BEIR and mteb join them.
    """

    name: str
    revision: str  # changes whenever a query, a document or a judgement changes
    queries: Mapping[str, str]  # query_id -> text
    documents: Mapping[str, str]  # doc_id -> text
    qrels: Qrels
    split: str = "test"
    analysis: str = "english"  # how a lexical first stage splits text into terms; see engines/bm25/analysis.py
    remove_self: bool = False  # drop the document that has the query's id, before the cut at k (ArguAna)
    warnings: tuple[str, ...] = ()  # oddities of the data, one line each
    alarms: tuple[str, ...] = ()  # oddities that make the figures doubtful, which reports show above them
    candidates: Mapping[str, Sequence[str]] | None = None  # query_id -> doc_ids that come with the data, best first
    available: int | None = None  # judged queries that the source has, of which these may be a sample; None: unknown


@dataclass(frozen=True)
class Candidates:
    """The documents to rerank for each query, as the first stage ranks them."""

    source: str  # bm25, run, native, dense
    k: int
    parameters: Mapping[str, Any]
    lists: Mapping[str, tuple[str, ...]]  # query_id -> doc_ids, best first; empty if the first stage found no document
    warnings: tuple[str, ...] = ()  # oddities of the first stage, one line each
    alarms: tuple[str, ...] = ()  # oddities that make the figures doubtful, which reports show above them

    @property
    def without_candidates(self) -> tuple[str, ...]:
        """Ids of the queries for which the first stage found no document. They count 0 for every engine."""
        return tuple(query_id for query_id, doc_ids in self.lists.items() if not doc_ids)

    @property
    def sha256(self) -> str:
        """Hash of the lists: equal hashes mean equal documents in equal order."""
        lines = (json.dumps([query_id, *docs]) + "\n" for query_id, docs in sorted(self.lists.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


class Score(NamedTuple):
    doc_id: str
    rank: int  # rank in the first stage, from 1
    value: float


@dataclass(frozen=True)
class Sample:
    """The time and the counts of scoring one query."""

    query_id: str
    service_s: float  # wall clock around the one call that scored the query's candidates
    pairs: int
    warmup: bool  # the first query after an engine starts; kept, but excluded from percentiles
    counts: Counts = field(default_factory=Counts)  # increase of the engine's counts during the call


@dataclass(frozen=True)
class Failure:
    """A query whose candidates could not be scored, and the error. It counts 0 and makes the run incomplete."""

    query_id: str
    error: str


class Measurement(NamedTuple):
    """A mean over queries with its 95% bootstrap interval; a single query has no interval."""

    value: float
    lo: float | None
    hi: float | None


class Difference(NamedTuple):
    """Paired mean difference over the same queries, with its 95% bootstrap interval."""

    value: float
    lo: float
    hi: float
    queries: int


class PrecisionShift(NamedTuple):
    """The difference between an engine's scores and those of the same model and template in another precision."""

    reference: str  # name of the engine with the other precision
    difference: Difference  # nDCG@10 minus the reference's nDCG@10
    queries: int  # queries with candidates
    top10: int  # queries whose top 10 contains different documents
    mean: float  # mean absolute drift of a pair's score
    maximum: float  # largest absolute drift of a pair's score


class Oddities(NamedTuple):
    """Numbers of candidates of one query whose text is odd. They do not depend on the engine."""

    empty: int  # candidates without text, or with white space alone
    duplicate: int  # candidates with the text of another candidate of the query
    shared: int  # candidates with the text of another candidate of any query of the benchmark


class Audit(NamedTuple):
    """The texts and queries of a benchmark with one kind of oddity, and nDCG@10 without these queries."""

    texts: int | None  # odd documents, counted once per query, and odd queries if special-token strings are counted
    queries: int | None  # queries with at least one such text
    remaining: int | None  # judged queries without such a text
    without: float | None  # mean nDCG@10 over the queries without such a text
    difference: float | None  # `without` minus the mean over all queries
    reason: str  # reason for the fields that are None


class Percentile(NamedTuple):
    """A latency percentile in seconds; `value` is None if there are too few samples for it."""

    value: float | None
    samples: int
    needed: int  # smallest number of samples for which the value is shown


Completeness = Literal["complete", "incomplete", "invalid"]


@dataclass(frozen=True)
class Row:
    """The results of one engine on one benchmark, from which every table, plot and page of a report is made."""

    engine: str
    kind: str
    benchmark: str
    verdict: Completeness
    measures: Mapping[str, Measurement]  # "nDCG@10" -> ...; empty when invalid
    per_query: Mapping[str, float]  # query_id -> nDCG@10
    queries: int
    pairs: int
    coverage: float  # share of the queries that were scored
    tie_rate: float
    truncated: int  # documents cut to fit
    candidates: CandidatesRecord | None  # None: the engine never started
    p50: Percentile
    p90: Percentile
    pairs_per_s: float | None
    service_s: Sequence[float]  # samples without warm-up, in order of scoring
    against_baseline: Difference | None  # nDCG@10 minus nDCG@10 of the table's first engine on the same queries
    truncated_queries: int = 0  # queries cut to fit
    audit: Mapping[str, Audit] = field(default_factory=dict)  # "special_text", "truncated", "empty", ... -> ...
    shift: PrecisionShift | None = None  # from an earlier engine of the table that differs only in its precision
    model: str = ""  # one line from the engine's description
    description: Description = field(default_factory=Description)
    options: Mapping[str, Any] = field(default_factory=dict)  # the engine's options as the config has them
    folder: str = ""  # RUN/ENGINE, which holds the raw results
    revision: str = ""  # the benchmark's revision
    machine: str = ""  # the machine of the measurement in one line
    missing: tuple[str, ...] = ()  # ids of the queries without scores
    without_candidates: tuple[str, ...] = ()  # ids of the queries for which the first stage found no document
    alarms: tuple[str, ...] = ()  # warnings that make the figures doubtful: one line each
    notes: tuple[str, ...] = ()  # failures, warnings: one line each
