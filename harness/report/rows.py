"""The one table of a run: the rows of all its engines, from which every table, plot and page is made."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import results
from harness.latency import percentile
from harness.published import Comparison, Reproduction, compare
from harness.records import Row
from harness.statistics import paired_difference
from harness.store import FILE, StoreError

INDEX = "run.json"


def write_index(
    run_dir: Path,
    name: str,
    engines: Sequence[str],
    unavailable: Mapping[str, str],
    published: Sequence[Comparison] = (),
) -> None:
    """Remember the run's name, the order of its engines, why some could not score, and what to compare them with."""
    run_dir.mkdir(parents=True, exist_ok=True)
    document = {"format": 1, "name": name, "engines": list(engines), "unavailable": dict(unavailable)}
    if published:
        document["published"] = [comparison.model_dump(mode="json") for comparison in published]
    results.write_json(run_dir / INDEX, document)


def read_index(run_dir: Path) -> dict[str, Any]:
    """What `write_index` wrote. Raises StoreError if this is no run folder."""
    path = run_dir / INDEX
    try:
        index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not {"name", "engines", "unavailable"} <= index.keys():
            raise ValueError(f"{INDEX} lacks the name, the engines or the unavailable ones")
    except (OSError, ValueError, AttributeError) as error:
        raise StoreError(f"{run_dir} is no run folder ({error}): expected one that `crispbench run` wrote") from None
    return index


def read(run_dir: Path) -> list[Row]:
    """Rows by engine in the config's order, each set against the first engine. Raises StoreError."""
    index = read_index(run_dir)
    stored = {name: results.rows(run_dir / name) for name in index["engines"] if (run_dir / name / FILE).is_file()}
    benchmarks = dict.fromkeys(row.benchmark for rows in stored.values() for row in rows)
    rows = []
    for name in index["engines"]:
        reason = index["unavailable"].get(name)
        found = stored.get(name) or [_absent(name, benchmark) for benchmark in benchmarks]
        reason = reason or (None if name in stored else "no results yet")
        rows += [replace(row, notes=(*row.notes, reason)) for row in found] if reason else found
    rows = [replace(row, folder=f"{run_dir.resolve().name}/{row.engine}") for row in rows]
    return [_against(row, rows) for row in rows]


def reproductions(run_dir: Path, rows: Sequence[Row]) -> list[Reproduction]:
    """The published figures that the run's config names, beside those of its rows. Raises BadOptions, StoreError."""
    comparisons = map(Comparison.model_validate, read_index(run_dir).get("published", ()))
    return [found for comparison in comparisons for found in compare(comparison, rows)]


def _against(row: Row, rows: Sequence[Row]) -> Row:
    """The row with its difference to the first engine on the same candidates, where both are complete."""
    baseline = next(other for other in rows if other.benchmark == row.benchmark)
    comparable = row.verdict == baseline.verdict == "complete" and row.candidates == baseline.candidates
    if row is baseline or not comparable or len(row.per_query) < 2:
        return row
    return replace(row, against_baseline=paired_difference(row.per_query, baseline.per_query))


def _absent(engine: str, benchmark: str) -> Row:
    """The row of an engine that has no results."""
    return Row(
        engine=engine,
        kind="",
        benchmark=benchmark,
        verdict="incomplete",
        measures={},
        per_query={},
        queries=0,
        pairs=0,
        coverage=0.0,
        tie_rate=0.0,
        truncated=0,
        candidates={},
        p50=percentile((), 0.5),
        p90=percentile((), 0.9),
        pairs_per_s=None,
        service_s=(),
        against_baseline=None,
    )
