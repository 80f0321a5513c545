"""Benchmarks: queries, documents and judgements from a folder, from mteb, from BEIR or from this Python installation.

`load("beir", {"path": "data/scifact"})` reads one. Options are checked before any file is opened. Another package adds
its own source under the entry point group `crispbench.benchmarks`; importing this package imports no source.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.base import BadOptions, EngineUnavailable, read_options
from engines.ports import Port
from harness.benchmarks.base import BenchmarkError, BenchmarkSource, BenchmarkUnavailable
from harness.records import Benchmark

__all__ = [
    "SOURCES",
    "BenchmarkError",
    "BenchmarkSource",
    "BenchmarkUnavailable",
    "load",
    "names",
    "read_source",
    "source_class",
]

SOURCES = {
    "beir": "harness.benchmarks.beir:BeirFolder",
    "beir_archive": "harness.benchmarks.beir_archive:BeirArchive",
    "mteb": "harness.benchmarks.mteb:MtebTask",
    "stdlib": "harness.benchmarks.stdlib:StandardLibrary",
}

PORT = Port("crispbench.benchmarks", "benchmark source", SOURCES)


def names() -> list[str]:
    """Names of all sources, our own and those of installed packages."""
    return PORT.names()


def source_class(name: str) -> type[BenchmarkSource]:
    """The class behind a source's name; imports its module. Raises BenchmarkError."""
    try:
        target = PORT.find(name)
    except BadOptions as error:
        raise BenchmarkError(str(error)) from None
    except EngineUnavailable as error:
        raise BenchmarkUnavailable(str(error)) from None
    if not (isinstance(target, type) and issubclass(target, BenchmarkSource)):
        raise BenchmarkError(str(PORT.mismatch(name, "a BenchmarkSource")))
    return target


def read_source(name: str, values: Mapping[str, Any], config_folder: Path | None = None) -> BenchmarkSource:
    """A source with its validated options, which has read nothing yet. Raises BenchmarkError, BadOptions."""
    return read_options(source_class(name), values, f"benchmark source {name!r}", config_folder)


def load(name: str, values: Mapping[str, Any]) -> Benchmark:
    """The benchmark of a source. Raises BenchmarkError, or BadOptions for a wrong option before anything is read."""
    return read_source(name, values).load()
