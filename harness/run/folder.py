"""The index of a run folder: its name, its engines in order, and where its parts came from."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import files
from harness.published import PublishedComparison
from harness.store import StoreError

INDEX = "run.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of an engine, which is also its folder's
WORKERS = "workers.json"  # of an engine whose last run was over Ray


def write_index(
    run_dir: Path,
    name: str,
    engines: Sequence[str],
    unavailable: Mapping[str, str],
    published: Sequence[PublishedComparison] = (),
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
    files.write_json(run_dir / INDEX, document)


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


def _workers(folder: Path) -> list[str]:
    """How fast each worker of the last run over Ray was, in one line; nothing where there was none."""
    if not (folder / WORKERS).is_file():
        return []
    workers = json.loads((folder / WORKERS).read_text(encoding="utf-8"))["workers"]
    speeds = [f"{each['pairs'] / each['busy_s']:,.0f}" for each in workers if each.get("pairs") and each["busy_s"]]
    died = sum(each["died"] for each in workers)
    lost = f"; {died} died on the way" if died else ""
    return [f"{len(speeds)} workers scored the last part at {', '.join(speeds)} pairs/s{lost}"] if speeds else []
