"""One launch: a fresh process that loads one engine and scores on command.  python -m harness.ab.launch

JSON lines in, JSON lines out. The first line is a LaunchSetup, which holds the texts; each further line is a turn: the
numbers of the queries to score. The process ends with its input. Everything that a library prints goes to
standard error, because standard output is for the replies.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import engines
from engines.base import Engine, EngineError, Pair
from harness import machine
from harness.ab import conditions
from harness.ab.records import LaunchSetup
from harness.run.loop import checked

Reply = Callable[[dict[str, Any]], None]


def main() -> int:
    """Serve until the input ends. After an error, which is the last reply, return 1."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        serve(iter(sys.stdin.readline, ""), reply)
    except EngineError as error:
        reply({"error": str(error)})
        return 1
    except Exception as error:  # the edge of a process, which has no other way to report a failure
        reply({"error": f"{type(error).__name__}: {' '.join(str(error).split())}"})
        return 1
    return 0


def serve(commands: Iterator[str], reply: Reply) -> None:
    """Load the engine of the first command, then take every turn. Raises EngineError."""
    setup = LaunchSetup(**json.loads(next(commands)))
    queries = [[Pair(query, document) for document in documents] for query, documents in setup.questions]
    started_s = time.perf_counter()
    folder = None if setup.config_folder is None else Path(setup.config_folder)
    with engines.load(setup.kind, engines.options(setup.kind, setup.options, folder)) as engine:
        if engine.prepares != "nothing":
            engine.prepare(setup.documents, analysis=setup.analysis)
        reply(
            {
                "pid": os.getpid(),
                "load_s": time.perf_counter() - started_s,
                "description": engine.describe().document(),
                "versions": machine.versions(),
                "machine": machine.machine().document(),
            }
        )
        with _frozen():
            for command in commands:
                turn = json.loads(command)
                reply(take(engine, [queries[number] for number in turn["numbers"]]))


def take(engine: Engine, queries: Sequence[Sequence[Pair]]) -> dict[str, Any]:
    """Score one query after the other, and time each call of `score` in seconds. Raises EngineError."""
    service_s = []
    with _no_collection():
        start = conditions.start()
        for pairs in queries:
            started_s = time.perf_counter()
            scores = engine.score(pairs)
            service_s.append(time.perf_counter() - started_s)
            checked(scores, pairs)
        during = conditions.since(start)
    return {"service_s": service_s, "conditions": during._asdict()}


@contextmanager
def _frozen() -> Iterator[None]:
    """Keep what was loaded out of later collections: a full collection of torch's objects takes 100 ms."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect garbage before a turn, never within it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


if __name__ == "__main__":
    sys.exit(main())
