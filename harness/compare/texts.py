"""Texts of queries, which stores do not keep: loaded from the config of the run, if they have not changed since."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from harness.config import NamedEntry, read_config
from harness.manifest import BenchmarkRecord


class QueryTexts(NamedTuple):
    """Texts of the queries of a comparison."""

    queries: Mapping[str, Mapping[str, str]]  # benchmark -> query_id -> text
    problems: tuple[str, ...]  # one phrase per benchmark that the config no longer gives


def query_texts(config: Path, recorded: Mapping[str, BenchmarkRecord]) -> QueryTexts:
    """Queries of the recorded benchmarks (name -> manifest entry). Raises ConfigError, BadOptions, BenchmarkError."""
    queries: dict[str, Mapping[str, str]] = {}
    for entry in read_config(config).entries:
        if entry.name is None or entry.name in recorded:
            queries |= dict(_queries(entry, recorded))
    lost = [f"{config} does not give {name} in the recorded revision" for name in recorded if name not in queries]
    return QueryTexts(queries, tuple(lost))


def _queries(entry: NamedEntry, recorded: Mapping[str, BenchmarkRecord]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Name and queries, if the benchmark or its part of a run with --limit has the recorded revision."""
    benchmark = entry.benchmark.source.load()
    name = entry.name or benchmark.name
    wanted = recorded.get(name)
    if wanted is None:
        return
    if benchmark.revision != wanted.revision:
        benchmark = entry.benchmark.source.sampled(wanted.queries).load()
    if benchmark.revision == wanted.revision:
        yield name, benchmark.queries
