"""One launch: a fresh process that loads one engine and scores on command.  python -m harness.ab.launch

JSON lines in, JSON lines out. The first line says what to load and holds the texts; each further line is a turn:
queries to warm up with and queries to measure, by number. It ends with its input. What a library prints goes to
standard error, as the answers have standard output for themselves.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import engines
from engines.base import Engine, EngineError, Pair
from harness import machine
from harness.ab import conditions
from harness.run.loop import checked

Reply = Callable[[dict[str, Any]], None]


def main() -> int:
    """Serve until the input ends; 1 after an error, which is the last reply."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        serve(iter(sys.stdin.readline, ""), reply)
    except EngineError as error:
        reply({"error": str(error)})
        return 1
    except Exception as error:  # the edge of a process: it has no other way to say what happened
        reply({"error": f"{type(error).__name__}: {' '.join(str(error).split())}"})
        return 1
    return 0


def serve(commands: Iterator[str], reply: Reply) -> None:
    """Load the engine of the first command, then take every turn. Raises EngineError."""
    setup = json.loads(next(commands))
    questions = [[Pair(query, document) for document in documents] for query, documents in setup["questions"]]
    begun = time.perf_counter()
    with engines.load(setup["kind"], setup["options"]) as engine:
        if engine.prepares != "nothing":
            engine.prepare(setup["documents"], analysis=setup["analysis"])
        reply(
            {
                "pid": os.getpid(),
                "load_s": time.perf_counter() - begun,
                "description": engine.describe().document(),
                "versions": machine.versions(),
                "machine": machine.machine().document(),
            }
        )
        for command in commands:
            turn = json.loads(command)
            reply(take(engine, [questions[number] for number in turn["numbers"]]))


def take(engine: Engine, questions: Sequence[Sequence[Pair]]) -> dict[str, Any]:
    """Score one query after the other; seconds around each call of `score`. Raises EngineError."""
    service_s = []
    with _no_collection():
        begun = conditions.start()
        for pairs in questions:
            started = time.perf_counter()
            scores = engine.score(pairs)
            service_s.append(time.perf_counter() - started)
            checked(scores, pairs)
        around = conditions.since(begun)
    return {"service_s": service_s, "conditions": around._asdict()}


@contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage is collected before and after, never within: a full collection of torch's objects takes 100 ms."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


if __name__ == "__main__":
    sys.exit(main())
