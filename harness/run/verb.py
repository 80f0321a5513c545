"""`crispbench run`: score every benchmark of a config with every engine, then write the report."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from engines.base import BadOptions, EngineError, EngineUnavailable
from harness.benchmarks import BenchmarkUnavailable
from harness.config import Config, ConfigError, choose, read_config
from harness.files import RESULTS
from harness.left_out import LeftOut, grouped
from harness.outcome import Outcome, worst
from harness.preflight import Readiness, check_benchmarks, check_engines
from harness.records import Row
from harness.run import shards
from harness.run.folder import INDEX, RunIndex
from harness.run.loop import GIVEN_UP, GivenUp, score_engine
from harness.run.report import ReportResult, report
from harness.run.rows import measures_document
from harness.run.tasks import WHOLE, Prepared, Selection, prepare_available
from harness.store import FILE, NotComparable


@dataclass(frozen=True)
class RunOptions(Selection):
    """The part of the config to score, and the way to score it."""

    fresh: bool = False  # delete everything that the chosen engines have scored in this folder
    ray: str | None = None  # address of a Ray cluster: local, auto or HOST:PORT; None: score in this process


@dataclass(frozen=True)
class RunResult(ReportResult):
    """The report of a run, and whether all requested queries have scores."""

    measures: Mapping[str, Any]  # engine -> content of its measures.json
    missing: Mapping[str, str] = field(default_factory=dict)  # benchmark -> the reason why it could not be loaded
    failed: Mapping[str, str] = field(default_factory=dict)  # engine -> the reason why it was left out
    requested: Mapping[str, Collection[str]] = field(default_factory=dict)  # benchmark -> query ids; {}: all queries

    @classmethod
    def of(
        cls, written: ReportResult, chosen: Sequence[str], requested: Mapping[str, Collection[str]] | None = None
    ) -> Self:
        """The result of a run that scored the chosen engines, from its report."""
        by_engine = {name: [row for row in written.rows if row.engine == name] for name in chosen}
        measures = {name: measures_document(rows) for name, rows in by_engine.items() if rows}
        return cls(**vars(written), measures=measures, requested=requested or {})

    @property
    def outcome(self) -> Outcome:
        """INCOMPLETE if scores or a whole benchmark are missing, INVALID if scores are constant; else PASS."""
        outcomes = [self._outcome(row) for row in self.rows if row.engine in self.measures]
        is_missing = bool(self.missing) or not self.failed.keys() <= {row.engine for row in self.rows}
        return worst([*outcomes, Outcome.INCOMPLETE if is_missing else Outcome.PASS]) or Outcome.PASS

    def _outcome(self, row: Row) -> Outcome:
        part = self.requested.get(row.benchmark)
        if row.verdict == "incomplete" and row.missing and part is not None:
            return Outcome.INCOMPLETE if set(part).intersection(row.missing) else Outcome.PASS
        return {"complete": Outcome.PASS, "incomplete": Outcome.INCOMPLETE, "invalid": Outcome.INVALID}[row.verdict]

    def document(self) -> dict[str, Any]:
        missing = {"missing": dict(self.missing)} if self.missing else {}
        return {"run": str(self.folder), "engines": dict(self.measures), **missing}


def run(config: Path, options: RunOptions, *, out: Path | None, say: Callable[[str], None]) -> RunResult:
    """Score, measure and report in the run folder `out`. The default of `out` is results/NAME with the config's name.

    Engines and benchmarks that fail are named in the report with their reasons, and the others are scored. Raises
    ConfigError, BadOptions or BenchmarkError for a mistake before an engine is loaded, NotComparable at the end for
    a folder with results of another configuration, BenchmarkUnavailable if no benchmark could be loaded, and
    EngineUnavailable if no engine could be.
    """
    settings = read_config(config)
    chosen = choose(settings, options.engines)
    _refuse_random_weights(settings, chosen)
    folder = out or RESULTS / settings.name
    check_benchmarks(settings, options.benchmarks, say)
    here = options.ray in (None, "local")  # the workers of a cluster look for what they need themselves
    ready = check_engines(settings, chosen if here else (), say)
    prepared = prepare_available(settings, options)
    if not prepared.tasks:
        raise BenchmarkUnavailable(f"no benchmark could be loaded: {'; '.join(grouped(prepared.missing))}")
    for line in grouped(prepared.missing):
        say(f"crispbench: benchmark {line}")
    for task in prepared.tasks:
        for alarm in task.entry.alarms:
            say(f"crispbench: {task.benchmark.name}: {alarm}")
    scoring = Scoring(folder, settings, options, chosen, prepared, ready)
    scoring.score(say)
    written = report(folder)
    if scoring.refused is not None:
        raise scoring.refused
    requested = {} if options.part == WHOLE else {task.benchmark.name: task.query_ids for task in prepared.tasks}
    result = RunResult.of(written, chosen, requested)
    return replace(result, missing=prepared.missing, failed=scoring.left_out)


class Scoring:
    """One pass over the chosen engines. An engine that fails is left out, and the others go on."""

    def __init__(
        self,
        folder: Path,
        config: Config,
        options: RunOptions,
        chosen: Sequence[str],
        prepared: Prepared,
        ready: Readiness,
    ) -> None:
        self._folder, self._config, self._options = folder, config, options
        self._ready, self._notes = ready, {**_earlier_notes(folder, chosen), **ready.notes}
        self._chosen, self._prepared = chosen, prepared
        self.left_out: Mapping[str, str] = {}  # engine -> reason
        self.refused: NotComparable | None = None  # the first folder with results of another configuration

    def score(self, say: Callable[[str], None]) -> None:
        """Score with every engine in turn. Raises EngineUnavailable if none could be loaded.

        An option that the first engine refuses while it is loaded is raised at once, because nothing is lost by that.
        """
        failures, used = self._ready.left_out, 0
        with shards.connected(self._options.ray) if self._options.ray else nullcontext():
            for name in [name for name in self._chosen if name not in failures.errors]:
                self._record_index(failures)
                try:
                    self._score_one(name, say)
                except EngineError as error:
                    if isinstance(error, BadOptions) and not used:
                        raise
                    failures.add(name, error)
                except NotComparable as error:
                    self.refused = self.refused or error
                else:
                    used += 1
                    failures.announce()
        self._record_index(failures)
        if self.refused is not None and not used:
            raise self.refused
        if len(failures.errors) == len(self._chosen) and _none_was_loaded(failures):
            raise EngineUnavailable(f"no engine could score: {failures}")
        failures.announce()
        self.left_out = failures.reasons

    def _score_one(self, name: str, say: Callable[[str], None]) -> None:
        job = shards.EngineJob(name, self._config.engines[name], self._config.ray)
        tasks, fresh, folder = self._prepared.tasks, self._options.fresh, self._folder / name
        if self._options.ray:
            shards.score_engine(job, tasks, folder, fresh=fresh, say=say)
        else:
            score_engine(name, job.entry, tasks, folder, fresh=fresh)

    def _record_index(self, failures: LeftOut) -> None:
        """Record the chosen engines and those that earlier calls scored here, in the config's order."""
        config, part = self._config, self._options.part
        RunIndex(
            name=config.name,
            engines=[name for name in config.engines if name in self._chosen or (self._folder / name / FILE).is_file()],
            unavailable={name: _reason(error) for name, error in failures.errors.items()},
            missing=self._prepared.missing,
            notes=self._notes,
            published=config.published,
            measures=config.measures or (),
            part=None if part == WHOLE else str(part),
        ).write(self._folder)


def _none_was_loaded(failures: LeftOut) -> bool:
    return all(isinstance(error, EngineUnavailable | BadOptions) for error in failures.errors.values())


def _reason(error: EngineError) -> str:
    if isinstance(error, GivenUp):
        return GIVEN_UP
    return f"unavailable: {error}" if isinstance(error, EngineUnavailable) else str(error)


def _refuse_random_weights(config: Config, chosen: Sequence[str]) -> None:
    for name in chosen:
        entry = config.engines[name]
        if entry.options.speed_only:
            raise ConfigError(
                f"engine {name!r} has `weights: random`, whose scores mean nothing: measure its speed with `crispbench "
                "latency` or `crispbench ab`, and name the other engines with --engine here"
            )


def _earlier_notes(folder: Path, chosen: Sequence[str]) -> dict[str, Sequence[str]]:
    """The notes that earlier calls recorded for engines that this call does not score."""
    if not (folder / INDEX).is_file():
        return {}
    return {name: lines for name, lines in RunIndex.read(folder).notes.items() if name not in chosen}
