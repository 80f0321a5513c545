"""The two sides of an A/B run: their engines, their benchmark, and the setup of their processes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import engines
from harness.ab.records import ARMS, Arm, LaunchSetup
from harness.config import Config, ConfigError, choose
from harness.run.tasks import Task, prepare_first


@dataclass(frozen=True)
class AbSide:
    """One of the two engines."""

    arm: Arm
    name: str  # in the config
    setup: LaunchSetup


def choose_pair(config: Config, names: Sequence[str], *, canary: bool) -> tuple[str, str]:
    """The names of the two engines; a canary compares the first engine with itself. Raises ConfigError."""
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


def both(config: Config, names: tuple[str, str], task: Task) -> tuple[AbSide, AbSide]:
    """Both sides, which score the same queries with the same candidates."""
    a, b = (AbSide(arm, name, _setup(config, name, task)) for arm, name in zip(ARMS, names, strict=True))
    return a, b


def _setup(config: Config, name: str, task: Task) -> LaunchSetup:
    entry, benchmark = config.engines[name], task.benchmark
    lists = {query_id: doc_ids for query_id, doc_ids in task.candidates.lists.items() if doc_ids}
    prepares = engines.engine_class(entry.kind).prepares
    prepared: Mapping[str, Sequence[str]] = {
        "nothing": (),
        "candidates": list(dict.fromkeys(doc_id for doc_ids in lists.values() for doc_id in doc_ids)),
        "corpus": list(benchmark.documents),
    }
    return LaunchSetup(
        kind=entry.kind,
        options=entry.given,
        config_folder=None if entry.options.config_folder is None else str(entry.options.config_folder),
        query_ids=list(lists),
        questions=[
            (benchmark.queries[query_id], [benchmark.documents[doc_id] for doc_id in doc_ids])
            for query_id, doc_ids in lists.items()
        ],
        documents=[benchmark.documents[doc_id] for doc_id in prepared[prepares]],
        analysis=benchmark.analysis,
    )
