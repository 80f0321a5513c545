"""`crispbench latency`: put the engines of a config under load, and record and summarise every scenario."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import engines
from engines.base import BadOptions, EngineError, EngineUnavailable, read_options
from harness import files, preflight
from harness.config import Config, ConfigError, Latency, Scenario, choose, read_config
from harness.figures.measures import HEADLINE
from harness.files import RESULTS
from harness.latency import recording
from harness.latency.page import content, load_curve
from harness.latency.page.content import MeasuredScenario
from harness.latency.page.load_curve import Searched
from harness.latency.scenarios import Measurements, measure_engine, summarised
from harness.latency.search import Probe, RateFound, conclude, judged
from harness.latency.summary import SUFFIX, Summary
from harness.manifest import Manifest
from harness.outcome import Outcome, worst
from harness.report import press
from harness.report.content import Report
from harness.run.tasks import Selection, Task, prepare, prepare_first

FOLDER = "latency"
MANY_AT_A_TIME: tuple[Scenario, ...] = ("sweep", "search")  # meaningless for an engine that takes one call at a time


@dataclass(frozen=True)
class LatencyOptions:
    """The part of the config to measure, and changes to its settings."""

    engines: Sequence[str] = ()  # empty: all engines of the config
    scenarios: Sequence[str] = ()  # empty: the scenarios of the config
    slo_ms: float | None = None  # server and search: time limit for 99% of the requests; None: the config's limit


@dataclass(frozen=True)
class LatencyResult:
    """The measurements of one call."""

    folder: Path
    summaries: Sequence[Summary]  # all measurements except the probes of a search, which lead to `rates`
    files: Sequence[Path]  # the page over all measurements of the folder: index.html, latency.md, plots
    unavailable: Mapping[str, str]  # engine -> the reason why it could not be loaded
    rates: Mapping[str, RateFound] = field(default_factory=dict)  # engine -> the conclusion of its search

    @property
    def outcome(self) -> Outcome:
        """INVALID comes before any other outcome, because invalid figures cannot decide about an objective."""
        if self.unavailable or any(summary.verdict != "VALID" for summary in self.summaries):
            return Outcome.INVALID
        outcomes = {summary.objective.verdict for summary in self.summaries if summary.objective is not None}
        outcomes |= {rate.outcome for rate in self.rates.values()}
        return Outcome.INVALID if Outcome.INVALID in outcomes else worst(outcomes) or Outcome.PASS

    @property
    def page(self) -> Path:
        return self.files[0]

    def report(self) -> Report:
        """The tables of this call; the page also shows the earlier measurements of the folder."""
        measured = [MeasuredScenario(summary, quality(self.folder, summary)) for summary in self.summaries]
        return content.build(measured, self.folder.resolve().name)

    def document(self) -> dict[str, Any]:
        summaries: dict[str, dict[str, Any]] = {}
        for summary in self.summaries:
            summaries.setdefault(summary.engine, {})[summary.header.name] = summary.document()
        return {
            "run": str(self.folder),
            "engines": summaries,
            "found": {engine: rate.document() for engine, rate in self.rates.items()},
            "unavailable": dict(self.unavailable),
        }


def latency(config: Path, options: LatencyOptions, *, out: Path | None, say: Callable[[str], None]) -> LatencyResult:
    """Measure and write `OUT/ENGINE/latency/`. The default of `out` is results/NAME with the config's name.

    Engines that fail are named through `say`, and the others are measured. Raises ConfigError, BadOptions
    or BenchmarkError before an engine is loaded, and EngineUnavailable if no engine can be loaded.
    """
    whole = read_config(config)
    chosen = choose(whole, options.engines)
    settings = _settings(whole.latency, options)
    for name in chosen:
        _check(name, whole, settings)
    left_out = preflight.check_engines(whole, chosen, say).left_out
    folder, task = out or RESULTS / whole.name, _task(whole)
    measured: dict[str, Measurements] = {}
    for name in [name for name in chosen if name not in left_out.errors]:
        try:
            measured[name] = measure_engine(name, whole.engines[name], task, settings, folder / name / FOLDER, say)
        except EngineError as error:
            if isinstance(error, BadOptions) and not measured:
                raise
            left_out.add(name, error)
        else:
            left_out.announce()
    if not measured:
        raise EngineUnavailable(f"no engine could be measured: {left_out}")
    left_out.announce()
    summaries = [summary for measurements in measured.values() for summary in measurements.summaries]
    rates = {name: measurements.rate for name, measurements in measured.items() if measurements.rate is not None}
    return LatencyResult(folder, summaries, write_page(folder, list(whole.engines)), left_out.reasons, rates)


def write_page(folder: Path, order: Sequence[str]) -> list[Path]:
    """Write the summaries, tables and plots of all recordings in a run folder, and return the page's files."""
    from harness.latency.page import plots  # draws with matplotlib

    position = {name: number for number, name in enumerate([*order, *get_args(Scenario)])}

    def key(path: Path) -> list[tuple[int, str, int]]:
        """The sort key: engines and scenarios in their order, then the levels of a sweep by size."""
        scenario, _, number = path.stem.rpartition("-")
        name, size = (scenario, int(number)) if number.isdecimal() else (path.stem, 0)
        return [(position.get(part, len(position)), part, size) for part in (path.parts[-3], name)]

    paths = sorted(folder.glob(f"*/{FOLDER}/*{SUFFIX}"), key=key)
    summaries = [summarised(path) for path in paths]
    measured = [MeasuredScenario(summary, quality(folder, summary)) for summary in summaries]
    whole = [summary for summary in summaries if not load_curve.is_part(summary)]
    drawn = [*plots.draw(whole), *load_curve.draw(measured)]
    page = content.build(measured, folder.resolve().name, _searched(paths, summaries))
    return press.write(page, folder / "report" / FOLDER, name=content.NAME, plots=drawn)


def _searched(paths: Sequence[Path], summaries: Sequence[Summary]) -> list[Searched]:
    """The searches of a run folder, judged again from their raw timings."""
    probes: dict[str, list[tuple[Probe, Summary]]] = {}
    for path, summary in zip(paths, summaries, strict=True):
        if summary.header.part_of == "search":
            judgement = judged(recording.read(path), summary)
            probes.setdefault(summary.engine, []).append((judgement, summary))
    searched = []
    for engine, group in probes.items():
        judgements, (first, *_) = [probe for probe, _ in group], [summary for _, summary in group]
        settings = first.header.settings
        assert settings.slo_ms is not None  # a search has an objective
        conclusion = conclude(judgements, settings.search)
        searched.append(Searched(engine, first.benchmark, settings.slo_ms, judgements, conclusion))
    return searched


def quality(folder: Path, summary: Summary) -> Mapping[str, float] | None:
    """nDCG@10 with its interval, if this run folder has a complete run of the same engine over the same candidates."""
    try:
        measures, document = (
            files.read_json(folder / summary.engine / name, most_bytes=recording.MAX_BYTES)
            for name in ("measures.json", "manifest.json")
        )
        header, manifest = summary.header, Manifest.read(document)
        entry = measures["benchmarks"][summary.benchmark]
        mean: Mapping[str, float] = entry["measures"][HEADLINE]
        same = (
            manifest.description == header.description
            and manifest.options == header.options
            and entry["candidates"]["sha256"] == header.benchmark_entry.candidates.sha256
        )
        return mean if same and entry["verdict"] == "complete" else None
    except (OSError, ValueError, KeyError, TypeError):  # the folder has no run, or another version wrote it
        return None


def _settings(settings: Latency, options: LatencyOptions) -> Latency:
    """The config's settings, with the options in their place where they are given. Raises BadOptions."""
    values = settings.model_dump()
    values["scenario"] = tuple(dict.fromkeys(options.scenarios or settings.scenario))
    values["slo_ms"] = settings.slo_ms if options.slo_ms is None else options.slo_ms
    return read_options(Latency, values, "latency")


def _check(name: str, config: Config, settings: Latency) -> None:
    """Raises ConfigError for a scenario that would measure something else for this engine."""
    entry = config.engines[name]
    if not engines.engine_class(entry.kind).concurrent:
        refused = [scenario for scenario in MANY_AT_A_TIME if scenario in settings.scenario]
        if refused:
            raise ConfigError(
                f"engine {name!r} (kind {entry.kind!r}) takes one call at a time, so a {refused[0]} would measure only "
                "its queue: choose engines of kind 'remote' with --engine, or --scenario single-stream"
            )
        return
    if "search" in settings.scenario and settings.slo_ms is None:
        raise ConfigError("search needs latency.slo_ms, the time limit for 99% of the requests: add --slo-ms MS")
    workers = max(
        settings.workers if {"server", "search"} & {*settings.scenario} else 0,
        max(settings.sweep) if "sweep" in settings.scenario else 0,
    )
    concurrency = entry.options.requests_at_a_time
    if concurrency is not None and concurrency < workers:
        name_of = "latency.workers" if workers == settings.workers else "the largest of latency.sweep"
        raise ConfigError(
            f"engine {name!r} has concurrency = {concurrency}, but {name_of} is {workers}: requests would wait inside "
            f"the engine; set concurrency to at least {workers}"
        )


def _task(config: Config) -> Task:
    """The benchmark to measure with: the named one, or the first one. Only this benchmark is loaded."""
    name = config.latency.benchmark
    if name is None:
        return prepare_first(config)
    (task,) = prepare(config, Selection(benchmarks=(name,)))
    return task
