"""Dialects by their names in a config. Other packages add dialects under the entry point group `crispbench.dialects`.

Importing this package imports no dialect and no HTTP library.
"""

from engines.ports import Port
from engines.remote.dialects.base import Dialect

DIALECTS = {
    "baseten": "engines.remote.dialects.baseten:DIALECT",
    "cohere": "engines.remote.dialects.cohere:DIALECT",
    "infinity": "engines.remote.dialects.infinity:DIALECT",
    "jina": "engines.remote.dialects.jina:DIALECT",
    "tei": "engines.remote.dialects.tei:DIALECT",
    "tei-rerank": "engines.remote.dialects.tei_rerank:DIALECT",
    "vllm": "engines.remote.dialects.vllm:DIALECT",
    "vllm-rerank": "engines.remote.dialects.vllm_rerank:DIALECT",
    "vllm-score": "engines.remote.dialects.vllm_score:DIALECT",
}

PORT = Port("crispbench.dialects", "dialect", DIALECTS)


def names() -> list[str]:
    """Names of all dialects: our own and those of installed packages."""
    return PORT.names()


def find(name: str) -> Dialect:
    """The dialect by name; imports its module. Raises BadOptions for an unknown name, EngineUnavailable."""
    target = PORT.find(name)
    if not isinstance(target, Dialect):
        raise PORT.mismatch(name, "a Dialect")
    return target
