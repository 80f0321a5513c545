"""Two benchmarks made from what every Python installation has; nothing is downloaded or kept.

`stdlib-code`: the first paragraph of a docstring finds the body of its function. `stdlib-topics`: a name from the
index of `help()` finds its text. The texts differ between Python versions; the revision says which they are.
"""

import platform
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

from harness.benchmarks.base import BenchmarkError, BenchmarkSource, content_hash, sample
from harness.benchmarks.functions import functions
from harness.records import Benchmark

__all__ = ["StandardLibrary", "collect_code", "collect_topics", "functions"]


class StandardLibrary(BenchmarkSource):
    name: Literal["stdlib-code", "stdlib-topics"]

    def load(self) -> Benchmark:
        is_code = self.name == "stdlib-code"
        collection = collect_code(Path(sysconfig.get_path("stdlib"))) if is_code else collect_topics()
        kept = sample(collection.queries, self.queries)
        queries = {query_id: text for query_id, text in collection.queries.items() if query_id in kept}
        qrels = {query_id: collection.qrels[query_id] for query_id in queries}
        digest = content_hash(queries, collection.documents, qrels)
        return Benchmark(
            name=self.name,
            revision=f"python-{platform.python_version()}+sha256:{digest}",
            queries=queries,
            documents=collection.documents,
            qrels=qrels,
            analysis="code" if is_code else "english",
        )


class Collection(NamedTuple):
    queries: dict[str, str]
    documents: dict[str, str]
    qrels: dict[str, dict[str, int]]


def collect_code(root: Path) -> Collection:
    """Equal bodies are one document, equal queries one query with several answers."""
    collection = Collection({}, {}, {})
    query_ids: dict[str, str] = {}  # text -> id
    doc_ids: dict[str, str] = {}
    uses: Counter[str] = Counter()
    for found in functions(root):
        name = f"{found.path}:{found.name}"
        uses[name] += 1
        place = name if uses[name] == 1 else f"{name}#{uses[name]}"  # properties and overloads share a name
        doc_id = doc_ids.setdefault(found.document, place)
        collection.documents[doc_id] = found.document
        # Never equal to a document's id: tools that drop equal ids would drop the answer.
        query_id = query_ids.setdefault(found.query, f"{place}?")
        collection.queries[query_id] = found.query
        collection.qrels.setdefault(query_id, {})[doc_id] = 1
    if not collection.queries:
        raise BenchmarkError(f"{root}: no documented functions; stdlib-code needs the standard library's .py files")
    return collection


def collect_topics() -> Collection:
    try:
        from harness.benchmarks import topics
    except ImportError as error:
        raise BenchmarkError(
            f"stdlib-topics: this Python has no help texts ({error}); install the full standard library"
        ) from None
    query_ids: dict[str, str] = {}  # text -> id
    collection = Collection({}, dict(topics.texts), {})
    for entry in topics.entries():
        query_id = query_ids.setdefault(entry.query, entry.query_id)
        collection.queries[query_id] = entry.query
        grades = collection.qrels.setdefault(query_id, {})
        for doc_id, grade in entry.grades.items():
            grades[doc_id] = max(grade, grades.get(doc_id, 0))
    return collection
