"""Two benchmarks made from the files of this Python installation; nothing is downloaded or kept.

In `stdlib-code`, the query is the first paragraph of a docstring, and the answer is the body of its function. In
`stdlib-topics`, the query is a name from the index of `help()`, and the answer is its text. The texts differ between
versions of Python, so the revision names the version.
"""

import platform
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from harness.benchmarks.base import BenchmarkError, BenchmarkSource, content_hash, sample
from harness.benchmarks.functions import functions
from harness.records import Benchmark

__all__ = ["NAMES", "StandardLibrary", "collect_code", "collect_topics", "functions"]

Name = Literal["stdlib-code", "stdlib-topics"]
NAMES: tuple[Name, ...] = get_args(Name)


class StandardLibrary(BenchmarkSource):
    """A benchmark of this Python installation."""

    name: Name

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
            available=len(collection.queries),
        )


class Collection(NamedTuple):
    """A whole benchmark, before a sample of its queries is taken."""

    queries: dict[str, str]
    documents: dict[str, str]
    qrels: dict[str, dict[str, int]]


def collect_code(root: Path) -> Collection:
    """Functions below `root`. Equal bodies are one document; equal queries are one query with several answers.

    Raises BenchmarkError if no function has documentation.
    """
    collection = Collection({}, {}, {})
    query_ids: dict[str, str] = {}  # text -> id
    doc_ids: dict[str, str] = {}
    uses: Counter[str] = Counter()
    for function in functions(root):
        name = f"{function.path}:{function.name}"
        uses[name] += 1
        unique = name if uses[name] == 1 else f"{name}#{uses[name]}"  # properties and overloads share a name
        doc_id = doc_ids.setdefault(function.document, unique)
        collection.documents[doc_id] = function.document
        # The id of a query must differ from all document ids: tools that drop equal ids would drop the answer.
        query_id = query_ids.setdefault(function.query, f"{unique}?")
        collection.queries[query_id] = function.query
        collection.qrels.setdefault(query_id, {})[doc_id] = 1
    if not collection.queries:
        raise BenchmarkError(f"{root}: no documented functions; stdlib-code needs the standard library's .py files")
    return collection


def collect_topics() -> Collection:
    """The help topics of this Python. Raises BenchmarkError if they are not installed."""
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
