"""The one table of a run: the rows of all its engines, from which every table, plot and page is made."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import results
from harness.latency import percentile
from harness.records import Row
from harness.statistics import paired_difference
from harness.store import StoreError

INDEX = "run.json"


def write_index(run_dir: Path, name: str, engines: Sequence[str], unavailable: Mapping[str, str]) -> None:
    """Remember the run's name, the order of its engines, and why some of them could not score."""
    run_dir.mkdir(parents=True, exist_ok=True)
    document = {"format": 1, "name": name, "engines": list(engines), "unavailable": dict(unavailable)}
    results.write_json(run_dir / INDEX, document)


def read_index(run_dir: Path) -> dict[str, Any]:
    """What `write_index` wrote. Raises StoreError if this is no run folder."""
    path = run_dir / INDEX
    try:
        index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{run_dir} is no run folder ({error}): expected one that `crispbench run` wrote") from None
    return index


def read(run_dir: Path) -> list[Row]:
    """Rows by engine in the config's order, each set against the first engine. Raises StoreError."""
    index = read_index(run_dir)
    rows = [
        row
        for engine in index["engines"]
        if engine not in index["unavailable"]
        for row in results.rows(run_dir / engine)
    ]
    rows += [
        _unavailable(engine, reason, benchmark)
        for engine, reason in index["unavailable"].items()
        for benchmark in dict.fromkeys(row.benchmark for row in rows)
    ]
    return [_against(row, rows) for row in rows]


def _against(row: Row, rows: Sequence[Row]) -> Row:
    """The row with its difference to the first engine on the same candidates, where both are complete."""
    baseline = next(other for other in rows if other.benchmark == row.benchmark)
    comparable = row.verdict == baseline.verdict == "complete" and row.candidates == baseline.candidates
    if row is baseline or not comparable:
        return row
    return replace(row, against_baseline=paired_difference(row.per_query, baseline.per_query))


def _unavailable(engine: str, reason: str, benchmark: str) -> Row:
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
        notes=(f"unavailable: {reason}",),
    )
