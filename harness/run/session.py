"""A whole run from config to report: what `crispbench run` and `crispbench report` do."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import engines
from engines.base import EngineUnavailable
from harness import progress
from harness.config import Config, ConfigError, choose, read_config
from harness.files import RESULTS, write_json
from harness.published import Reproduction
from harness.records import Row
from harness.run import shards
from harness.run.folder import read_index, write_index
from harness.run.loop import score_engine
from harness.run.page import files as report
from harness.run.rows import latency_document, measures_document, read, reproductions
from harness.run.tasks import WHOLE, Selection, prepare
from harness.store import FILE, Store

PUBLISHED = "published.json"


@dataclass(frozen=True)
class RunResult:
    folder: Path
    rows: Sequence[Row]
    measures: Mapping[str, Any]  # engine -> content of its measures.json
    report: Sequence[Path]
    reproductions: Sequence[Reproduction] = ()
    asked: Mapping[str, Collection[str]] = field(default_factory=dict)  # benchmark -> queries, of a part of them

    @property
    def complete(self) -> bool:
        """Whether every engine that was asked for has scored everything that it was asked for."""
        return all(self._has_what_was_asked(row) for row in self.rows if row.engine in self.measures)

    def _has_what_was_asked(self, row: Row) -> bool:
        part = self.asked.get(row.benchmark)
        if row.verdict != "incomplete" or not row.missing or part is None:
            return row.verdict == "complete"
        return not set(part).intersection(row.missing)


def run_config(
    path: Path,
    *,
    out: Path | None,
    selection: Selection,
    fresh: bool,
    say: Callable[[str], None],
    ray: str | None = None,
) -> RunResult:
    """Score, measure and report; with `ray`, the address of a cluster, over its workers.

    Engines that cannot be loaded are named in the report; the others go on. Raises ConfigError, BadOptions or
    BenchmarkError before an engine is loaded, NotComparable for a folder that holds results of another configuration.
    """
    config = read_config(path)
    chosen = choose(config, selection.engines)
    _refuse_random_weights(config, chosen)
    folder = out or RESULTS / config.name
    tasks = prepare(config, selection)
    unavailable: dict[str, str] = {}
    origin = {} if selection.part == WHOLE else {"part": str(selection.part)}
    with shards.connected(ray) if ray else nullcontext():
        for name in chosen:
            known = recorded(folder, config, chosen)
            write_index(folder, config.name, known, unavailable, config.published, origin)
            job = shards.EngineJob(name, config.engines[name], config.ray)
            try:
                if ray:
                    shards.score_engine(job, tasks, folder / name, fresh=fresh, say=say)
                else:
                    score_engine(name, job.entry, tasks, folder / name, fresh=fresh)
            except EngineUnavailable as error:
                say(f"crispbench: engine {name}: {error}")
                unavailable[name] = f"unavailable: {error}"
    known = recorded(folder, config, chosen)
    write_index(folder, config.name, known, unavailable, config.published, origin)
    if len(unavailable) == len(chosen):
        raise EngineUnavailable(f"no engine could score: {'; '.join(unavailable.values())}")
    rows, files, reproductions = write_report(folder)
    measures = {name: measures_document([row for row in rows if row.engine == name]) for name in chosen}
    asked = {task.benchmark.name: task.query_ids for task in tasks} if origin else {}
    return RunResult(folder, rows, measures, files, reproductions, asked)


def _refuse_random_weights(config: Config, chosen: Sequence[str]) -> None:
    for name in chosen:
        entry = config.engines[name]
        if engines.options(entry.kind, entry.options).speed_only:
            raise ConfigError(
                f"engine {name!r} has weights: random, whose scores mean nothing: measure its speed by `crispbench "
                "latency` or `crispbench ab`, and name the others by --engine here"
            )


def recorded(folder: Path, config: Config, chosen: Sequence[str]) -> list[str]:
    """Engines of the config that have results here, those of earlier calls included, in the config's order."""
    return [name for name in config.engines if name in chosen or (folder / name / FILE).is_file()]


class Written(NamedTuple):
    """A report as written, and what it was made of."""

    rows: list[Row]
    files: list[Path]
    reproductions: list[Reproduction]


def write_report(folder: Path) -> Written:
    """Measures, latencies and report of a run folder, computed from its raw scores and samples."""
    with progress.waiting("writing the report"):
        return _write_report(folder)


def _write_report(folder: Path) -> Written:
    rows = read(folder)
    by_engine: dict[str, list[Row]] = {}
    for row in rows:
        by_engine.setdefault(row.engine, []).append(row)
    for engine, own in by_engine.items():
        if (folder / engine / FILE).is_file():
            with Store.read(folder / engine) as store:
                write_json(folder / engine / "manifest.json", store.manifest() or {})
            write_json(folder / engine / "measures.json", measures_document(own))
            write_json(folder / engine / "latency.json", latency_document(own))
    found = reproductions(folder, rows)
    (folder / PUBLISHED).unlink(missing_ok=True)  # of a config that compared with something
    if found:
        write_json(folder / PUBLISHED, {"format": 1, "figures": [each.document() for each in found]})
    files = report.write(rows, folder / "report", read_index(folder)["name"], found)
    return Written(rows, files, found)
