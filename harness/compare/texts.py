"""Texts of queries. Stores do not keep them; they are loaded from the run's config if the revision is the same."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from harness.config import NamedEntry, read_config
from harness.manifest import BenchmarkRecord


class QueryTexts(NamedTuple):
    """Texts of the queries of a comparison."""

    queries: Mapping[str, Mapping[str, str]]  # benchmark -> query_id -> text
    problems: tuple[str, ...]  # one phrase per benchmark that the config does not give in the recorded revision


def query_texts(config: Path, recorded: Mapping[str, BenchmarkRecord]) -> QueryTexts:
    """Queries of the recorded benchmarks (name -> manifest entry). Raises ConfigError, BadOptions, BenchmarkError."""
    queries: dict[str, Mapping[str, str]] = {}
    for entry in read_config(config).entries:
        if entry.name is None or entry.name in recorded:
            queries |= dict(_queries(entry, recorded))
    problems = [f"{config} does not give {name} in the recorded revision" for name in recorded if name not in queries]
    return QueryTexts(queries, tuple(problems))


def _queries(entry: NamedEntry, recorded: Mapping[str, BenchmarkRecord]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Name and queries, if the benchmark has the recorded revision; for a run with --limit, if its part has it."""
    benchmark = entry.benchmark.source.load()
    name = entry.name or benchmark.name
    record = recorded.get(name)
    if record is None:
        return
    if benchmark.revision != record.revision:
        benchmark = entry.benchmark.source.sampled(record.queries).load()
    if benchmark.revision == record.revision:
        yield name, benchmark.queries
