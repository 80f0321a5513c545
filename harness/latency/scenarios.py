"""One engine under every load of a config. A measurement has its own warm-up, recording and summary."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import engines
from engines.base import Ceiling, Description, Engine, EngineFailed
from engines.own_errors import closing, own_errors_as
from harness import files, machine, progress
from harness.config import EngineEntry, Latency, Scenario
from harness.latency import conditions, load, recording, search
from harness.latency.load import Load, Record, Request, Target, Timing
from harness.latency.processes import Performed, Processes
from harness.latency.recording import End, Header, PartOf, Recorder
from harness.latency.search import Probe, RateFound, SearchStep, SearchTerms
from harness.latency.summary import SUFFIX, Summary, read
from harness.latency.telemetry import sampling
from harness.run.loop import prepare_engine
from harness.run.tasks import Task

RAMP = 2  # number of first answers of a closed loop that do not count, per request under way


@dataclass(frozen=True)
class LoadedEngine:
    """A loaded engine with its requests and settings."""

    name: str
    entry: EngineEntry
    engine: Engine
    task: Task
    settings: Latency
    order: Sequence[Request]
    ceiling: Ceiling | None  # measured speed limits of the machine for this engine's arithmetic
    description: Description
    processes: Processes | None = None  # load generators; None: this process sends the requests


class Case(NamedTuple):
    """One measurement: the name of its recording, its scenario and its settings."""

    name: str
    scenario: Scenario
    settings: Latency
    part_of: PartOf | None = None


class Measurements(NamedTuple):
    """The measurements of one engine."""

    summaries: Sequence[Summary]
    rate: RateFound | None = None  # the conclusion of a search


def measure_engine(
    name: str, entry: EngineEntry, task: Task, settings: Latency, folder: Path, say: Callable[[str], None]
) -> Measurements:
    """Measure every scenario, each after its own warm-up. Raises EngineUnavailable."""
    with _loaded(name, entry, task, settings) as subject:
        summaries = [
            measure(subject, case, folder, say)
            for scenario in settings.scenario
            if scenario != "search"
            for case in cases(scenario, settings, folder)
        ]
        rate = find_rate(subject, folder, say) if "search" in settings.scenario else None
    return Measurements(summaries, rate)


def cases(scenario: Scenario, settings: Latency, folder: Path) -> list[Case]:
    """The measurements of a scenario; a sweep has one per level. Recordings of an earlier sweep are removed."""
    if scenario != "sweep":
        return [Case(scenario, scenario, settings)]
    forget(folder, "sweep")
    levels = dict.fromkeys(settings.sweep)
    return [
        Case(f"sweep-{level}", "sweep", settings.model_copy(update={"workers": level}), "sweep") for level in levels
    ]


def find_rate(subject: LoadedEngine, folder: Path, say: Callable[[str], None]) -> RateFound:
    """The largest rate that meets the objective. Every probe has its own recording."""
    settings, probes = subject.settings, 0
    assert settings.slo_ms is not None
    forget(folder, "search")

    def probe(step: SearchStep) -> Probe:
        nonlocal probes
        probes += 1
        at_this_rate = settings.model_copy(update={"rate": step.rate, "queries": step.queries})
        case = Case(f"search-{probes}", "server", at_this_rate, "search")
        say(f"{subject.name}: {step.rate:.4g}/s for about {step.queries / step.rate:,.0f} s")
        summary = measure(subject, case, folder, say)
        judgement = search.judged(recording.read(folder / f"{case.name}{SUFFIX}"), summary)
        say(f"{subject.name}: {step.rate:.4g}/s: {judgement.outcome}")
        return judgement

    conclusion = search.search(probe, terms(settings, subject.order), time.monotonic)
    say(f"crispbench: {subject.name}: {search.sentence(conclusion, settings.slo_ms)}")
    return conclusion


def terms(settings: Latency, order: Sequence[Request]) -> SearchTerms:
    return SearchTerms(settings.rate, settings.queries or len(order), settings.min_duration_s, settings.search)


def forget(folder: Path, scenario: str) -> None:
    """Remove the recordings of an earlier sweep or search, so that they do not join the curve of the next one."""
    for path in folder.glob(f"{scenario}-*.json*"):
        path.unlink()


def ordered(task: Task, settings: Latency) -> list[Request]:
    """The queries with candidates, in an order that the seed decides. The order of the candidates is kept."""
    benchmark, lists = task.benchmark, task.candidates.lists
    query_ids = sorted(query_id for query_id, doc_ids in lists.items() if doc_ids)
    random.Random(settings.seed).shuffle(query_ids)
    return [
        Request(
            query_id,
            [engines.Pair(benchmark.queries[query_id], benchmark.documents[doc_id]) for doc_id in lists[query_id]],
        )
        for query_id in query_ids
    ]


def measured_requests(order: Sequence[Request], settings: Latency) -> list[Request]:
    """The requests to measure. The order repeats if there are fewer queries than requests."""
    return [order[number % len(order)] for number in range(settings.queries or len(order))]


def warmup_requests(order: Sequence[Request], settings: Latency) -> list[Request]:
    """The warm-up requests from the end of the order, so that a cached query is measured as late as possible."""
    return [order[-1 - number % len(order)] for number in range(settings.warmup)]


def measure(subject: LoadedEngine, case: Case, folder: Path, say: Callable[[str], None]) -> Summary:
    """Warm up, put under load, record, summarise."""
    requests, settings = measured_requests(subject.order, case.settings), case.settings
    warmup: list[Timing] = []
    with progress.waiting(f"warming up {subject.name}"):
        first = Load("single-stream", warmup_requests(subject.order, settings), workers=settings.processes)
        _perform(subject, first, warmup.append, threading.Event())
    path = folder / f"{case.name}{SUFFIX}"
    say(f"measuring {subject.name}: {case.name}, {len(requests)} requests")  # a progress bar would take time
    with sampling() as sampler:
        before, started_s = conditions.read(), time.perf_counter()
        with Recorder(path, _header(subject, case, requests, warmup, before)) as recorder:
            summarised(path)  # until the end, the summary beside the recording says INCOMPLETE
            try:
                performed = _put_under_load(subject, case, requests, recorder.add)
            except KeyboardInterrupt:
                say(f"crispbench: {subject.name} {case.name} stays incomplete; measure again")
                raise
            seconds, after = time.perf_counter() - started_s, conditions.read()
            recorder.end(
                End(
                    seconds=seconds,
                    after=after,
                    cores=len(machine.cores()),
                    others_cores=conditions.others_cores(before, after, seconds),
                    counts=performed.counts,
                    died=performed.died,
                    telemetry=sampler.stop(),
                )
            )
    summary = summarised(path)
    for cause in summary.causes:
        say(f"crispbench: {subject.name} {case.name}: {cause}")
    return summary


def summarised(path: Path) -> Summary:
    """Write the summary of a recording beside it, and return it."""
    summary = read(path)
    files.write_json(path.with_suffix(".json"), summary.document())
    return summary


@contextmanager
def _loaded(name: str, entry: EngineEntry, task: Task, settings: Latency) -> Iterator[LoadedEngine]:
    """The loaded engine and its load generators, with documents prepared and the ceiling measured."""
    with progress.waiting(f"loading {name}"):
        loaded = engines.load(entry.kind, entry.options)
    with closing(loaded) as engine:
        order = ordered(task, settings)
        prepare_engine(engine, task, [request.query_id for request in order])
        with own_errors_as(EngineFailed):
            ceiling, description = engine.ceiling(), engine.describe()
        subject = LoadedEngine(name, entry, engine, task, settings, order, ceiling, description)
        if settings.processes == 1 or not engine.concurrent:
            yield subject
            return
        with Processes.open(entry.kind, entry.options, settings.processes) as processes:
            yield replace(subject, processes=processes)


def _put_under_load(subject: LoadedEngine, case: Case, requests: Sequence[Request], record: Record) -> Performed:
    settings, stop = case.settings, threading.Event()
    if case.scenario == "sweep":
        window = load.Window(RAMP * settings.workers, len(requests), settings.min_duration_s, record, stop)
        return _perform(subject, Load("closed", requests, workers=settings.workers), window.add, stop)
    if case.scenario == "server":
        due_s = load.schedule(len(requests), settings.rate, settings.arrivals, settings.seed)
        return _perform(subject, Load("server", requests, due_s, settings.workers), record, stop)
    kind = case.scenario
    assert kind != "search"
    return _perform(subject, Load(kind, requests), record, stop)


def _perform(subject: LoadedEngine, requested: Load, record: Record, stop: threading.Event) -> Performed:
    """Perform a load in this process or in several."""
    with load.steady():
        if subject.processes is not None:
            return subject.processes.perform(requested, record, stop)
        target = Target(subject.engine, concurrent=subject.engine.concurrent)
        before = target.counts()
        load.perform(target, requested, record, stop)
        return Performed(target.counts() - before)


def _header(
    subject: LoadedEngine,
    case: Case,
    requests: Sequence[Request],
    warmup: Sequence[Timing],
    before: conditions.Conditions,
) -> Header:
    return Header(
        engine=subject.name,
        kind=subject.entry.kind,
        options=subject.entry.given,
        description=subject.description,
        concurrent=subject.engine.concurrent,
        ceiling=subject.ceiling,
        benchmark=subject.task.benchmark.name,
        benchmark_entry=subject.task.entry,
        name=case.name,
        scenario=case.scenario,
        part_of=case.part_of,
        settings=case.settings.model_copy(update={"queries": len(requests)}),
        distinct_queries=len({request.query_id for request in requests}),
        warmup=tuple(warmup),
        machine=machine.record(),
        before=before,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )
