"""Engines turn (query, document) pairs into scores. They know nothing of the harness.

`load("torch", {"model": ...})` returns an engine by name. Other packages add engines under the entry point group
`crispbench.engines`. Importing this package does not import torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engines.base import BadOptions, Engine, EngineError, EngineUnavailable, Options, Pair, Retriever, ScoringFailed
from engines.base import read_options as _read_options
from engines.own_errors import own_errors_as
from engines.ports import Port
from engines.prompts.template import create_mxbai_v2_reranker_prompt_template

__all__ = [
    "ENGINES",
    "BadOptions",
    "Engine",
    "EngineError",
    "EngineUnavailable",
    "Options",
    "Pair",
    "Retriever",
    "ScoringFailed",
    "create_mxbai_v2_reranker_prompt_template",
    "engine_class",
    "load",
    "names",
    "options",
    "preflight",
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

PORT = Port("crispbench.engines", "engine kind", ENGINES)


def names() -> list[str]:
    """Kinds of engines, our own and those of installed packages."""
    return PORT.names()


def engine_class(kind: str) -> type[Engine]:
    """The class behind a kind; imports its module. Raises BadOptions for an unknown kind, EngineUnavailable."""
    target = PORT.find(kind)
    if not (isinstance(target, type) and issubclass(target, Engine)):
        raise PORT.mismatch(kind, "an Engine")
    return target


def options(kind: str, values: Mapping[str, Any], config_folder: Path | None = None) -> Options:
    """The validated options of an engine, without loading a model. Raises BadOptions.

    Relative paths are looked for in the working directory, and then in `config_folder`.
    """
    return _read_options(engine_class(kind).options_type, values, kind, config_folder)


def preflight(kind: str, values: Options) -> Sequence[str]:
    """What can be said of an engine before it is loaded: notes. Raises BadOptions or EngineUnavailable."""
    with own_errors_as(EngineUnavailable):
        return engine_class(kind).preflight(values)


def load(kind: str, values: Options | Mapping[str, Any]) -> Engine:
    """An engine ready to score. Raises BadOptions or EngineUnavailable.

    `values` are what `options` returned, or a plain mapping that is validated first.
    """
    chosen, read = engine_class(kind), values if isinstance(values, Options) else options(kind, values)
    preflight(kind, read)
    with own_errors_as(EngineUnavailable):
        return chosen(read)
