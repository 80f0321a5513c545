"""The tasks of a run: benchmarks with their candidates, as the config and the command line select them."""

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import NamedTuple

from engines.base import EngineUnavailable, ScoringFailed
from engines.own_errors import own_errors_as
from engines.spelling import expected
from harness import progress
from harness.benchmarks import BenchmarkError, BenchmarkSource, BenchmarkUnavailable
from harness.benchmarks.base import absent_documents, require_same_collection
from harness.candidates.first_stage import retrieve
from harness.config import Config, ConfigError, NamedEntry
from harness.figures import audit
from harness.figures.measures import oracle, random_order, recall
from harness.figures.providers import check_grades
from harness.left_out import grouped
from harness.manifest import MAX_BENCHMARKS, MAX_NAME, BenchmarkRecord, CandidatesRecord
from harness.records import Benchmark, Candidates, Oddities
from harness.store_guard import MAX_CANDIDATES, MAX_ID, MAX_QUERIES, MAX_ROWS

log = logging.getLogger("crispbench")


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
    source: BenchmarkSource | None = None  # where the benchmark was loaded from

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


class Prepared(NamedTuple):
    """The tasks of a run, and the benchmarks that it cannot have."""

    tasks: list[Task]
    missing: dict[str, str]  # benchmark -> the reason why it could not be loaded


def narrowed(tasks: Sequence[Task], name: str, query_ids: Collection[str]) -> BenchmarkRecord | None:
    """The record of a task with these queries alone, as a run with a lower limit has it; None if it has others.

    The benchmark is loaded again, because only its source knows the revision of a sample.
    """
    task = next(task for task in tasks if task.benchmark.name == name)
    if task.source is None or not query_ids or not set(query_ids) <= task.benchmark.queries.keys():
        return None
    smaller = replace(task.source.sampled(len(query_ids)).load(), name=name)
    if smaller.queries.keys() != set(query_ids):
        return None
    lists = {query_id: task.candidates.lists[query_id] for query_id in smaller.queries}
    return replace(task, benchmark=smaller, candidates=replace(task.candidates, lists=lists)).entry


def prepare(config: Config, selection: Selection) -> list[Task]:
    """Load the selected benchmarks and retrieve their candidates. Raises ConfigError, BenchmarkError."""
    prepared = prepare_available(config, selection)
    if prepared.missing:
        raise BenchmarkUnavailable(f"benchmark {'; '.join(grouped(prepared.missing))}")
    return prepared.tasks


def prepare_available(config: Config, selection: Selection) -> Prepared:
    """The same, with the benchmarks that cannot be loaded now and here beside the tasks. Mistakes are raised."""
    names = selection.benchmarks
    tasks: dict[str, Task] = {}
    missing: dict[str, str] = {}
    seen: list[str] = []
    if len(config.entries) > MAX_BENCHMARKS:
        raise ConfigError(f"{len(config.entries)} benchmarks, expected at most {MAX_BENCHMARKS}: use several configs")
    for entry in config.entries:
        if entry.name is not None and names and entry.name not in names:
            seen.append(entry.name)  # only selected members are loaded, because a suite may have hundreds of gigabytes
            continue
        title = entry.name or entry.benchmark.title
        try:
            with own_errors_as(BenchmarkUnavailable):
                benchmark = _load(entry, selection.limit)
                title = benchmark.name
                _check_new(benchmark, seen)
                if not names or benchmark.name in names:
                    _check_judgements(benchmark, config)
                    candidates = _retrieve(benchmark, entry, config)
                    source = entry.benchmark.source
                    tasks[benchmark.name] = Task(benchmark, candidates, selection.part, source)
                    _check_sizes(tasks[benchmark.name])
        except (BenchmarkUnavailable, EngineUnavailable, ScoringFailed) as error:
            log.debug("benchmark %s", title, exc_info=error)
            title = title if title not in missing else f"{title} ({len(missing) + 1})"
            missing[title] = str(error)
            seen.append(title)
    return _selected(tasks, missing, seen, names)


def _check_judgements(benchmark: Benchmark, config: Config) -> None:
    _check_grades(benchmark, config)
    if benchmark.available in (None, len(benchmark.queries)):  # a small sample may lack all its documents
        require_same_collection(benchmark.name, benchmark.qrels, benchmark.documents)


def _check_sizes(task: Task) -> None:
    """Raise BenchmarkError before a pair is scored, if `harness.store_guard` would not read the results again."""
    benchmark, lists = task.benchmark, task.candidates.lists
    ids = chain(benchmark.qrels, *benchmark.qrels.values(), *lists.values())
    sizes = [
        (len(benchmark.name), MAX_NAME, "characters in its name"),
        (len(benchmark.queries), MAX_QUERIES, "queries"),
        (max(map(len, lists.values()), default=0), MAX_CANDIDATES, "candidates of one query"),
        (sum(map(len, benchmark.qrels.values())), MAX_ROWS, "judgements"),
        (max(map(len, ids), default=0), MAX_ID, "characters in an id"),
    ]
    for size, most, what in sizes:
        if size > most:
            raise BenchmarkError(f"{benchmark.name:.80}: {size:,} {what}, expected at most {most:,}")


def _check_new(benchmark: Benchmark, seen: list[str]) -> None:
    if benchmark.name in seen:
        raise ConfigError(f"benchmark {benchmark.name!r} is listed twice: give one of the two a different `name`")
    seen.append(benchmark.name)


def _selected(
    tasks: Mapping[str, Task], missing: Mapping[str, str], seen: Sequence[str], names: Sequence[str]
) -> Prepared:
    """What was selected by name. The name of a benchmark that was not loaded is not sure: it may be the missing one."""
    unknown = sorted(set(names) - tasks.keys() - missing.keys())
    if unknown and not missing:
        raise ConfigError(f"benchmark {unknown[0]!r} is not in the config; {expected(unknown[0], seen)}")
    wanted = {name: reason for name, reason in missing.items() if not names or name in names or unknown}
    return Prepared(list(tasks.values()), wanted)


def prepare_first(config: Config, *, limit: int | None = None) -> Task:
    """The config's first benchmark with at most `limit` queries. Only this one is loaded. Raises BenchmarkError."""
    entry = config.entries[0]
    try:
        benchmark = _load(entry, limit)
    except BenchmarkUnavailable as error:
        raise BenchmarkUnavailable(f"benchmark {entry.name or entry.benchmark.title}: {error}") from error
    return Task(benchmark, _retrieve(benchmark, entry, config))


def _load(entry: NamedEntry, limit: int | None) -> Benchmark:
    source = entry.benchmark.source
    if limit is not None:
        source = source.sampled(min(limit, source.queries or limit))
    with progress.waiting(f"loading {entry.name or entry.benchmark.title}"), own_errors_as(BenchmarkUnavailable):
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
