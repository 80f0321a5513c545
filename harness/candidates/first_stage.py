"""The first stage: which documents of a benchmark are reranked for each query."""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

import engines
from engines.base import BadOptions, Options, Retriever
from engines.storage import cache_folder
from harness import progress
from harness.benchmarks import BenchmarkError
from harness.benchmarks.base import count_warning
from harness.candidates import cache
from harness.candidates.trec import read_run_file
from harness.files import replace_file
from harness.records import Benchmark, Candidates

Found = Iterable[tuple[str, Iterable[str]]]  # query_id and its documents, best first
RANKED_FORMAT = 1  # of a run file's lists on disk; 1: first version, 2026-11
REMEMBERED_BYTES = 2**15  # a run file of this size, packed some 1,000 lines, is read in 3 ms

log = logging.getLogger(__name__)


class FirstStage(Options):
    """What the config says of candidates. Options of another source than the named one are errors."""

    model_config = ConfigDict(extra="allow")  # of dense; checked below

    source: Literal["bm25", "dense", "native", "run"] = "bm25"
    k: int = Field(default=100, gt=0)
    k1: float = 0.9  # of bm25; Anserini's defaults
    b: float = 0.4
    path: str | None = None  # of a TREC run; {benchmark} in it becomes the benchmark's name

    OWN: ClassVar[Mapping[str, frozenset[str]]] = {
        "bm25": frozenset({"k1", "b"}),
        "native": frozenset(),
        "run": frozenset({"path"}),
    }

    @model_validator(mode="before")
    @classmethod
    def _only_options_of_its_source(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        source = values.get("source", "bm25")
        options = {name: value for name, value in values.items() if name not in ("source", "k")}
        if source == "dense":
            try:
                engines.options("bi_encoder", options)
            except BadOptions as error:
                raise ValueError(str(error)) from None
        for name, value in options.items() if source in cls.OWN else ():
            if name not in cls.model_fields:
                unknown = InitErrorDetails(type="extra_forbidden", loc=(name,), input=value)
                raise ValidationError.from_exception_data(cls.__name__, [unknown])
            if name not in cls.OWN[source]:
                raise ValueError(f"{name!r} is no option of source {source}, whose own are {cls._own(source)}")
        return values

    @classmethod
    def _own(cls, source: str) -> str:
        return ", ".join(["k", *sorted(cls.OWN[source])])

    @property
    def engine(self) -> tuple[str, dict[str, Any]]:
        """Kind and options of the engine that searches."""
        if self.source == "dense":
            return "bi_encoder", dict(self.model_extra or {})
        return "bm25", {"k1": self.k1, "b": self.b}


def retrieve(benchmark: Benchmark, stage: FirstStage) -> Candidates:
    """At most k candidates for each query, best first.

    The document whose id is the query's is dropped before the cut at k where the benchmark says so. A query for
    which the first stage finds nothing has an empty list and scores 0. Raises BenchmarkError, EngineUnavailable.
    """
    if stage.source in ("bm25", "dense"):
        return _search(benchmark, stage)
    if stage.source == "native":
        return _candidates(benchmark, stage, _native(benchmark))
    return _from_run(benchmark, stage)


def _candidates(
    benchmark: Benchmark,
    stage: FirstStage,
    found: Found,
    parameters: Mapping[str, Any] | None = None,
    warnings: tuple[str, ...] = (),
) -> Candidates:
    lists = {}
    with progress.bar(f"{stage.source} on {benchmark.name}", len(benchmark.queries), "queries") as done:
        for query_id, doc_ids in found:
            kept = [doc_id for doc_id in doc_ids if not (benchmark.remove_self and doc_id == query_id)]
            lists[query_id] = tuple(kept[: stage.k])
            done(1)
    if not any(lists.values()):
        raise BenchmarkError(f"{benchmark.name}: {stage.source} found no candidate for any of {len(lists)} queries")
    return Candidates(stage.source, stage.k, parameters or {}, lists, warnings)


def _search(benchmark: Benchmark, stage: FirstStage) -> Candidates:
    """By an engine that is shown all documents; what it found before for the same benchmark is taken from disk."""
    kind, options = stage.engine
    with engines.load(kind, options) as engine:
        assert isinstance(engine, Retriever)
        described = engine.describe().document()
        if kind == "bm25":
            parameters = {**options, "analysis": benchmark.analysis, "method": "lucene"}
        else:  # where it was computed is the machine's, not the stage's
            parameters = {**options, **described}
            parameters = {name: value for name, value in parameters.items() if name not in ("device", "batch_size")}
        stored = cache.key(benchmark, {"source": stage.source, "k": stage.k, **options}, engine)
        known = cache.read(stored, benchmark)
        if known is not None:
            return Candidates(stage.source, stage.k, parameters, known)
        with progress.reading(f"documents of {benchmark.name}", benchmark.documents.values()) as shown:
            engine.prepare(shown, analysis=benchmark.analysis)
        searched = _searched(engine, benchmark, stage.k + benchmark.remove_self)
        candidates = _candidates(benchmark, stage, searched, parameters)
    cache.write(stored, benchmark, candidates)
    return candidates


def _searched(engine: Retriever, benchmark: Benchmark, k: int) -> Iterator[tuple[str, list[str]]]:
    doc_ids = list(benchmark.documents)
    for query_id, query in benchmark.queries.items():
        yield query_id, [doc_ids[position] for position in engine.search(query, k)]


def _native(benchmark: Benchmark) -> Iterator[tuple[str, list[str]]]:
    if benchmark.candidates is None:
        raise BenchmarkError(
            f"{benchmark.name}: brings no candidates of its own; take `candidates: {{source: bm25}}` for it"
        )
    for query_id in benchmark.queries:
        doc_ids = list(benchmark.candidates.get(query_id, ()))
        for doc_id in doc_ids:
            if doc_id not in benchmark.documents:
                raise BenchmarkError(
                    f"{benchmark.name}: its own candidate {doc_id!r} of query {query_id!r} is not in its corpus"
                )
        if len(set(doc_ids)) != len(doc_ids):
            twice = next(doc_id for doc_id in doc_ids if doc_ids.count(doc_id) > 1)
            raise BenchmarkError(f"{benchmark.name}: its own candidate {twice!r} of query {query_id!r} is there twice")
        yield query_id, doc_ids


def _from_run(benchmark: Benchmark, stage: FirstStage) -> Candidates:
    if stage.path is None:
        raise BenchmarkError("candidates: source run needs `path`, the TREC run file to take candidates from")
    path = Path(stage.path.replace("{benchmark}", benchmark.name))
    ranked = _read_ranked(path)
    _check_ids(ranked.lists, benchmark, path)
    warnings = count_warning(
        [query_id for query_id in ranked.odd if query_id in benchmark.queries],
        f"{path.name}: queries whose rank column disagrees with their scores; the scores decide",
    )
    found = ((query_id, ranked.lists.get(query_id, [])) for query_id in benchmark.queries)
    return _candidates(benchmark, stage, found, {"path": stage.path}, warnings)


class Ranked(NamedTuple):
    """A run file's documents by score, best first; equal scores keep the file's order."""

    lists: Mapping[str, Sequence[str]]
    odd: Sequence[str]  # query_ids whose rank column disagrees with the scores


def _read_ranked(path: Path) -> Ranked:
    """A run file, read once: its lists are kept as JSON, read 50 times as fast, under the hash of its bytes."""
    try:
        with path.open("rb") as file:
            large = path.stat().st_size >= REMEMBERED_BYTES
            digest = hashlib.file_digest(file, "sha256").hexdigest() if large else None
    except OSError:
        digest = None  # whose message the reader of runs has
    if digest is None:
        return _rank(path)
    kept = cache_folder("runs") / f"{digest}-{RANKED_FORMAT}.json"
    try:
        checksum, _, content = kept.read_bytes().partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() == checksum:
            return Ranked(*json.loads(content))
        log.warning("crispbench: %s is damaged; %s is read again", kept, path)
    except OSError:
        pass  # not read before
    ranked = _rank(path)
    content = json.dumps(ranked).encode()
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        replace_file(kept, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    except OSError as error:
        log.warning("crispbench: the lists of %s are not stored: %s", path, error)
    return ranked


def _rank(path: Path) -> Ranked:
    run, odd = read_run_file(path)
    lists = {query_id: sorted(scores, key=scores.__getitem__, reverse=True) for query_id, scores in run.items()}
    return Ranked(lists, odd)


def _check_ids(run: Mapping[str, Sequence[str]], benchmark: Benchmark, path: Path) -> None:
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
