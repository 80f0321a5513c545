"""`crispbench ab`: is engine B slower than engine A? Fresh processes in pairs that take turns."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from engines.base import EngineError
from harness import preflight
from harness.ab import canary, journal, page, result, sides
from harness.ab.journal import Journal
from harness.ab.launches import LaunchFailed, run_launch_pair
from harness.ab.margins import MARGINS
from harness.ab.notes import notes
from harness.ab.records import ARMS, METRICS, STANDARD, Arm, LaunchPair, LaunchPlan, LoadedLaunch, Metric
from harness.ab.result import AbRecord, AbSetup, ArmEngine, ArmRecord, MetricResult
from harness.ab.schedule import queries_wanted
from harness.ab.sequence import LaunchSequence, measure
from harness.ab.sides import AbSide
from harness.config import Config, ConfigError, read_config
from harness.files import RESULTS, write_json
from harness.report.content import Report
from harness.run.tasks import Task


@dataclass(frozen=True)
class AbOptions:
    """The size of the measurement, and the margins of its verdict."""

    plan: LaunchPlan = STANDARD
    margins: Mapping[Metric, float] = field(default_factory=lambda: dict(MARGINS))
    canary: bool = False  # A against A
    fresh: bool = False  # replace the results of an earlier run


@dataclass(frozen=True)
class AbResult(AbRecord):
    """The record of the run, and its page."""

    @property
    def page(self) -> Path:
        return self.folder / "index.html"

    def report(self) -> Report:
        return page.build(self)


def ab(
    config: Path, names: Sequence[str], options: AbOptions, *, out: Path | None, say: Callable[[str], None]
) -> AbResult:
    """Launch, time and judge two engines of a config until the verdict is known.

    Everything is written below `out`, which is results/NAME-ab by default. Raises ConfigError before anything is
    launched, LaunchFailed or another EngineError if an engine cannot score. In that case, and after a kill, ab.json
    records that the run is incomplete, and samples.jsonl keeps what was measured.
    """
    settings = read_config(config)
    chosen = sides.choose_pair(settings, names, canary=options.canary)
    folder = out or RESULTS / f"{settings.name}-ab"
    floor = None if options.canary else canary.read(folder)
    folder = folder / canary.FOLDER if options.canary else folder
    if (folder / journal.FILE).exists() and not options.fresh:
        raise ConfigError(f"{folder} holds an earlier run: --fresh replaces it, --out names another folder")
    preflight.check_engines(settings, list(dict.fromkeys(chosen)), say, fewest=len(set(chosen)))
    task = sides.first_task(settings, queries_wanted(options.plan))
    both = sides.both(settings, chosen, task)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    for name in page.FILES:
        (folder / name).unlink(missing_ok=True)  # from an earlier run
    setup = _setup(settings, both, task, options)
    write_json(folder / result.FILE, setup.document())
    try:
        with Journal.open(folder, options.plan) as written:
            made = _measure(both, options, written, folder, say)
    except EngineError as error:
        write_json(folder / result.FILE, {**setup.document(), "error": str(error)})
        raise
    record = replace(_record(folder, setup, made, written), noise_floor=floor)
    measured = AbResult(**vars(replace(record, notes=notes(record))))
    write_json(folder / result.FILE, measured.document())
    page.write(measured)
    return measured


def _setup(config: Config, both: Sequence[AbSide], task: Task, options: AbOptions) -> AbSetup:
    return AbSetup(
        name=config.name,
        canary=options.canary,
        plan=options.plan,
        margins={metric: options.margins[metric] for metric in METRICS if metric in options.margins},
        benchmark={"name": task.benchmark.name, **task.entry.document()},
        arms={side.arm: ArmEngine(side.name, side.setup.kind, side.setup.options) for side in both},
    )


def _measure(
    both: Sequence[AbSide], options: AbOptions, written: Journal, folder: Path, say: Callable[[str], None]
) -> LaunchSequence:
    def launch(number: int, goes_on: Callable[[float], bool]) -> LaunchPair | None:
        logs = folder / "logs"
        launch_pair = run_launch_pair(both, options.plan, written, number=number, logs=logs, goes_on=goes_on)
        _require_one_description(written.launches)
        return launch_pair

    def tell(line: str) -> None:
        say(f"crispbench: {line}")

    return measure(launch, options.plan, options.margins, tell, time.monotonic)


def _require_one_description(launches: Sequence[LoadedLaunch]) -> None:
    """Raise LaunchFailed if an engine changed between two launches, such as a server that was replaced."""
    for arm in ARMS:
        first, *following = (_described(launch) for launch in launches if launch.arm == arm)
        for later in following:
            for name in first | later:
                if first.get(name) != later.get(name):
                    raise LaunchFailed(
                        f"engine {arm}: {name} was {first.get(name)} and later {later.get(name)}; "
                        "expected the same at every launch"
                    )


def _described(launch: LoadedLaunch) -> dict[str, str]:
    """Every field that must not change between launches: `description 'revision'` -> its value."""
    records = {"description": launch.description.document(), "versions": launch.versions, "machine": launch.machine}
    return {f"{record} {name!r}": repr(value) for record, fields in records.items() for name, value in fields.items()}


def _record(folder: Path, setup: AbSetup, made: LaunchSequence, written: Journal) -> AbRecord:
    return AbRecord(
        folder=folder,
        setup=setup,
        outcome=made.outcome,
        metrics={name: MetricResult.of(finding) for name, finding in made.findings.items()},
        stop=made.stop,
        launch_pairs=made.launch_pairs,
        most=made.most,
        elapsed_s=round(made.elapsed_s, 1),
        pair_s=round(made.pair_s, 1),
        forecast=made.forecasts,
        marked=written.marked(),
        records={arm: _arm_record(written, arm) for arm in ARMS},
    )


def _arm_record(written: Journal, arm: Arm) -> ArmRecord:
    launches = [launch for launch in written.launches if launch.arm == arm]
    first = launches[0]
    return ArmRecord(first.description, first.versions, first.machine, [launch.load_s for launch in launches])
