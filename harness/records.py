"""The frozen records that carry everything between the stages. A leaf: it imports the other records only."""

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
    """Queries, documents and judgements, with the rules that this set is evaluated by.

    The queries are exactly those that the qrels judge. `documents` holds title and text as one
    string, `(title + " " + text).strip()`, as BEIR and mteb join them.
    """

    name: str
    revision: str  # changes whenever a query, a document or a judgement changes
    queries: Mapping[str, str]  # query_id -> text
    documents: Mapping[str, str]  # doc_id -> text
    qrels: Qrels
    split: str = "test"
    analysis: str = "english"  # how a lexical first stage cuts text into terms; see engines/bm25/analysis.py
    remove_self: bool = False  # drop the document whose id is the query's, before the cut at k (ArguAna)
    warnings: tuple[str, ...] = ()  # what was odd in the data, one line each
    candidates: Mapping[str, Sequence[str]] | None = None  # query_id -> doc_ids that come with the data, best first


@dataclass(frozen=True)
class Candidates:
    """The first stage's answer: for each query the documents to rerank, best first."""

    source: str  # bm25, run, native, dense
    k: int
    parameters: Mapping[str, Any]
    lists: Mapping[str, tuple[str, ...]]  # query_id -> doc_ids; empty where the first stage found none
    warnings: tuple[str, ...] = ()  # what was odd in it, one line each

    @property
    def sha256(self) -> str:
        """Hash of the lists: equal hashes mean equal documents in equal order."""
        lines = (json.dumps([query_id, *docs]) + "\n" for query_id, docs in sorted(self.lists.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


class Score(NamedTuple):
    doc_id: str
    rank: int  # the first stage's, from 1
    value: float


@dataclass(frozen=True)
class Sample:
    """One query's scoring as the clock saw it."""

    query_id: str
    service_s: float  # wall clock around the one call that scored the query's candidates
    pairs: int
    warmup: bool  # the first query after an engine starts; kept, but outside percentiles
    counts: Counts = field(default_factory=Counts)  # what the engine counted meanwhile


@dataclass(frozen=True)
class Failure:
    """A query whose candidates have no score, and why. It counts 0 and makes the run incomplete."""

    query_id: str
    error: str


class Measurement(NamedTuple):
    """A mean over queries with its 95% bootstrap interval; `lo` and `hi` are None for one query."""

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
    """How far an engine's scores are from those of the same model and template in another precision."""

    reference: str  # the engine of that precision
    difference: Difference  # nDCG@10 minus the reference's
    queries: int  # that have candidates
    top10: int  # of these, with other documents among the first ten
    mean: float  # absolute drift of a pair's score
    maximum: float


class Oddities(NamedTuple):
    """How many of one query's candidates are odd in their text, whichever engine scores them."""

    empty: int  # no text, or white space alone
    duplicate: int  # another candidate of the query has the same text under another id
    shared: int  # a candidate of any query of the benchmark has it


class Audit(NamedTuple):
    """What one kind of odd text touched on a benchmark, and nDCG@10 without the queries that it touched."""

    texts: int | None  # documents, each once per query; special-token strings are looked for in queries as well
    queries: int | None  # that have at least one
    left: int | None  # the other judged queries
    without: float | None  # mean nDCG@10 over these
    difference: float | None  # `without` minus the mean over all
    reason: str  # of what is None


class Percentile(NamedTuple):
    """A latency percentile in seconds; `value` is None where there are too few samples to know."""

    value: float | None
    samples: int
    needed: int  # the number of samples from which on it is shown


Completeness = Literal["complete", "incomplete", "invalid"]


@dataclass(frozen=True)
class Row:
    """One engine on one benchmark: what every table, plot and page of a report is made of."""

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
    candidates: CandidatesRecord | None  # None: an engine that never started
    p50: Percentile
    p90: Percentile
    pairs_per_s: float | None
    service_s: Sequence[float]  # samples without warm-up, in order of scoring
    against_baseline: Difference | None  # nDCG@10 minus that of the table's first engine on the same queries
    audit: Mapping[str, Audit] = field(default_factory=dict)  # "special_text", "truncated", "empty", ... -> ...
    shift: PrecisionShift | None = None  # where an earlier engine of the table differs in nothing but the precision
    model: str = ""  # one line from the engine's description
    description: Description = field(default_factory=Description)
    options: Mapping[str, Any] = field(default_factory=dict)  # the engine's, as the config has them
    folder: str = ""  # RUN/ENGINE, where its raw results are
    revision: str = ""  # of the benchmark
    machine: str = ""  # what it was measured on, in one line
    missing: tuple[str, ...] = ()  # ids of the queries that have no scores
    notes: tuple[str, ...] = ()  # failures, warnings: one line each
