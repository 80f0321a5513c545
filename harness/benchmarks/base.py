"""The parts that all sources of benchmarks share: the contract, the error, the seeded sample and the content hash."""

import hashlib
import json
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Self

from pydantic import Field

import engines.base
from engines.base import CrispbenchError, EngineUnavailable, Options, read_options
from harness.records import Benchmark, Qrels

SHUFFLED = 277  # ids that are drawn by a shuffle; more are drawn one by one, and again if one was drawn before
# Characters that no id may hold: pytrec_eval is written in C, where a NUL ends an id and equal ids end the process.
NO_ID = re.compile("[\0\ud800-\udfff]")


class BenchmarkError(CrispbenchError):
    """A benchmark cannot be used. One line names file and line, the value, what was expected and the next step."""


class BenchmarkUnavailable(BenchmarkError):
    """A benchmark cannot be loaded now and here: a package, a server or its own code failed. Others can be used."""


class BenchmarkSource(Options, ABC):
    """The origin of a benchmark. Its fields are the options that a config may set in addition to `source`."""

    queries: int | None = Field(default=None, gt=0)  # size of a reproducible sample; None: all queries

    def preflight(self) -> Sequence[str]:
        """Look for the data in seconds, without reading it.

        A run calls this for all of its benchmarks before the first one is loaded. Returns notes that a reader should
        see, one line each. Raises BenchmarkError for data that does not exist or a package that is missing.
        """
        return ()

    @abstractmethod
    def load(self) -> Benchmark:
        """Read the benchmark. Raises BenchmarkError; oddities that do not stop a run become the record's warnings."""

    def sampled(self, queries: int) -> Self:
        """The same source with a sample of this many queries. Raises BadOptions for a number below 1."""
        return read_options(type(self), {**dict(self), "queries": queries}, "benchmark", self.config_folder)


def require(package: str, *, extra: str) -> Any:
    """Import an optional package, or raise BenchmarkUnavailable that names the extra to install."""
    try:
        return engines.base.require(package, extra=extra)
    except EngineUnavailable as error:
        raise BenchmarkUnavailable(str(error)) from None


def sample(query_ids: Iterable[str], size: int | None) -> set[str]:
    """`size` of the ids, drawn with a fixed seed; all ids if there are fewer. The order of the ids does not matter.

    A larger sample has every id of a smaller one, so that a run with a higher limit keeps what it has scored.
    """
    ordered = sorted(query_ids)
    return set(ordered) if size is None or size >= len(ordered) else set(islice(_drawn(ordered), size))


def _drawn(ids: Sequence[str]) -> Iterator[str]:
    """All ids in random order, the first ones as `random.sample` draws them.

    It has two algorithms and takes one of them by both numbers, so that its samples are not nested. Here the number of
    ids alone decides. Up to SHUFFLED ids and for at least 22 of them, or above for up to 85, samples are equal to its.
    """
    draw = random.Random(0)
    if len(ids) <= SHUFFLED:
        yield from draw.sample(ids, len(ids))
        return
    seen = set[int]()
    while len(seen) < len(ids):
        index = draw.randrange(len(ids))
        if index not in seen:
            seen.add(index)
            yield ids[index]


def content_hash(queries: Mapping[str, str], documents: Mapping[str, str], qrels: Qrels) -> str:
    """16 hex digits that change with any query, document or judgement, and with nothing else.

    Ids are sorted, so the order of lines, the line endings and the compression of files make no difference.
    """
    digest = hashlib.sha256()
    for part in (queries, documents):
        for key in sorted(part):
            digest.update(json.dumps([key, part[key]]).encode() + b"\n")
        digest.update(b"\n")
    for query_id in sorted(qrels):
        digest.update(json.dumps([query_id, sorted(qrels[query_id].items())]).encode() + b"\n")
    return digest.hexdigest()[:16]


IDS_SHOWN = 5  # ids that a warning names


def count_warning(ids: Sequence[str], what: str) -> tuple[str, ...]:
    """One line with the count and the first ids; nothing for an empty list."""
    return (f"{what}: {len(ids):,} ({shown(ids)})",) if ids else ()


def shown(ids: Sequence[str]) -> str:
    """The first ids, each up to 60 characters, as messages list them."""
    return ", ".join(identifier[:60] for identifier in ids[:IDS_SHOWN]) + (", ..." if len(ids) > IDS_SHOWN else "")


def oddities(queries: Mapping[str, str], documents: Mapping[str, str], qrels: Qrels) -> tuple[str, ...]:
    """Problems of the data that do not stop a run but that a reader should know about, one line each."""
    unknown = sorted({doc_id for grades in qrels.values() for doc_id in grades if doc_id not in documents})
    unanswered = [query_id for query_id, grades in qrels.items() if max(grades.values()) <= 0]
    return (
        *count_warning(unknown, "judged documents that are not in the corpus and can never be found"),
        *count_warning(unanswered, "queries without a relevant document, which can only score 0"),
        *count_warning([key for key, text in documents.items() if not text], "empty documents"),
        *count_warning([key for key, text in queries.items() if not text.strip()], "empty queries"),
    )


# Share of the relevant documents, or of the queries, whose absence is shown above all figures: it caps every measure
# by about a tenth, which is more than most rerankers differ.
LARGE_SHARE = 0.1


def require_same_collection(source: str, qrels: Qrels, documents: Mapping[str, str]) -> None:
    """Raise BenchmarkError if no relevant document is in the corpus. `qrels` are those of all queries, not a sample."""
    relevant = [doc_id for grades in qrels.values() for doc_id, grade in grades.items() if grade > 0]
    if not any(doc_id in documents for doc_id in relevant):
        raise BenchmarkError(
            f"{source}: none of the {len(relevant):,} relevant judgements is for a document of the corpus (the first "
            f"is for {next(iter(relevant), 'none')[:60]!r}, the first document is "
            f"{next(iter(documents), 'none')[:60]!r}): judgements and corpus are of different collections"
        )


def absent_documents(documents: Mapping[str, str], qrels: Qrels) -> tuple[str, ...]:
    """One line if a large share of the relevant documents is not in the corpus, for every report to show first."""
    relevant = [doc_id for grades in qrels.values() for doc_id, grade in grades.items() if grade > 0]
    lost = [doc_id for doc_id in relevant if doc_id not in documents]
    if len(lost) < LARGE_SHARE * len(relevant) or not lost:
        return ()
    return (
        f"{len(lost):,} of {len(relevant):,} relevant judgements ({len(lost) / len(relevant):.0%}) are for documents "
        "that are not in the corpus and can never be found: check that the judgements belong to this corpus",
    )
