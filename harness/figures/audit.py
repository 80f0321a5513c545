"""What odd texts a benchmark's prompts had to take, per query, and what nDCG@10 is without the queries that had them.

It knows texts, counts and values per query. How an engine cuts a document or finds a special token it does not know.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from math import fsum
from typing import NamedTuple

from harness.records import Audit, Oddities, Sample

OF_THE_ENGINE = ("special_text", "truncated")  # counted per query while it scores; see Engine.counts
KINDS = (*OF_THE_ENGINE, *Oddities._fields)
NOT_COUNTED = "this engine does not count it"
NOT_EXAMINED = "the candidates were not examined: the same `crispbench run` once more does that and scores nothing anew"
NO_QUALITY = "the run is invalid or has scored nothing"
UNTOUCHED = "no query has any"
LEAST = 2  # queries of a mean

# Of a corpus on disk, one text by its id takes 25 times as long as one of all in order (benchmarks/stored.py).
SCAN = 25
DIGEST_BYTES = 16


class Groups(NamedTuple):
    """Which documents are empty, and which have the text of another one."""

    empty: frozenset[str]
    first: Mapping[str, str]  # doc_id -> the first document with its text, of texts that several have


def oddities(documents: Mapping[str, str], lists: Mapping[str, Sequence[str]]) -> dict[str, Oddities]:
    """What is odd among each query's candidates.

    Each document is read once; 16 bytes of its text are kept, so that a corpus on disk may be larger than memory.
    """
    groups = group(_texts(documents, {doc_id for docs in lists.values() for doc_id in docs}))
    return {query_id: _of_query(docs, groups) for query_id, docs in lists.items()}


def group(texts: Iterable[tuple[str, str]]) -> Groups:
    """Documents by their text. White space alone is empty; what is empty is nobody's duplicate."""
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
    """For each kind how many texts and judged queries it touched, and the mean over the other queries.

    `per_query` has nDCG@10 of every judged query, none if the run is invalid. Of a query that has no scores yet the
    engine's counts are not known and count nothing. There is no interval: queries are left out for what is in them,
    which is no sample, so that nothing could be concluded of other queries.
    """
    values = per_query if samples else {}
    return {kind: _entry(query_ids, values, *_counts(kind, samples, odd)) for kind in KINDS}


def _texts(documents: Mapping[str, str], wanted: Collection[str]) -> Iterator[tuple[str, str]]:
    if SCAN * len(wanted) < len(documents):
        return ((doc_id, documents[doc_id]) for doc_id in wanted)
    return ((doc_id, text) for doc_id, text in documents.items() if doc_id in wanted)


def _of_query(docs: Sequence[str], groups: Groups) -> Oddities:
    empty = sum(map(groups.empty.__contains__, docs)) if groups.empty else 0
    sharing = [groups.first[doc_id] for doc_id in docs if doc_id in groups.first]
    duplicate = sum(size for size in Counter(sharing).values() if size > 1) if sharing else 0
    return Oddities(empty, duplicate, len(sharing))


def _counts(
    kind: str, samples: Sequence[Sample], odd: Mapping[str, Oddities] | None
) -> tuple[dict[str, int] | None, str]:
    """Texts of this kind per query that has any; None and the reason if that is not known."""
    if kind not in OF_THE_ENGINE:
        if odd is None:
            return None, NOT_EXAMINED
        place = Oddities._fields.index(kind)
        return {query_id: found[place] for query_id, found in odd.items() if found[place]}, ""
    asked = [sample for sample in samples if sample.pairs]
    counts = {sample.query_id: _count(kind, sample) for sample in asked}
    known = {query_id: count for query_id, count in counts.items() if count is not None}
    if not asked or len(known) < len(counts):
        return None, NOT_COUNTED
    return {query_id: count for query_id, count in known.items() if count}, ""


def _count(kind: str, sample: Sample) -> int | None:
    return sample.counts.special_text if kind == "special_text" else sample.counts.truncated


def _entry(
    query_ids: Collection[str], per_query: Mapping[str, float], counts: Mapping[str, int] | None, reason: str
) -> Audit:
    if counts is None:
        return Audit(None, None, None, None, None, reason)
    touched = [query_id for query_id in query_ids if query_id in counts]
    texts, left = sum(counts[query_id] for query_id in touched), len(query_ids) - len(touched)
    reason = _unknown(per_query, len(touched), left)
    if reason:
        return Audit(texts, len(touched), left, None, None, reason)
    # exact sums: the order of the queries does not count
    without = fsum(value for query_id, value in per_query.items() if query_id not in counts) / left
    return Audit(texts, len(touched), left, without, without - fsum(per_query.values()) / len(per_query), "")


def _unknown(per_query: Mapping[str, float], touched: int, left: int) -> str:
    """Why nothing can be said of nDCG@10; empty if it can."""
    if not per_query:
        return NO_QUALITY
    if not touched:
        return UNTOUCHED
    return "" if left >= LEAST else f"too few queries are left ({left})"
