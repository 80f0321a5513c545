"""Odd texts in a benchmark's prompts, per query, and nDCG@10 without the queries that have them.

This module sees texts, counts and values per query. Engines decide what they cut and what a special token is.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from math import fsum
from typing import NamedTuple

from harness.records import Audit, Oddities, Sample

COUNTED_BY_ENGINE = ("special_text", "truncated", "truncated_queries")  # per query; see engines.base.Counts
COUNTED_LATER = ("truncated_queries",)  # left out where it is unknown, as in runs from before 2026-11-28
KINDS = (*COUNTED_BY_ENGINE, *Oddities._fields)
NOT_COUNTED = "this engine does not count it"
NOT_EXAMINED = "the candidates were not examined: repeat `crispbench run`, which examines them and scores nothing again"
NO_QUALITY = "the run is invalid or has scored nothing"
UNTOUCHED = "no query has any"
LEAST = 2  # fewest queries for a mean

# Reading a text by its id from a corpus on disk takes 25 times as long as reading the next one (benchmarks/stored.py).
SCAN = 25
DIGEST_BYTES = 16


class Groups(NamedTuple):
    """Empty documents, and documents that share their text with another document."""

    empty: frozenset[str]
    first: Mapping[str, str]  # doc_id -> the first document with the same text, if there are several


def oddities(documents: Mapping[str, str], lists: Mapping[str, Sequence[str]]) -> dict[str, Oddities]:
    """Count the odd texts among each query's candidates.

    Every document is read once and 16 bytes per text are kept, so a corpus on disk may be larger than memory.
    """
    groups = group(_texts(documents, {doc_id for docs in lists.values() for doc_id in docs}))
    return {query_id: _oddities_of(docs, groups) for query_id, docs in lists.items()}


def group(texts: Iterable[tuple[str, str]]) -> Groups:
    """Group documents by their text. A text of white space alone is empty; empty documents are not duplicates."""
    seen: dict[bytes, str] = {}
    first: dict[str, str] = {}
    empty = set()
    for doc_id, text in texts:
        if not text or text.isspace():
            empty.add(doc_id)
            continue
        digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=DIGEST_BYTES).digest()
        earlier = seen.setdefault(digest, doc_id)
        if earlier != doc_id:
            first[doc_id] = first[earlier] = earlier
    return Groups(frozenset(empty), first)


def audit(
    query_ids: Collection[str],
    per_query: Mapping[str, float],
    samples: Sequence[Sample],
    odd: Mapping[str, Oddities] | None,
) -> dict[str, Audit]:
    """For each kind: its texts, the queries that have them, and mean nDCG@10 over the remaining queries.

    `per_query` holds nDCG@10 of every judged query; it is empty if the run is invalid. Queries that have no scores yet
    have no engine counts and count 0. The mean has no interval: the queries are chosen by their content, not at random,
    so the figure says nothing about other queries.
    """
    values = per_query if samples else {}
    entries = {kind: _entry(query_ids, values, *_counts(kind, samples, odd)) for kind in KINDS}
    return {kind: entry for kind, entry in entries.items() if kind not in COUNTED_LATER or entry.texts is not None}


def _texts(documents: Mapping[str, str], wanted: Collection[str]) -> Iterator[tuple[str, str]]:
    if SCAN * len(wanted) < len(documents):
        return ((doc_id, documents[doc_id]) for doc_id in wanted)
    return ((doc_id, text) for doc_id, text in documents.items() if doc_id in wanted)


def _oddities_of(docs: Sequence[str], groups: Groups) -> Oddities:
    empty = sum(map(groups.empty.__contains__, docs)) if groups.empty else 0
    sharing = [groups.first[doc_id] for doc_id in docs if doc_id in groups.first]
    duplicate = sum(size for size in Counter(sharing).values() if size > 1) if sharing else 0
    return Oddities(empty, duplicate, len(sharing))


def _counts(
    kind: str, samples: Sequence[Sample], odd: Mapping[str, Oddities] | None
) -> tuple[dict[str, int] | None, str]:
    """Texts of this kind per query that has any, and ""; None and the reason if they are unknown."""
    if kind not in COUNTED_BY_ENGINE:
        if odd is None:
            return None, NOT_EXAMINED
        index = Oddities._fields.index(kind)
        return {query_id: texts[index] for query_id, texts in odd.items() if texts[index]}, ""
    scored = [sample for sample in samples if sample.pairs]
    counts = {sample.query_id: _count(kind, sample) for sample in scored}
    reported = {query_id: count for query_id, count in counts.items() if count is not None}
    if not scored or len(reported) < len(counts):
        return None, NOT_COUNTED
    return {query_id: count for query_id, count in reported.items() if count}, ""


def _count(kind: str, sample: Sample) -> int | None:
    counts = sample.counts
    known = {
        "special_text": counts.special_text,
        "truncated": counts.truncated,
        "truncated_queries": counts.truncated_queries,
    }
    return known[kind]


def _entry(
    query_ids: Collection[str], per_query: Mapping[str, float], counts: Mapping[str, int] | None, reason: str
) -> Audit:
    if counts is None:
        return Audit(None, None, None, None, None, reason)
    touched = [query_id for query_id in query_ids if query_id in counts]
    texts, remaining = sum(counts[query_id] for query_id in touched), len(query_ids) - len(touched)
    reason = _unknown(per_query, len(touched), remaining)
    if reason:
        return Audit(texts, len(touched), remaining, None, None, reason)
    # fsum is exact, so the order of the queries does not matter
    without = fsum(value for query_id, value in per_query.items() if query_id not in counts) / remaining
    return Audit(texts, len(touched), remaining, without, without - fsum(per_query.values()) / len(per_query), "")


def _unknown(per_query: Mapping[str, float], touched: int, remaining: int) -> str:
    """The reason why nDCG@10 without these queries is unknown; empty if it is known."""
    if not per_query:
        return NO_QUALITY
    if not touched:
        return UNTOUCHED
    return "" if remaining >= LEAST else f"too few queries are left ({remaining})"
