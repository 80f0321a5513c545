"""`crispbench latency`: a config's engines under load, one scenario after the other, each recorded and summarised."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import engines
from engines.base import EngineUnavailable, read_options
from harness.config import Config, ConfigError, Latency, Scenario, Search, choose, read_config
from harness.figures.measures import HEADLINE
from harness.files import RESULTS
from harness.latency import recording
from harness.latency.page.content import MeasuredScenario, write
from harness.latency.page.load_curve import Searched
from harness.latency.scenarios import Measurements, measure_engine, summarised
from harness.latency.search import Found, Probe, Verdict, conclude, judged
from harness.latency.summary import SUFFIX, Summary
from harness.run.tasks import Selection, Task, prepare

FOLDER = "latency"
MANY_AT_A_TIME: tuple[Scenario, ...] = ("sweep", "search")  # say nothing of an engine that takes one call at a time


@dataclass(frozen=True)
class LatencyOptions:
    """What the command line says beside the config."""

    engines: Sequence[str] = ()
    scenarios: Sequence[str] = ()
    slo_ms: float | None = None


@dataclass(frozen=True)
class LatencyResult:
    folder: Path
    summaries: Sequence[Summary]  # of this call; those of a search are in what it found
    page: Sequence[Path]  # of all measurements in the folder
    unavailable: Mapping[str, str]
    found: Mapping[str, Found] = field(default_factory=dict)  # rates, by engine

    @property
    def measured(self) -> list[MeasuredScenario]:
        """What a report of this call is made of."""
        return [MeasuredScenario(summary, quality(self.folder, summary)) for summary in self.summaries]

    @property
    def verdict(self) -> Verdict:
        """Invalid before anything else: an objective judged from such numbers says nothing."""
        if self.unavailable or any(summary.verdict != "VALID" for summary in self.summaries):
            return "invalid"
        verdicts: set[Verdict] = {
            summary.objective.verdict for summary in self.summaries if summary.objective is not None
        }
        verdicts |= {found.verdict for found in self.found.values()}
        order: tuple[Verdict, ...] = ("invalid", "fail", "inconclusive")
        return next((verdict for verdict in order if verdict in verdicts), "pass")

    def document(self) -> dict[str, Any]:
        found: dict[str, dict[str, Any]] = {}
        for summary in self.summaries:
            found.setdefault(summary.engine, {})[str(summary.header["name"])] = summary.document()
        return {
            "run": str(self.folder),
            "engines": found,
            "found": {engine: each._asdict() for engine, each in self.found.items()},
            "unavailable": dict(self.unavailable),
        }


def measure_config(
    path: Path, wishes: LatencyOptions, *, out: Path | None, say: Callable[[str], None]
) -> LatencyResult:
    """Measure and write `RUN/ENGINE/latency/`. Engines that cannot be loaded are named; the others go on.

    Raises ConfigError, BadOptions or BenchmarkError before an engine is loaded, EngineUnavailable if none can be.
    """
    config = read_config(path)
    chosen = choose(config, wishes.engines)
    settings = _settings(config.latency, wishes)
    for name in chosen:
        _check(name, config, settings)
    folder, task = out or RESULTS / config.name, _task(config)
    measured: dict[str, Measurements] = {}
    unavailable: dict[str, str] = {}
    for name in chosen:
        try:
            measured[name] = measure_engine(name, config.engines[name], task, settings, folder / name / FOLDER, say)
        except EngineUnavailable as error:
            say(f"crispbench: engine {name}: {error}")
            unavailable[name] = str(error)
    if len(unavailable) == len(chosen):
        raise EngineUnavailable(f"no engine could be measured: {'; '.join(unavailable.values())}")
    summaries = [summary for each in measured.values() for summary in each.summaries]
    found = {name: each.found for name, each in measured.items() if each.found is not None}
    return LatencyResult(folder, summaries, write_page(folder, list(config.engines)), unavailable, found)


def write_page(folder: Path, order: Sequence[str]) -> list[Path]:
    """Summaries, tables and plots of all recordings of a run folder, from their raw timings."""
    place = {name: number for number, name in enumerate([*order, *get_args(Scenario)])}

    def key(path: Path) -> list[tuple[int, str, int]]:
        """Engines and scenarios in their order, levels of a sweep by size."""
        scenario, _, number = path.stem.rpartition("-")
        name, size = (scenario, int(number)) if number.isdecimal() else (path.stem, 0)
        return [(place.get(each, len(place)), each, size) for each in (path.parts[-3], name)]

    found = sorted(folder.glob(f"*/{FOLDER}/*{SUFFIX}"), key=key)
    summaries = [summarised(path) for path in found]
    measured = [MeasuredScenario(summary, quality(folder, summary)) for summary in summaries]
    return write(measured, folder / "report" / FOLDER, folder.resolve().name, _searched(found, summaries))


def _searched(paths: Sequence[Path], summaries: Sequence[Summary]) -> list[Searched]:
    """The searches of a run folder, judged again from their raw timings."""
    probes: dict[str, list[tuple[Probe, Summary]]] = {}
    for path, summary in zip(paths, summaries, strict=True):
        if path.stem.startswith("search-"):
            judgement = judged(recording.read(path), summary)
            probes.setdefault(summary.engine, []).append((judgement, summary))
    searched = []
    for engine, group in probes.items():
        made, (first, *_) = [probe for probe, _ in group], [summary for _, summary in group]
        settings = first.header["settings"]
        conclusion = conclude(made, Search(**settings["search"]))
        searched.append(Searched(engine, first.benchmark, settings["slo_ms"], made, conclusion))
    return searched


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


def _settings(settings: Latency, wishes: LatencyOptions) -> Latency:
    """The config's settings with the wishes in their place. Raises BadOptions."""
    values = settings.model_dump()
    values["scenario"] = tuple(dict.fromkeys(wishes.scenarios or settings.scenario))
    values["slo_ms"] = settings.slo_ms if wishes.slo_ms is None else wishes.slo_ms
    return read_options(Latency, values, "latency")


def _check(name: str, config: Config, settings: Latency) -> None:
    """Raises ConfigError for scenarios that would measure something else than they say."""
    entry = config.engines[name]
    if not engines.engine_class(entry.kind).concurrent:
        refused = [scenario for scenario in MANY_AT_A_TIME if scenario in settings.scenario]
        if refused:
            raise ConfigError(
                f"engine {name!r} (kind {entry.kind!r}) takes one call at a time, a {refused[0]} would only measure "
                "its queue: choose engines of kind 'remote' with --engine, or --scenario single-stream"
            )
        return
    if "search" in settings.scenario and settings.slo_ms is None:
        raise ConfigError("search looks for the largest rate within latency.slo_ms, which is not set: --slo-ms MS")
    workers = max(
        settings.workers if {"server", "search"} & {*settings.scenario} else 0,
        max(settings.sweep) if "sweep" in settings.scenario else 0,
    )
    concurrency = engines.options(entry.kind, entry.options).model_dump().get("concurrency")
    if concurrency is not None and concurrency < workers:
        name_of = "latency.workers" if workers == settings.workers else "the largest of latency.sweep"
        raise ConfigError(
            f"engine {name!r} has concurrency = {concurrency}, {name_of} is {workers}: "
            "requests would wait unseen; set concurrency to at least as many"
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
