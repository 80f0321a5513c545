"""A whole A/B run from config to verdict: what `crispbench ab` does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import engines
from engines.base import EngineError
from harness import progress
from harness.ab import canary, journal, report
from harness.ab.journal import Journal
from harness.ab.launches import AbSide, LaunchFailed, run_launch_pair
from harness.ab.records import METRICS, STANDARD, AbVerdict, Arm, LaunchPair, LaunchPlan, Metric
from harness.ab.schedule import queries_wanted
from harness.ab.verdict import MARGINS, conclude, judge, red
from harness.config import Config, ConfigError, choose, read_config
from harness.files import write_json
from harness.run.tasks import Task, prepare_first

RESULTS = Path("results")
FILE = "ab.json"
ARMS: tuple[Arm, Arm] = ("A", "B")


@dataclass(frozen=True)
class AbOptions:
    """What is asked for, beside the config and its engines."""

    plan: LaunchPlan = STANDARD
    margins: Mapping[Metric, float] = field(default_factory=lambda: dict(MARGINS))
    canary: bool = False  # A against A
    fresh: bool = False  # replace the results of an earlier run


class AbResult(NamedTuple):
    folder: Path
    verdict: AbVerdict
    document: dict[str, Any]  # content of ab.json


def run_ab(
    path: Path, names: Sequence[str], terms: AbOptions, *, out: Path | None, say: Callable[[str], None]
) -> AbResult:
    """Launch, time, judge; a red set is launched once more. Everything is below `out`, default results/NAME-ab.

    Raises ConfigError before anything is launched, LaunchFailed or another EngineError if an engine cannot score;
    then, and after a kill, ab.json says that the run is incomplete, and the samples are those that there were.
    """
    config = read_config(path)
    a, b = choose_pair(config, names, canary=terms.canary)
    folder = out or RESULTS / f"{config.name}-ab"
    floor = None if terms.canary else canary.read(folder)
    folder = folder / canary.FOLDER if terms.canary else folder
    if (folder / journal.FILE).exists() and not terms.fresh:
        raise ConfigError(f"{folder} holds an earlier run: --fresh replaces it, --out names another folder")
    task = first_task(config, queries_wanted(terms.plan))
    sides = [side(arm, name, config, task) for arm, name in zip(ARMS, (a, b), strict=True)]
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    for name in report.FILES:  # of an earlier run
        (folder / name).unlink(missing_ok=True)
    document = opening(config, sides, task, terms)
    write_json(folder / FILE, document)
    try:
        with Journal.open(folder, asdict(terms.plan)) as written:
            verdict = _measure(sides, terms, written, folder, say)
    except EngineError as error:
        write_json(folder / FILE, {**document, "error": str(error)})
        raise
    document |= {"complete": True, **verdict.document(), **_evidence(written), "noise_floor": floor}
    document["notes"] = report.notes(document)
    write_json(folder / FILE, document)
    report.write(document, folder)
    return AbResult(folder, verdict, document)


def choose_pair(config: Config, names: Sequence[str], *, canary: bool) -> tuple[str, str]:
    """The two engines; a canary's are both the first one. Raises ConfigError."""
    choose(config, names)  # raises for an unknown name
    if canary and names:
        return names[0], names[0]
    if len(names) != 2 or names[0] == names[1]:
        raise ConfigError(
            f"engines {', '.join(names) or 'none'}: expected two different ones, --engine A --engine B "
            "(A against itself: --canary --engine A)"
        )
    return names[0], names[1]


def first_task(config: Config, limit: int) -> Task:
    """The config's first benchmark with at most this many queries. Raises ConfigError, BenchmarkError."""
    task = prepare_first(config, limit=limit)
    if not task.pairs:
        raise ConfigError(f"benchmark {task.benchmark.name!r}: no query has candidates, so there is nothing to time")
    return task


def side(arm: Arm, name: str, config: Config, task: Task) -> AbSide:
    """What the processes of an engine are told: options, queries with their candidates, documents to prepare."""
    entry, benchmark = config.engines[name], task.benchmark
    lists = {query_id: doc_ids for query_id, doc_ids in task.candidates.lists.items() if doc_ids}
    prepares = engines.engine_class(entry.kind).prepares
    shown: Mapping[str, Sequence[str]] = {
        "nothing": (),
        "candidates": list(dict.fromkeys(doc_id for doc_ids in lists.values() for doc_id in doc_ids)),
        "corpus": list(benchmark.documents),
    }
    setup = {
        "kind": entry.kind,
        "options": entry.given,
        "query_ids": list(lists),
        "questions": [
            [benchmark.queries[query_id], [benchmark.documents[doc_id] for doc_id in doc_ids]]
            for query_id, doc_ids in lists.items()
        ],
        "documents": [benchmark.documents[doc_id] for doc_id in shown[prepares]],
        "analysis": benchmark.analysis,
    }
    return AbSide(arm, name, setup)


def opening(config: Config, sides: Sequence[AbSide], task: Task, terms: AbOptions) -> dict[str, Any]:
    """ab.json before the first launch."""
    return {
        "format": 1,
        "name": config.name,
        "canary": terms.canary,
        "complete": False,
        "plan": asdict(terms.plan),
        "margins": {metric: terms.margins[metric] for metric in METRICS if metric in terms.margins},
        "benchmark": {"name": task.benchmark.name, **task.entry.document()},
        "arms": {
            one.arm: {"engine": one.name, "kind": one.setup["kind"], "options": one.setup["options"]} for one in sides
        },
    }


def _measure(
    sides: Sequence[AbSide], terms: AbOptions, written: Journal, folder: Path, say: Callable[[str], None]
) -> AbVerdict:
    def launch(set_: int) -> list[LaunchPair]:
        found = []
        with progress.bar(f"set {set_}", terms.plan.launch_pairs, "launch pairs") as done:
            for number in range(1, terms.plan.launch_pairs + 1):
                place = (set_, number)
                found.append(run_launch_pair(sides, terms.plan, written, number=place, logs=folder / "logs"))
                done(1)
        _same_description(written)
        return found

    first = judge(launch(1), terms.margins)
    reds = red(first)
    if not reds:
        return conclude(first)
    say(f"crispbench: slower by {', '.join(reds)}; launching a second set to confirm it")
    return conclude(first, judge(launch(2), {metric: terms.margins[metric] for metric in reds}))


def _same_description(written: Journal) -> None:
    """An engine that is another one at its next launch (a server that was replaced) is no engine to compare."""
    for arm in ARMS:
        for field_ in ("description", "versions", "machine"):
            found = [getattr(born, field_) for born in written.launches if born.arm == arm]
            other = next((one for one in found if one != found[0]), None)
            if other is not None:
                name = next(key for key in {**found[0], **other} if found[0].get(key) != other.get(key))
                raise LaunchFailed(
                    f"engine {arm}: {field_} {name!r} was {found[0].get(name)!r} and later {other.get(name)!r}; "
                    "expected the same at every launch"
                )


def _evidence(written: Journal) -> dict[str, Any]:
    machines = {arm: next(born for born in written.launches if born.arm == arm) for arm in ARMS}
    marked = [launch._asdict() for launch in written.marked()]
    return {
        "launches": len(written.launches),
        "marked": marked,
        "records": {
            arm: {
                "description": dict(born.description),
                "versions": dict(born.versions),
                "machine": dict(born.machine),
                "load_s": [each.load_s for each in written.launches if each.arm == arm],
            }
            for arm, born in machines.items()
        },
    }


def read_margins(texts: Sequence[str]) -> dict[Metric, float]:
    """The default margins, changed by texts such as `p50=0.02`; `none` leaves a metric out. Raises ConfigError."""
    margins = dict(MARGINS)
    for text in texts:
        name, _, value = text.partition("=")
        if name not in METRICS:
            raise ConfigError(f"margin {text!r}: expected METRIC=SHARE with a metric of {', '.join(METRICS)}")
        metric: Metric = name
        if value == "none":
            margins.pop(metric, None)
            continue
        try:
            margins[metric] = float(value)
        except ValueError:
            raise ConfigError(f"margin {text!r}: expected a share such as {name}=0.05, or {name}=none") from None
        if not 0 <= margins[metric] < 1:
            raise ConfigError(f"margin {text!r}: expected a share from 0 to below 1, 0.05 for 5%")
    if not margins:
        raise ConfigError(f"no metric is left: at least one of {', '.join(METRICS)} needs a margin")
    return margins
