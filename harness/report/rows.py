"""The one table of a run: the rows of all its engines, from which every table, plot and page is made."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import results
from harness.compare.fidelity import fidelity
from harness.latency import percentile
from harness.published import Comparison, Reproduction, compare
from harness.records import Row, Shift
from harness.statistics import paired_difference
from harness.store import FILE, Store, StoreError

INDEX = "run.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of an engine, which is also its folder's
WORKERS = "workers.json"  # of an engine whose last run was over Ray


def write_index(
    run_dir: Path,
    name: str,
    engines: Sequence[str],
    unavailable: Mapping[str, str],
    published: Sequence[Comparison] = (),
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Remember the run's name, the order of its engines, why some could not score, and what to compare them with.

    `origin` says which part of the queries it has (`part`: "3/16"), or which runs it was merged from (`merged`).
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    document = {"format": 1, "name": name, "engines": list(engines), "unavailable": dict(unavailable)}
    document |= origin or {}
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
        if not all(NAME.fullmatch(engine) for engine in index["engines"]):
            raise ValueError(f"{INDEX} names an engine that cannot be the name of a folder")
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise StoreError(f"{run_dir} is no run folder ({error}): expected one that `crispbench run` wrote") from None
    return index


def read(run_dir: Path) -> list[Row]:
    """Rows by engine in the config's order, each set against the first engine. Raises StoreError."""
    index = read_index(run_dir)
    stored = {
        name: [replace(row, engine=name) for row in results.rows(run_dir / name)]
        for name in index["engines"]
        if (run_dir / name / FILE).is_file()
    }
    benchmarks = dict.fromkeys(row.benchmark for rows in stored.values() for row in rows)
    rows = []
    for name in index["engines"]:
        reason = index["unavailable"].get(name)
        found = stored.get(name) or [_absent(name, benchmark) for benchmark in benchmarks]
        reason = reason or (None if name in stored else "no results yet")
        rows += [replace(row, notes=(*row.notes, reason)) for row in found] if reason else found
    rows = [replace(row, folder=f"{run_dir.resolve().name}/{row.engine}") for row in rows]
    if "part" in index:
        said = f"part {index['part'].replace('/', ' of ')} of the queries: `crispbench merge` joins the parts"
        rows = [replace(row, notes=(*row.notes, said)) if row.verdict == "incomplete" else row for row in rows]
    rows = [replace(row, notes=(*row.notes, *_workers(run_dir / row.engine))) for row in rows]
    return [_shifted(_against(row, rows), rows, run_dir) for row in rows]


def reproductions(run_dir: Path, rows: Sequence[Row]) -> list[Reproduction]:
    """The published figures that the run's config names, beside those of its rows. Raises BadOptions, StoreError."""
    comparisons = map(Comparison.model_validate, read_index(run_dir).get("published", ()))
    return [found for comparison in comparisons for found in compare(comparison, rows)]


def _workers(folder: Path) -> list[str]:
    """How fast each worker of the last run over Ray was, in one line; nothing where there was none."""
    if not (folder / WORKERS).is_file():
        return []
    workers = json.loads((folder / WORKERS).read_text(encoding="utf-8"))["workers"]
    speeds = [f"{each['pairs'] / each['busy_s']:,.0f}" for each in workers if each.get("pairs") and each["busy_s"]]
    died = sum(each["died"] for each in workers)
    lost = f"; {died} died on the way" if died else ""
    return [f"{len(speeds)} workers scored the last part at {', '.join(speeds)} pairs/s{lost}"] if speeds else []


def _against(row: Row, rows: Sequence[Row]) -> Row:
    """The row with its difference to the first engine on the same candidates, where both are complete."""
    baseline = next(other for other in rows if other.benchmark == row.benchmark)
    comparable = row.verdict == baseline.verdict == "complete" and row.candidates == baseline.candidates
    if row is baseline or not comparable or len(row.per_query) < 2:
        return row
    return replace(row, against_baseline=paired_difference(row.per_query, baseline.per_query))


def _shifted(row: Row, rows: Sequence[Row], run_dir: Path) -> Row:
    """The row with how far its scores are from the first engine that has its model in another precision."""
    asked = _model(row)
    same = [other for other in rows if other.benchmark == row.benchmark and asked and _model(other) == asked]
    if not same or same[0].engine == row.engine or same[0].description["precision"] == row.description["precision"]:
        return row
    reference = same[0]
    comparable = row.verdict == reference.verdict == "complete" and row.candidates == reference.candidates
    if not comparable or len(row.per_query) < 2:
        return row
    scores = []
    for engine in (reference.engine, row.engine):
        with Store.read(run_dir / engine) as store:
            scores.append(store.scores(row.benchmark))
    found = fidelity({}, *scores, same_scale=True)
    if found.drift is None:
        return row
    difference = paired_difference(row.per_query, reference.per_query)
    shift = Shift(
        reference.engine, difference, found.queries, found.top10, found.drift.mean_absolute, found.drift.maximum
    )
    return replace(row, shift=shift)


def _model(row: Row) -> tuple[str, ...]:
    """What two precisions of one model share; empty for an engine that does not say its precision and prompt."""
    names = ("model", "revision", "template_sha256", "max_tokens")
    found = tuple(row.description.get(name, "") for name in names)
    return found if row.description.get("precision") and row.description.get("template_sha256") else ()


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
