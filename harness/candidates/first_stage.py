"""The first stage at work: it selects the documents of a benchmark that are reranked for each query."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import engines
from engines.base import Retriever
from harness import progress
from harness.benchmarks import BenchmarkError
from harness.candidates import cache
from harness.candidates.alarms import alarms
from harness.candidates.ranked import read_ranked
from harness.candidates.stages import BM25Stage, DenseStage, FirstStage, NativeStage, RunStage
from harness.candidates.trec import line_of
from harness.records import Benchmark, Candidates

RankedQueries = Iterable[tuple[str, Iterable[str]]]  # query_id and doc_ids, best first


def retrieve(benchmark: Benchmark, stage: FirstStage) -> Candidates:
    """At most k candidates for each query, best first.

    If the benchmark has `remove_self`, the document with the query's id is dropped before the cut at k. A query for
    which the first stage finds nothing has an empty list and counts 0. Raises BenchmarkError, EngineUnavailable.
    """
    found = _find(benchmark, stage)
    return replace(found, alarms=alarms(benchmark, found))


def _find(benchmark: Benchmark, stage: FirstStage) -> Candidates:
    match stage:
        case BM25Stage() | DenseStage():
            return _search(benchmark, stage)
        case NativeStage():
            return _candidates(benchmark, stage, _native(benchmark))
        case RunStage():
            return _from_run(benchmark, stage)


def _candidates(
    benchmark: Benchmark,
    stage: FirstStage,
    ranked: RankedQueries,
    parameters: Mapping[str, Any] | None = None,
    warnings: tuple[str, ...] = (),
) -> Candidates:
    lists = {}
    with progress.bar(f"{stage.source} on {benchmark.name}", len(benchmark.queries), "queries") as done:
        for query_id, doc_ids in ranked:
            kept = [doc_id for doc_id in doc_ids if not (benchmark.remove_self and doc_id == query_id)]
            lists[query_id] = tuple(kept[: stage.k])
            done(1)
    if not any(lists.values()):
        raise BenchmarkError(f"{benchmark.name}: {stage.source} found no candidate for any of {len(lists)} queries")
    return Candidates(stage.source, stage.k, parameters or {}, lists, warnings)


def _search(benchmark: Benchmark, stage: BM25Stage | DenseStage) -> Candidates:
    """Candidates from an engine that searches all documents, or the stored lists of an earlier search."""
    with engines.load(stage.kind, stage.options) as engine:
        assert isinstance(engine, Retriever)
        parameters = _parameters(benchmark, stage, engine)
        stored = cache.key(benchmark, {"source": stage.source, "k": stage.k, **stage.given}, engine)
        lists = cache.read(stored, benchmark)
        if lists is not None:
            return Candidates(stage.source, stage.k, parameters, lists)
        with progress.reading(f"documents of {benchmark.name}", benchmark.documents.values()) as shown:
            engine.prepare(shown, analysis=benchmark.analysis)
        ranked = _ranked(engine, benchmark, stage.k + benchmark.remove_self)
        candidates = _candidates(benchmark, stage, ranked, parameters)
    cache.write(stored, benchmark, candidates)
    return candidates


def _parameters(benchmark: Benchmark, stage: BM25Stage | DenseStage, engine: Retriever) -> dict[str, Any]:
    """The parameters of a search that results record."""
    if isinstance(stage, BM25Stage):
        return {**stage.given, "analysis": benchmark.analysis, "method": "lucene"}
    parameters = {**stage.given, **engine.describe().document()}
    # the device and the batch size belong to the machine, not to the stage
    return {name: value for name, value in parameters.items() if name not in ("device", "batch_size")}


def _ranked(engine: Retriever, benchmark: Benchmark, k: int) -> Iterator[tuple[str, list[str]]]:
    doc_ids = list(benchmark.documents)
    for query_id, query in benchmark.queries.items():
        yield query_id, [doc_ids[position] for position in engine.search(query, k)]


def _native(benchmark: Benchmark) -> Iterator[tuple[str, list[str]]]:
    if benchmark.candidates is None:
        raise BenchmarkError(
            f"{benchmark.name}: the data has no candidates; set `candidates: {{source: bm25}}` for this benchmark"
        )
    for query_id in benchmark.queries:
        doc_ids = list(benchmark.candidates.get(query_id, ()))
        for doc_id in doc_ids:
            if doc_id not in benchmark.documents:
                raise BenchmarkError(
                    f"{benchmark.name}: candidate {doc_id!r} of query {query_id!r} is not in the corpus"
                )
        if len(set(doc_ids)) != len(doc_ids):
            repeated = next(doc_id for doc_id in doc_ids if doc_ids.count(doc_id) > 1)
            raise BenchmarkError(f"{benchmark.name}: query {query_id!r} lists candidate {repeated!r} twice")
        yield query_id, doc_ids


def _from_run(benchmark: Benchmark, stage: RunStage) -> Candidates:
    path = stage.file(benchmark.name)
    ranked = read_ranked(path)
    _check_ids(ranked.lists, benchmark, path)
    warnings = ranked.oddities.warnings(path.name, benchmark.queries)
    lists = ((query_id, ranked.lists.get(query_id, [])) for query_id in benchmark.queries)
    return _candidates(benchmark, stage, lists, {"path": stage.path}, warnings)


def _check_ids(run: Mapping[str, Sequence[str]], benchmark: Benchmark, path: Path) -> None:
    if not run.keys() & benchmark.queries.keys():
        sampled = benchmark.available is not None and benchmark.available > len(benchmark.queries)
        raise BenchmarkError(
            f"{path}: none of its {len(run)} queries is among the {len(benchmark.queries)} of {benchmark.name} (its "
            f"first is {next(iter(run), 'none')!r}, the benchmark's {next(iter(benchmark.queries))!r}): this run is "
            f"for other queries{', or it lacks those that --limit or `queries` sampled' if sampled else ''}"
        )
    for query_id in benchmark.queries:
        for doc_id in run.get(query_id, ()):
            if doc_id not in benchmark.documents:
                line = line_of(query_id, doc_id, path)
                raise BenchmarkError(
                    f"{path}{'' if line is None else f':{line}'}: document {doc_id!r} of query {query_id!r} is not in "
                    f"{benchmark.name}'s corpus"
                )
