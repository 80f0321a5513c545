"""`crispbench run`: score every benchmark of a config with every engine, then write the report."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from engines.base import EngineUnavailable
from harness.config import Config, ConfigError, choose, read_config
from harness.files import RESULTS
from harness.outcome import Outcome, worst
from harness.records import Row
from harness.run import shards
from harness.run.folder import RunIndex
from harness.run.loop import GIVEN_UP, GivenUp, score_engine
from harness.run.report import ReportResult, report
from harness.run.rows import measures_document
from harness.run.tasks import WHOLE, Selection, prepare
from harness.store import FILE


@dataclass(frozen=True)
class RunOptions(Selection):
    """The part of the config to score, and the way to score it."""

    fresh: bool = False  # delete everything that the chosen engines have scored in this folder
    ray: str | None = None  # address of a Ray cluster: local, auto or HOST:PORT; None: score in this process


@dataclass(frozen=True)
class RunResult(ReportResult):
    """The report of a run, and whether all requested queries have scores."""

    measures: Mapping[str, Any]  # engine -> content of its measures.json
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
        """INCOMPLETE if a chosen engine lacks scores, INVALID if its scores are constant; else PASS."""
        return worst(self._outcome(row) for row in self.rows if row.engine in self.measures) or Outcome.PASS

    def _outcome(self, row: Row) -> Outcome:
        part = self.requested.get(row.benchmark)
        if row.verdict == "incomplete" and row.missing and part is not None:
            return Outcome.INCOMPLETE if set(part).intersection(row.missing) else Outcome.PASS
        return {"complete": Outcome.PASS, "incomplete": Outcome.INCOMPLETE, "invalid": Outcome.INVALID}[row.verdict]

    def document(self) -> dict[str, Any]:
        return {"run": str(self.folder), "engines": dict(self.measures)}


def run(config: Path, options: RunOptions, *, out: Path | None, say: Callable[[str], None]) -> RunResult:
    """Score, measure and report in the run folder `out`. The default of `out` is results/NAME with the config's name.

    Engines that cannot be loaded or that were given up are named in the report, and the others are scored. Raises
    ConfigError, BadOptions or BenchmarkError before an engine is loaded, NotComparable for a folder with results of
    another configuration, and EngineUnavailable if no engine could be loaded.
    """
    settings = read_config(config)
    chosen = choose(settings, options.engines)
    _refuse_random_weights(settings, chosen)
    folder = out or RESULTS / settings.name
    tasks = prepare(settings, options)
    for task in tasks:
        for alarm in task.entry.alarms:
            say(f"crispbench: {task.benchmark.name}: {alarm}")
    unavailable, given_up = dict[str, str](), dict[str, str]()
    with shards.connected(options.ray) if options.ray else nullcontext():
        for name in chosen:
            _record_index(folder, settings, options, chosen, unavailable | given_up)
            job = shards.EngineJob(name, settings.engines[name], settings.ray)
            try:
                if options.ray:
                    shards.score_engine(job, tasks, folder / name, fresh=options.fresh, say=say)
                else:
                    score_engine(name, job.entry, tasks, folder / name, fresh=options.fresh)
            except GivenUp as error:
                say(f"crispbench: engine {name}: {error}")
                given_up[name] = GIVEN_UP
            except EngineUnavailable as error:
                say(f"crispbench: engine {name}: {error}")
                unavailable[name] = f"unavailable: {error}"
    _record_index(folder, settings, options, chosen, unavailable | given_up)
    if len(unavailable) == len(chosen):
        raise EngineUnavailable(f"no engine could score: {'; '.join(unavailable.values())}")
    requested = {} if options.part == WHOLE else {task.benchmark.name: task.query_ids for task in tasks}
    return RunResult.of(report(folder), chosen, requested)


def _refuse_random_weights(config: Config, chosen: Sequence[str]) -> None:
    for name in chosen:
        entry = config.engines[name]
        if entry.options.speed_only:
            raise ConfigError(
                f"engine {name!r} has `weights: random`, whose scores mean nothing: measure its speed with `crispbench "
                "latency` or `crispbench ab`, and name the other engines with --engine here"
            )


def _record_index(
    folder: Path, config: Config, options: RunOptions, chosen: Sequence[str], unavailable: Mapping[str, str]
) -> None:
    """Record the chosen engines and those that earlier calls scored here, in the config's order."""
    names = [name for name in config.engines if name in chosen or (folder / name / FILE).is_file()]
    RunIndex(
        name=config.name,
        engines=names,
        unavailable=unavailable,
        published=config.published,
        measures=config.measures or (),
        part=None if options.part == WHOLE else str(options.part),
    ).write(folder)
