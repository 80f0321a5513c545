"""What a config may name: engines, benchmark sources, suites, published tables, templates; one line about each."""

from collections.abc import Callable, Mapping
from typing import Any

import engines
from engines.base import EngineError
from engines.prompts.template import load_template, template_names
from harness.benchmarks import SOURCES
from harness.benchmarks.suites import K, Suite, load_suite, suite_names
from harness.published import load_table, table_names


def engine_lines() -> dict[str, str]:
    return {name: _engine_line(name) for name in engines.names()}


def benchmark_lines() -> dict[str, str]:
    return {name: _first_line(target.partition(":")[0]) for name, target in SOURCES.items()}


def template_lines() -> dict[str, str]:
    return {name: f"{load_template(name).description} ({load_template(name).sha256[:8]})" for name in template_names()}


def suite_lines() -> dict[str, str]:
    return {name: _suite_line(load_suite(name)) for name in suite_names()}


def suite_documents() -> dict[str, dict[str, Any]]:
    """Every member by name, with its size and its share of the average; what is not known is None."""
    return {name: _suite_document(load_suite(name)) for name in suite_names()}


def published_lines() -> dict[str, str]:
    tables = [load_table(name) for name in table_names()]
    return {table.name: f"{table.title} ({', '.join(table.models)}; read {table.retrieved})" for table in tables}


CATALOGUES: dict[str, Callable[[], dict[str, str]]] = {
    "engines": engine_lines,
    "benchmarks": benchmark_lines,
    "suites": suite_lines,
    "published": published_lines,
    "templates": template_lines,
}
DOCUMENTS: dict[str, Callable[[], Mapping[str, Any]]] = {
    "suites": suite_documents
}  # where --json says more than a line


def _suite_line(suite: Suite) -> str:
    sizes = {
        "benchmarks": len(suite.members),
        "queries": suite.queries,
        "documents": suite.documents,
        f"pairs at k={K}": suite.pairs(),
    }
    known = (f"{'unknown' if number is None else format(number, ',')} {what}" for what, number in sizes.items())
    return f"{suite.description}: {', '.join(known)}"


def _suite_document(suite: Suite) -> dict[str, Any]:
    weights = suite.weights
    return {
        "description": suite.description,
        "source": suite.source,
        "queries": suite.queries,
        "documents": suite.documents,
        f"pairs at k={K}": suite.pairs(),
        "members": {
            member.name: {
                "benchmark": dict(member.benchmark),
                "queries": member.queries,
                "documents": member.documents,
                f"pairs at k={K}": member.pairs(),
                "group": member.group,
                "weight": weights[member.name],
            }
            for member in suite.members
        },
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
