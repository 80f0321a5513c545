"""The Python API of crispbench: score pairs, evaluate rankings, run and compare benchmarks, read what a run recorded.

`import crispbench` loads nothing else; each name loads its module when it is first used. docs/python.md has examples.

Every error raised on purpose is a CrispbenchError with a message of one line:

    CrispbenchError
    ├── EngineError
    │   ├── BadOptions          an option is unknown or has a wrong value
    │   ├── EngineUnavailable   a package, a device, a file or a server is missing
    │   └── ScoringFailed       pairs have no score
    ├── ConfigError             a config cannot be used
    ├── BenchmarkError          queries, documents, judgements or rankings are wrong or missing
    │   └── BenchmarkUnavailable  a package, a server or the source's own code failed
    └── StoreError              recorded results cannot be read or written
        ├── NotComparable       results of two configurations do not belong together
        └── WrongFolder         a folder is not a run, or not an engine of a run
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crispbench.evaluation import QualityResult, evaluate
    from crispbench.recorded import Run, ScoredPair, compare, read_run, run
    from crispbench.scoring import score
    from engines.base import BadOptions, CrispbenchError, EngineError, EngineUnavailable, Pair, ScoringFailed
    from harness.benchmarks.base import BenchmarkError, BenchmarkUnavailable
    from harness.compare.verb import CompareResult
    from harness.config import ConfigError
    from harness.records import Row
    from harness.store import NotComparable, StoreError, WrongFolder

__version__ = "0.1.0"

__all__ = [
    "BadOptions",
    "BenchmarkError",
    "BenchmarkUnavailable",
    "CompareResult",
    "ConfigError",
    "CrispbenchError",
    "EngineError",
    "EngineUnavailable",
    "NotComparable",
    "Pair",
    "QualityResult",
    "Row",
    "Run",
    "ScoredPair",
    "ScoringFailed",
    "StoreError",
    "WrongFolder",
    "compare",
    "evaluate",
    "read_run",
    "run",
    "score",
]

_MODULES = {
    "BadOptions": "engines.base",
    "BenchmarkError": "harness.benchmarks.base",
    "BenchmarkUnavailable": "harness.benchmarks.base",
    "CompareResult": "harness.compare.verb",
    "ConfigError": "harness.config",
    "CrispbenchError": "engines.base",
    "EngineError": "engines.base",
    "EngineUnavailable": "engines.base",
    "NotComparable": "harness.store",
    "Pair": "engines.base",
    "QualityResult": "crispbench.evaluation",
    "Row": "harness.records",
    "Run": "crispbench.recorded",
    "ScoredPair": "crispbench.recorded",
    "ScoringFailed": "engines.base",
    "StoreError": "harness.store",
    "WrongFolder": "harness.store",
    "compare": "crispbench.recorded",
    "evaluate": "crispbench.evaluation",
    "read_run": "crispbench.recorded",
    "run": "crispbench.recorded",
    "score": "crispbench.scoring",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'crispbench' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
