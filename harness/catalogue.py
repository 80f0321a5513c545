"""What a config may name: engines, benchmark sources and templates, each with one line about it."""

from collections.abc import Callable

import engines
from engines.base import EngineError
from engines.template import load_template, template_names
from harness.benchmarks import SOURCES


def engine_lines() -> dict[str, str]:
    return {name: _engine_line(name) for name in engines.names()}


def benchmark_lines() -> dict[str, str]:
    return {name: _first_line(target.partition(":")[0]) for name, target in SOURCES.items()}


def template_lines() -> dict[str, str]:
    return {name: f"{load_template(name).description} ({load_template(name).sha256[:8]})" for name in template_names()}


CATALOGUES: dict[str, Callable[[], dict[str, str]]] = {
    "engines": engine_lines,
    "benchmarks": benchmark_lines,
    "templates": template_lines,
}


def _engine_line(name: str) -> str:
    try:
        return _first_line(engines.engine_class(name).__module__)
    except EngineError as error:  # another package's engine that cannot be imported must not hide the others
        return f"cannot be used: {error}"


def _first_line(module: str) -> str:
    """A module says in its first line what it is."""
    import importlib

    return (importlib.import_module(module).__doc__ or "").strip().splitlines()[0]
