"""The tasks of a run: benchmarks with their candidates, as the config and the command line select them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from engines.spelling import expected
from harness import progress
from harness.benchmarks import BenchmarkError
from harness.benchmarks.base import absent_documents, require_same_collection
from harness.candidates.first_stage import retrieve
from harness.config import Config, ConfigError, NamedEntry
from harness.figures import audit
from harness.figures.measures import oracle, random_order, recall
from harness.figures.providers import check_grades
from harness.manifest import BenchmarkRecord, CandidatesRecord
from harness.records import Benchmark, Candidates, Oddities


@dataclass(frozen=True)
class Part:
    """One of several equal parts of every benchmark's queries, for one of several independent machines."""

    number: int  # from 1
    parts: int

    @classmethod
    def read(cls, text: str) -> "Part":
        """Read a part such as `3/16`. Raises ConfigError."""
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        number, parts = map(int, match.groups()) if match else (0, 0)
        if not 1 <= number <= parts:
            raise ConfigError(f"part {text!r}: expected NUMBER/PARTS, such as 3/16, with NUMBER from 1 to PARTS")
        return cls(number, parts)

    def of(self, query_ids: Iterable[str]) -> frozenset[str]:
        """The queries of this part: every `parts`-th id in ascending order, so the part depends only on the ids."""
        return frozenset(sorted(query_ids)[self.number - 1 :: self.parts])

    def __str__(self) -> str:
        return f"{self.number}/{self.parts}"


WHOLE = Part(1, 1)


@dataclass(frozen=True)
class Selection:
    """The engines, benchmarks and queries of a config to use; an empty list means all."""

    engines: Sequence[str] = ()
    benchmarks: Sequence[str] = ()
    limit: int | None = None  # largest number of queries per benchmark
    part: Part = WHOLE  # the part of these queries to use


@dataclass(frozen=True)
class Task:
    """A benchmark with its candidates, which every engine of a run scores."""

    benchmark: Benchmark
    candidates: Candidates
    part: Part = WHOLE

    @property
    def query_ids(self) -> list[str]:
        """The queries to score, in the benchmark's order."""
        chosen = self.part.of(self.candidates.lists)
        return [query_id for query_id in self.candidates.lists if query_id in chosen]

    @property
    def pairs(self) -> int:
        return sum(map(len, self.candidates.lists.values()))

    @cached_property
    def oddities(self) -> dict[str, Oddities]:
        """Odd texts among the candidates of every query, which are the same for every engine."""
        return audit.oddities(self.benchmark.documents, self.candidates.lists)

    @cached_property
    def entry(self) -> BenchmarkRecord:
        """The entry of this task in the manifest."""
        benchmark, candidates = self.benchmark, self.candidates
        return BenchmarkRecord(
            revision=benchmark.revision,
            split=benchmark.split,
            queries=len(benchmark.queries),
            documents=len(benchmark.documents),
            analysis=benchmark.analysis,
            remove_self=benchmark.remove_self,
            warnings=(*benchmark.warnings, *candidates.warnings),
            available=benchmark.available,
            without_candidates=candidates.without_candidates,
            alarms=(
                *benchmark.alarms,
                *absent_documents(benchmark.documents, benchmark.qrels),
                *candidates.alarms,
            ),
            candidates=CandidatesRecord(
                source=candidates.source,
                k=candidates.k,
                parameters=candidates.parameters,
                sha256=candidates.sha256,
                recall=recall(benchmark.qrels, candidates.lists, candidates.k),
                oracle=oracle(benchmark.qrels, candidates.lists),
                random=random_order(benchmark.qrels, candidates.lists),
            ),
        )


def prepare(config: Config, selection: Selection) -> list[Task]:
    """Load the selected benchmarks and retrieve their candidates. Raises ConfigError, BenchmarkError."""
    names = selection.benchmarks
    tasks: dict[str, Task] = {}
    seen: list[str] = []
    for entry in config.entries:
        if entry.name is not None and names and entry.name not in names:
            seen.append(entry.name)  # only selected members are loaded, because a suite may have hundreds of gigabytes
            continue
        benchmark = _load(entry, selection.limit)
        if benchmark.name in seen:
            raise ConfigError(f"benchmark {benchmark.name!r} is listed twice: give one of the two a different `name`")
        seen.append(benchmark.name)
        if names and benchmark.name not in names:
            continue
        _check_grades(benchmark, config)
        if benchmark.available in (None, len(benchmark.queries)):  # a small sample may lack all its documents
            require_same_collection(benchmark.name, benchmark.qrels, benchmark.documents)
        tasks[benchmark.name] = Task(benchmark, _retrieve(benchmark, entry, config), selection.part)
    unknown = sorted(set(names) - tasks.keys())
    if unknown:
        raise ConfigError(f"benchmark {unknown[0]!r} is not in the config; {expected(unknown[0], seen)}")
    return list(tasks.values())


def prepare_first(config: Config, *, limit: int | None = None) -> Task:
    """The config's first benchmark with at most `limit` queries. Only this one is loaded. Raises BenchmarkError."""
    entry = config.entries[0]
    benchmark = _load(entry, limit)
    return Task(benchmark, _retrieve(benchmark, entry, config))


def _load(entry: NamedEntry, limit: int | None) -> Benchmark:
    source = entry.benchmark.source
    if limit is not None:
        source = source.sampled(min(limit, source.queries or limit))
    with progress.waiting(f"loading {entry.name or entry.benchmark.title}"):
        benchmark = source.load()
    return benchmark if entry.name is None else replace(benchmark, name=entry.name)


def _check_grades(benchmark: Benchmark, config: Config) -> None:
    """Raises BenchmarkError before anything is scored, if one of the run's measures would be wrong for a grade."""
    try:
        check_grades(config.chosen_measures, benchmark.qrels)
    except ValueError as error:
        raise BenchmarkError(f"{benchmark.name}: {error}") from None


def _retrieve(benchmark: Benchmark, entry: NamedEntry, config: Config) -> Candidates:
    return retrieve(benchmark, entry.benchmark.candidates or config.candidates)
