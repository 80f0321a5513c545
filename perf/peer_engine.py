"""This project's torch engine as a peer's process, in the project's own environment."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from engines import load
from perf.peer_protocol import Loaded, serve


@contextmanager
def loaded(spec: Mapping[str, Any]) -> Iterator[Loaded]:
    options = {"model": spec["causal"], "template": spec["template"], "precision": spec["precision"], "device": "cpu"}
    with load("torch", options) as engine:

        def score(pairs: Sequence[Sequence[str]]) -> list[float]:
            return engine.score([(query, document) for query, document in pairs])

        yield Loaded(score, engine.describe().document(), os.getpid())


if __name__ == "__main__":
    serve(loaded)
