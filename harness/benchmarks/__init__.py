"""Benchmarks: queries, documents and judgements from a folder, from mteb, from BEIR or from this Python installation.

`load("beir", {"path": "data/scifact"})` reads one. Options are checked before any file is opened; importing this
package imports no source.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from engines.base import read_options
from harness.benchmarks.base import BenchmarkError, BenchmarkSource
from harness.records import Benchmark

__all__ = ["SOURCES", "BenchmarkError", "BenchmarkSource", "load", "source_class"]

SOURCES = {
    "beir": "harness.benchmarks.beir:BeirFolder",
    "beir_archive": "harness.benchmarks.beir_archive:BeirArchive",
    "mteb": "harness.benchmarks.mteb:MtebTask",
    "stdlib": "harness.benchmarks.stdlib:StandardLibrary",
}


def source_class(name: str) -> type[BenchmarkSource]:
    """The options class behind a name; imports its module. Raises BenchmarkError for an unknown name."""
    if name not in SOURCES:
        raise BenchmarkError(f"benchmark source {name!r} is not known; known are {', '.join(sorted(SOURCES))}")
    module, _, attribute = SOURCES[name].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, type) and issubclass(found, BenchmarkSource), SOURCES[name]
    return found


def load(source: str, options: Mapping[str, Any]) -> Benchmark:
    """The benchmark. Raises BenchmarkError, or BadOptions for a wrong option, before anything is read."""
    return read_options(source_class(source), options, source).load()
