"""`crispbench list`: what a config may name (engines, dialects, benchmarks, suites, published tables, templates)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import engines
from engines.base import BadOptions, EngineError
from engines.prompts.template import load_template, template_names
from engines.remote import dialects
from engines.spelling import expected
from harness import benchmarks
from harness.benchmarks import BenchmarkError
from harness.benchmarks.suites import K, Suite, load_suite, suite_names
from harness.outcome import Outcome
from harness.published import load_table, table_names


def engine_lines() -> dict[str, str]:
    return {name: _engine_line(name) for name in engines.names()}


def dialect_lines() -> dict[str, str]:
    return {name: _dialect_line(name) for name in dialects.names()}


def benchmark_lines() -> dict[str, str]:
    return {name: _source_line(name) for name in benchmarks.names()}


def template_lines() -> dict[str, str]:
    return {name: f"{load_template(name).description} ({load_template(name).sha256[:8]})" for name in template_names()}


def suite_lines() -> dict[str, str]:
    return {name: _suite_line(load_suite(name)) for name in suite_names()}


def suite_documents() -> dict[str, dict[str, Any]]:
    """The members of every suite by name, with their sizes and shares of the average; None for an unknown size."""
    return {name: _suite_document(load_suite(name)) for name in suite_names()}


def published_lines() -> dict[str, str]:
    tables = [load_table(name) for name in table_names()]
    return {table.name: f"{table.title} ({', '.join(table.models)}; read {table.retrieved})" for table in tables}


CATALOGUES: Mapping[str, Callable[[], Mapping[str, str]]] = {
    "engines": engine_lines,
    "dialects": dialect_lines,
    "benchmarks": benchmark_lines,
    "suites": suite_lines,
    "published": published_lines,
    "templates": template_lines,
}


@dataclass(frozen=True)
class ListResult:
    """One catalogue: names with a line about each."""

    catalogue: str
    entries: Mapping[str, str]
    details: Mapping[str, Any]  # name -> JSON data; empty for a catalogue whose entries are only a line each

    @property
    def outcome(self) -> Outcome:
        return Outcome.PASS

    def document(self) -> dict[str, Any]:
        return {self.catalogue: dict(self.details or self.entries)}

    def lines(self) -> Sequence[str]:
        width = max(map(len, self.entries))
        return [f"{name:<{width}}  {description}" for name, description in self.entries.items()]


def list(catalogue: str) -> ListResult:  # has the name of its verb; this module does not use the built-in `list`
    """The entries of a catalogue of CATALOGUES. Raises BadOptions for another name."""
    if catalogue not in CATALOGUES:
        raise BadOptions(f"{catalogue!r} cannot be listed; {expected(catalogue, CATALOGUES)}")
    details = suite_documents() if catalogue == "suites" else {}
    return ListResult(catalogue, CATALOGUES[catalogue](), details)


def _suite_line(suite: Suite) -> str:
    sizes = {
        "benchmarks": len(suite.members),
        "queries": suite.queries,
        "documents": suite.documents,
        f"pairs at k={K}": suite.pairs(),
    }
    written = (f"{'unknown' if number is None else format(number, ',')} {unit}" for unit, number in sizes.items())
    return f"{suite.description}: {', '.join(written)}"


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
    except EngineError as error:  # an engine of another package that cannot be imported must not hide the others
        return f"cannot be used: {error}"


def _dialect_line(name: str) -> str:
    try:
        dialects.find(name)
        return _first_line(dialects.PORT.targets()[name].partition(":")[0])  # a dialect may reuse another's functions
    except EngineError as error:
        return f"cannot be used: {error}"


def _source_line(name: str) -> str:
    try:
        return _first_line(benchmarks.source_class(name).__module__)
    except BenchmarkError as error:
        return f"cannot be used: {error}"


def _first_line(module: str) -> str:
    """The first line of a module's docstring, which says what the module is."""
    import importlib

    return (importlib.import_module(module).__doc__ or "").strip().splitlines()[0]
