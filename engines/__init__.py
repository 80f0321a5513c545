"""Engines turn (query, document) pairs into scores. They know nothing of the harness.

`load("torch", {"model": ...})` returns one by name; another package adds its own under the entry point
group `crispbench.engines`. Importing this package imports no torch.
"""

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from engines.base import BadOptions, Engine, EngineError, EngineUnavailable, Options, Pair, Retriever, ScoringFailed
from engines.base import read_options as _read_options
from engines.prompts.template import create_mxbai_v2_reranker_prompt_template

__all__ = [
    "ENGINES",
    "BadOptions",
    "Engine",
    "EngineError",
    "EngineUnavailable",
    "Pair",
    "Retriever",
    "ScoringFailed",
    "create_mxbai_v2_reranker_prompt_template",
    "engine_class",
    "load",
    "names",
    "options",
]

ENGINES = {
    "bi_encoder": "engines.sentence_transformers.bi_encoder:BiEncoder",
    "bm25": "engines.bm25.engine:BM25",
    "cross_encoder": "engines.sentence_transformers.cross_encoder:CrossEncoder",
    "fake": "engines.fake:Fake",
    "remote": "engines.remote.engine:Remote",
    "tensorrt_llm": "engines.tensorrt_llm:TensorRTLLM",
    "torch": "engines.torch.engine:TorchEngine",
}


def names() -> list[str]:
    """Names of all engines, our own and those of installed packages."""
    return sorted(_table())


def engine_class(name: str) -> type[Engine]:
    """The class behind a name; imports its module. Raises BadOptions for an unknown name, EngineUnavailable."""
    table = _table()
    if name not in table:
        raise BadOptions(f"engine kind {name!r} is not known; known are {', '.join(sorted(table))}")
    module, _, attribute = table[name].partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise EngineUnavailable(f"engine kind {name!r} points to {table[name]!r}: {error}") from None
    if not (isinstance(found, type) and issubclass(found, Engine)):
        raise BadOptions(f"engine kind {name!r} points to {table[name]!r}, which is no Engine")
    return found


def options(name: str, values: Mapping[str, Any]) -> Options:
    """The engine's validated options, without loading a model. Raises BadOptions."""
    return _read_options(engine_class(name).options_type, values, name)


def load(name: str, values: Mapping[str, Any]) -> Engine:
    """An engine ready to score. Raises BadOptions or EngineUnavailable."""
    return engine_class(name)(options(name, values))


def _table() -> dict[str, str]:
    found = {point.name: point.value for point in entry_points(group="crispbench.engines")}
    return {**found, **ENGINES}
