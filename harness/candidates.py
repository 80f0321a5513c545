"""The first stage: which documents of a benchmark are reranked for each query."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

import engines
from engines.base import Options, Retriever
from harness.benchmarks import BenchmarkError
from harness.records import Benchmark, Candidates
from harness.trec import Run, read_run


class FirstStage(Options):
    """What the config says of candidates."""

    source: Literal["bm25", "run"] = "bm25"
    k: int = Field(default=100, gt=0)
    k1: float = 0.9  # of bm25; Anserini's defaults
    b: float = 0.4
    path: str | None = None  # of a TREC run; {benchmark} in it becomes the benchmark's name


def retrieve(benchmark: Benchmark, stage: FirstStage, on_query: Callable[[int], None]) -> Candidates:
    """At most k candidates for each query, best first; `on_query` is told after each one (1).

    The document whose id is the query's is dropped before the cut at k where the benchmark says so. A query for
    which the first stage finds nothing has an empty list and scores 0. Raises BenchmarkError.
    """
    found = _from_bm25(benchmark, stage) if stage.source == "bm25" else _from_run(benchmark, stage)
    lists = {}
    for query_id, doc_ids in found:
        kept = [doc_id for doc_id in doc_ids if not (benchmark.remove_self and doc_id == query_id)]
        lists[query_id] = tuple(kept[: stage.k])
        on_query(1)
    if not any(lists.values()):
        raise BenchmarkError(f"{benchmark.name}: {stage.source} found no candidate for any of {len(lists)} queries")
    parameters: dict[str, Any] = {"path": stage.path}
    if stage.source == "bm25":
        parameters = {
            "k1": stage.k1,
            "b": stage.b,
            "analysis": benchmark.analysis,
            "method": "lucene",
            "stemmer": "porter",
        }
    return Candidates(source=stage.source, k=stage.k, parameters=parameters, lists=lists)


def _from_bm25(benchmark: Benchmark, stage: FirstStage) -> Iterator[tuple[str, list[str]]]:
    doc_ids = list(benchmark.documents)
    with engines.load("bm25", {"k1": stage.k1, "b": stage.b}) as bm25:
        assert isinstance(bm25, Retriever)
        bm25.prepare(benchmark.documents.values(), analysis=benchmark.analysis)
        for query_id, query in benchmark.queries.items():
            found = bm25.search(query, stage.k + benchmark.remove_self)
            yield query_id, [doc_ids[position] for position in found]


def _from_run(benchmark: Benchmark, stage: FirstStage) -> Iterator[tuple[str, list[str]]]:
    if stage.path is None:
        raise BenchmarkError("candidates: source run needs `path`, the TREC run file to take candidates from")
    path = Path(stage.path.replace("{benchmark}", benchmark.name))
    run = read_run(path)
    _check_ids(run, benchmark, path)
    for query_id in benchmark.queries:
        scores = run.get(query_id, {})
        yield query_id, sorted(scores, key=lambda doc_id: -scores[doc_id])  # stable: ties keep the file's order


def _check_ids(run: Run, benchmark: Benchmark, path: Path) -> None:
    if not run.keys() & benchmark.queries.keys():
        raise BenchmarkError(
            f"{path}: none of its {len(run)} queries is in {benchmark.name} (its first is {next(iter(run), 'none')!r}, "
            f"the benchmark's {next(iter(benchmark.queries))!r}): this run is for other queries"
        )
    for query_id in benchmark.queries:
        for doc_id in run.get(query_id, ()):
            if doc_id not in benchmark.documents:
                raise BenchmarkError(
                    f"{path}: document {doc_id!r} of query {query_id!r} is not in {benchmark.name}'s corpus"
                )
