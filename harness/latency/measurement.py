"""`crispbench latency`: a config's engines under load, one scenario after the other, each recorded and summarised."""

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import engines
from engines.base import Engine, EngineUnavailable, read_options
from harness import machine, progress, results
from harness.benchmarks.stored import Picked
from harness.config import Config, ConfigError, EngineEntry, Latency, Scenario, read_config
from harness.latency import conditions, load
from harness.latency.load import Request, Target, Timing
from harness.latency.recording import Recorder
from harness.latency.summary import SUFFIX, Summary, read
from harness.latency.telemetry import sampling
from harness.measures import HEADLINE
from harness.report.latency import Measured, write
from harness.run import Selection, Task, prepare
from harness.session import RESULTS, choose

FOLDER = "latency"
# Kinds whose engine takes several calls at a time; the others get one after the other.
CONCURRENT = frozenset({"remote"})


@dataclass(frozen=True)
class Wishes:
    """What the command line says beside the config."""

    engines: Sequence[str] = ()
    scenarios: Sequence[str] = ()
    slo_ms: float | None = None


@dataclass(frozen=True)
class Outcome:
    folder: Path
    summaries: Sequence[Summary]  # of this call
    page: Sequence[Path]  # of all measurements in the folder
    unavailable: Mapping[str, str]

    @property
    def measured(self) -> list[Measured]:
        """What a report of this call is made of."""
        return [Measured(summary, quality(self.folder, summary)) for summary in self.summaries]

    @property
    def verdict(self) -> Literal["pass", "fail", "inconclusive", "invalid"]:
        """Invalid before anything else: an objective judged from such numbers says nothing."""
        if self.unavailable or any(summary.verdict != "VALID" for summary in self.summaries):
            return "invalid"
        objectives = {summary.objective.verdict for summary in self.summaries if summary.objective is not None}
        return "fail" if "fail" in objectives else "inconclusive" if "inconclusive" in objectives else "pass"

    def document(self) -> dict[str, Any]:
        found: dict[str, dict[str, Any]] = {}
        for summary in self.summaries:
            found.setdefault(summary.engine, {})[summary.scenario] = summary.document()
        return {"run": str(self.folder), "engines": found, "unavailable": dict(self.unavailable)}


@dataclass(frozen=True)
class Subject:
    """An engine that is loaded, and what it will be asked."""

    name: str
    entry: EngineEntry
    engine: Engine
    task: Task
    settings: Latency

    @property
    def concurrent(self) -> bool:
        return self.entry.kind in CONCURRENT


def measure_config(path: Path, wishes: Wishes, *, out: Path | None, say: Callable[[str], None]) -> Outcome:
    """Measure and write `RUN/ENGINE/latency/`. Engines that cannot be loaded are named; the others go on.

    Raises ConfigError, BadOptions or BenchmarkError before an engine is loaded, EngineUnavailable if none can be.
    """
    config = read_config(path)
    chosen = choose(config, wishes.engines)
    settings = _settings(config.latency, wishes)
    _check_room(config, chosen, settings)
    folder, task = out or RESULTS / config.name, _task(config)
    summaries: list[Summary] = []
    unavailable: dict[str, str] = {}
    for name in chosen:
        entry = config.engines[name]
        try:
            with progress.waiting(f"loading {name}"):
                loaded = engines.load(entry.kind, entry.options)
            with loaded as engine:
                subject = Subject(name, entry, engine, task, settings)
                summaries += measure_engine(subject, folder / name / FOLDER, say)
        except EngineUnavailable as error:
            say(f"crispbench: engine {name}: {error}")
            unavailable[name] = str(error)
    if len(unavailable) == len(chosen):
        raise EngineUnavailable(f"no engine could be measured: {'; '.join(unavailable.values())}")
    return Outcome(folder, summaries, write_page(folder, list(config.engines)), unavailable)


def measure_engine(subject: Subject, folder: Path, say: Callable[[str], None]) -> list[Summary]:
    """Every scenario, each after a warm-up of its own."""
    order = ordered(subject.task, subject.settings)
    _prepare(subject, order)
    return [_measure(subject, scenario, order, folder, say) for scenario in subject.settings.scenario]


def ordered(task: Task, settings: Latency) -> list[Request]:
    """The queries that have candidates, in an order that the seed decides, with their candidates as they are."""
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
    """As many as are to be measured; where there are fewer queries, the same order begins again."""
    return [order[number % len(order)] for number in range(settings.queries or len(order))]


def warmup_requests(order: Sequence[Request], settings: Latency) -> list[Request]:
    """From the end of the order, so that a query that an engine remembers is measured as late as possible."""
    return [order[-1 - number % len(order)] for number in range(settings.warmup)]


def write_page(folder: Path, order: Sequence[str]) -> list[Path]:
    """Summaries, tables and plots of all recordings of a run folder, from their raw timings."""
    found = sorted(folder.glob(f"*/{FOLDER}/*{SUFFIX}"))
    place = {name: number for number, name in enumerate([*order, *get_args(Scenario)])}
    found.sort(key=lambda path: [(place.get(name, len(place)), name) for name in (path.parts[-3], path.stem)])
    summaries = [_summarised(path) for path in found]
    measured = [Measured(summary, quality(folder, summary)) for summary in summaries]
    return write(measured, folder / "report" / FOLDER, folder.resolve().name)


def quality(folder: Path, summary: Summary) -> Mapping[str, float] | None:
    """nDCG@10 with its interval, if the same run scored the same candidates with the same engine and is complete."""
    try:
        measures, manifest = (
            json.loads((folder / summary.engine / name).read_text(encoding="utf-8"))
            for name in ("measures.json", "manifest.json")
        )
        entry = measures["benchmarks"][summary.benchmark]
        found: Mapping[str, float] = entry["measures"][HEADLINE]
        candidates = summary.header["benchmark_entry"]["candidates"]["sha256"]
        same = (
            manifest["description"] == summary.header["description"]
            and manifest["options"] == summary.header["options"]
        )
        return (
            found if same and entry["verdict"] == "complete" and entry["candidates"]["sha256"] == candidates else None
        )
    except (OSError, ValueError, KeyError, TypeError):  # no run, or one of another version
        return None


def _settings(settings: Latency, wishes: Wishes) -> Latency:
    """The config's settings with the wishes in their place. Raises BadOptions."""
    values = settings.model_dump()
    values["scenario"] = tuple(dict.fromkeys(wishes.scenarios or settings.scenario))
    values["slo_ms"] = settings.slo_ms if wishes.slo_ms is None else wishes.slo_ms
    return read_options(Latency, values, "latency")


def _check_room(config: Config, chosen: Sequence[str], settings: Latency) -> None:
    """An engine that lets fewer requests through than the workers send would queue them where nobody measures."""
    for name in chosen if "server" in settings.scenario else ():
        entry = config.engines[name]
        concurrency = engines.options(entry.kind, entry.options).model_dump().get("concurrency")
        if concurrency is not None and concurrency < settings.workers:
            raise ConfigError(
                f"engine {name!r} has concurrency = {concurrency}, latency.workers is {settings.workers}: "
                "requests would wait unseen; set concurrency to at least workers"
            )


def _task(config: Config) -> Task:
    """The one benchmark to measure over; where none is named, only the first is loaded."""
    name = config.latency.benchmark
    if name is None:
        first = config.entries()[0]
        name = first.name
        if name is None:
            config = config.model_copy(update={"suites": (), "benchmarks": (first.benchmark,)})
    (task,) = prepare(config, Selection(benchmarks=(name,) if name else ()))
    return task


def _prepare(subject: Subject, order: Sequence[Request]) -> None:
    """Show the engine the documents that it wants to see; outside of every clock."""
    engine, benchmark, lists = subject.engine, subject.task.benchmark, subject.task.candidates.lists
    if engine.prepares == "nothing":
        return
    wanted = dict.fromkeys(doc_id for request in order for doc_id in lists[request.query_id])
    documents = benchmark.documents.values() if engine.prepares == "corpus" else Picked(benchmark.documents, wanted)
    with progress.reading(f"documents of {benchmark.name}", documents) as shown:
        engine.prepare(shown, analysis=benchmark.analysis)


def _measure(
    subject: Subject, scenario: Scenario, order: Sequence[Request], folder: Path, say: Callable[[str], None]
) -> Summary:
    requests, settings = measured_requests(order, subject.settings), subject.settings
    target = Target(subject.engine, concurrent=subject.concurrent)
    target.start()
    with progress.waiting(f"warming up {subject.name}"):
        warmup = [target.ask(request) for request in warmup_requests(order, settings)]
    path = folder / f"{scenario}{SUFFIX}"
    say(f"measuring {subject.name}: {scenario}, {len(requests)} requests")  # a bar would take time from the engine
    with sampling() as sampler:
        before, started_s, counts = conditions.read(), time.perf_counter(), target.counts()
        with Recorder(path, _header(subject, scenario, requests, warmup, before)) as recorder:
            _summarised(path)  # until the end, the summary beside the recording says that it is incomplete
            try:
                _load(target, scenario, requests, settings, recorder.add)
            except KeyboardInterrupt:
                say(f"crispbench: {subject.name} {scenario} stays incomplete: the next measurement starts anew")
                raise
            seconds, after = time.perf_counter() - started_s, conditions.read()
            recorder.end(
                {
                    "seconds": seconds,
                    "after": after._asdict(),
                    "cores": len(conditions.cores()),
                    "others_cores": conditions.others_cores(before, after, seconds),
                    "counts": load.increase(counts, target.counts()),
                    "telemetry": sampler.stop().document(),
                }
            )
    summary = _summarised(path)
    for cause in summary.causes:
        say(f"crispbench: {subject.name} {scenario}: {cause}")
    return summary


def _load(
    target: Target, scenario: Scenario, requests: Sequence[Request], settings: Latency, record: load.Record
) -> None:
    with load.steady():
        if scenario == "single-stream":
            load.single_stream(target, requests, record)
        elif scenario == "offline":
            load.offline(target, requests, record)
        else:
            due_s = load.schedule(len(requests), settings.rate, settings.arrivals, settings.seed)
            load.server(target, requests, due_s, settings.workers, record)


def _header(
    subject: Subject,
    scenario: Scenario,
    requests: Sequence[Request],
    warmup: Sequence[Timing],
    before: conditions.Conditions,
) -> dict[str, Any]:
    return {
        "engine": subject.name,
        "kind": subject.entry.kind,
        "options": subject.entry.options,
        "description": dict(subject.engine.describe()),
        "concurrent": subject.concurrent,
        "benchmark": subject.task.benchmark.name,
        "benchmark_entry": subject.task.entry,
        "scenario": scenario,
        "settings": subject.settings.model_dump(mode="json") | {"queries": len(requests)},
        "distinct_queries": len({request.query_id for request in requests}),
        "warmup": [asdict(timing) for timing in warmup],
        "machine": machine.record(),
        "before": before._asdict(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _summarised(path: Path) -> Summary:
    """The summary of a recording, also written beside it."""
    summary = read(path)
    results.write_json(path.with_suffix(".json"), summary.document())
    return summary
