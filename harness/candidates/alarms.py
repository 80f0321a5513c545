"""What makes a first stage doubtful: no candidates, none that is judged, an order that is no better than chance."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from ir_measures import nDCG

from harness.benchmarks.base import LARGE_SHARE, shown
from harness.figures.measures import HEADLINE, measure, oracle, random_order
from harness.records import Benchmark, Candidates

NEAR = 0.1  # largest share of the first stage's own nDCG@10 by which a doubtful order exceeds chance
OF_ROOM = 0.25  # and largest share of the room between chance and the best order
LEAST_ROOM = 0.05  # nDCG@10; lists with less room are too short to show an order
FOUND = 0.5  # nDCG@10 of the best order; short lists that reach it and leave no room were not found by chance
FEWEST = 5  # lists of a run file; the order of fewer says little
TEXTS_READ = 200  # queries and documents whose script is looked at
LETTERS_READ = 2_000  # of each


def alarms(benchmark: Benchmark, candidates: Candidates) -> tuple[str, ...]:
    """One line for each reason to doubt the first stage, which reports and the terminal show above all figures."""
    doubts = tuple(_unjudged(benchmark, candidates)) or _near_chance(benchmark, candidates)
    return (*_without_candidates(candidates), *doubts)


def _without_candidates(candidates: Candidates) -> Iterator[str]:
    empty, queries = candidates.without_candidates, len(candidates.lists)
    if empty and len(empty) >= LARGE_SHARE * queries:
        yield (
            f"{len(empty):,} of {queries:,} queries ({len(empty) / queries:.0%}) have no candidate in the first stage "
            f"({candidates.source}) and count 0 for every engine: {shown(empty)}"
        )


def _unjudged(benchmark: Benchmark, candidates: Candidates) -> Iterator[str]:
    """A run file with ids of another collection. A search of the corpus that finds nothing judged is near chance."""
    lists, judged = candidates.lists, benchmark.qrels
    if candidates.source == "run" and not any(
        doc_id in judged[query_id] for query_id in lists.keys() & judged.keys() for doc_id in lists[query_id]
    ):
        yield (
            f"none of the {sum(map(len, lists.values())):,} candidates of {len(lists):,} queries in the first stage "
            f"({candidates.source}) is judged, so every engine scores 0: check that the judgements belong to them"
        )


def _near_chance(benchmark: Benchmark, candidates: Candidates) -> Iterator[str]:
    """Native candidates are left out: many reranking tasks list them in no order."""
    if candidates.source == "native" or not _has_an_order(benchmark, candidates):
        return
    values = measure(benchmark.qrels, candidates.lists, [nDCG @ 10])[HEADLINE]
    first = sum(values.values()) / len(values)
    chance = random_order(benchmark.qrels, candidates.lists)
    best = oracle(benchmark.qrels, candidates.lists)
    if best - chance < LEAST_ROOM and best >= FOUND:
        return
    room = max(best - chance, LEAST_ROOM)
    if first - chance <= NEAR * first and first - chance <= OF_ROOM * room:
        yield (
            f"the first stage ({candidates.source}) is near a random order: {HEADLINE} {first:.4f}, in random order "
            f"{chance:.4f}; {_probable_cause(benchmark, candidates)}"
        )


def _has_an_order(benchmark: Benchmark, candidates: Candidates) -> bool:
    """Whether there are lists of several documents. A run file with one document per query has no order to judge."""
    if candidates.k == 1 or len(benchmark.documents) == 1:
        return False
    lengths = [len(doc_ids) for doc_ids in candidates.lists.values() if doc_ids]
    several = sum(length > 1 for length in lengths)
    return candidates.source != "run" or (several >= FEWEST and several > len(lengths) / 2)


def _probable_cause(benchmark: Benchmark, candidates: Candidates) -> str:
    if candidates.source == "run":
        return "check that the run file belongs to this benchmark, and that its best documents come first"
    if candidates.source == "dense":
        return "check the model, its `query_prompt` and its `document_prompt`"
    texts = [*islice(benchmark.queries.values(), TEXTS_READ), *islice(benchmark.documents.values(), TEXTS_READ)]
    script = commonest_script(texts)
    return (
        f"its analysis is {benchmark.analysis!r} and most letters are {script}: set `analysis` of the benchmark to the "
        "language of its text"
    )


def commonest_script(texts: Iterable[str]) -> str:
    """The script of most letters, as Unicode names it: LATIN, CJK, CYRILLIC; `unknown` without any letter."""
    letters = (letter for text in texts for letter in text[:LETTERS_READ] if letter.isalpha())
    scripts = Counter(unicodedata.name(letter, "unknown").split()[0] for letter in letters)
    return max(scripts, key=scripts.__getitem__, default="unknown")
