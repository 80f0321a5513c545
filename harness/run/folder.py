"""run.json, the index of a run folder: the run's name, its engines in order, and the origin of its parts."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import files
from harness.figures.measure_names import parse
from harness.published import PublishedComparison
from harness.store import FILE, StoreError, WrongFolder

INDEX = "run.json"
FORMAT = 1  # 1: first version, 2026-11
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # name of an engine and of its folder
WORKERS = "workers.json"  # written for an engine whose last run used Ray


@dataclass(frozen=True)
class RunIndex:
    """The data for a report that are not in a store. They are not part of a store's fingerprint."""

    name: str
    engines: Sequence[str]  # in the config's order
    unavailable: Mapping[str, str]  # engine -> the reason why it could not score
    missing: Mapping[str, str] = field(default_factory=dict)  # benchmark -> the reason why it could not be loaded
    published: Sequence[PublishedComparison] = ()  # published tables to show beside the run
    measures: Sequence[str] = ()  # names as ir_measures writes them; empty: the standard measures
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)  # engine -> what its preflight said
    part: str | None = None  # the part of the queries in the run, such as "3/16"; None: all queries
    merged: Sequence[Mapping[str, Any]] = ()  # the runs from which this run was merged

    def write(self, run_dir: Path) -> None:
        optional = {
            "missing": dict(self.missing),
            "published": [comparison.model_dump(mode="json") for comparison in self.published],
            "measures": list(self.measures),
            "notes": {name: list(lines) for name, lines in self.notes.items()},
            "part": self.part,
            "merged": [dict(run) for run in self.merged],
        }
        document = {
            "format": FORMAT,
            "name": self.name,
            "engines": list(self.engines),
            "unavailable": dict(self.unavailable),
            **{name: value for name, value in optional.items() if value},
        }
        run_dir.mkdir(parents=True, exist_ok=True)
        files.write_json(run_dir / INDEX, document)

    @classmethod
    def read(cls, run_dir: Path) -> "RunIndex":
        """Read the index of a run folder. Raises WrongFolder if this is not one, StoreError if it is damaged."""
        if not (run_dir / INDEX).is_file():
            raise WrongFolder(f"{run_dir} is not a run folder: {_expected(run_dir)}")
        try:
            document: dict[str, Any] = json.loads((run_dir / INDEX).read_text(encoding="utf-8"))
            if not {"name", "engines", "unavailable"} <= document.keys():
                raise ValueError(f"{INDEX} lacks `name`, `engines` or `unavailable`")
            if not all(NAME.fullmatch(engine) for engine in document["engines"]):
                raise ValueError(f"{INDEX} names an engine that cannot be a folder name")
            return cls(
                name=document["name"],
                engines=tuple(document["engines"]),
                unavailable=document["unavailable"],
                missing=document.get("missing", {}),
                published=tuple(map(PublishedComparison.model_validate, document.get("published", ()))),
                measures=tuple(str(parse(name)) for name in document.get("measures", ())),
                notes={str(name): tuple(map(str, lines)) for name, lines in document.get("notes", {}).items()},
                part=document.get("part"),
                merged=tuple(document.get("merged", ())),
            )
        except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise StoreError(
                f"{run_dir} is not a run folder ({reason}): expected one that `crispbench run` wrote"
            ) from None


def _expected(path: Path) -> str:
    """What was expected instead of a folder without an index."""
    if (path / FILE).is_file() and (path.resolve().parent / INDEX).is_file():
        return f"it is an engine of the run {path.resolve().parent}"
    return f"it holds no {INDEX}; expected one that `crispbench run` wrote"


def worker_notes(folder: Path) -> list[str]:
    """One line with the speed of every Ray worker of the last run; empty for a run without Ray."""
    if not (folder / WORKERS).is_file():
        return []
    workers = json.loads((folder / WORKERS).read_text(encoding="utf-8"))["workers"]
    busy = [worker for worker in workers if worker.get("pairs") and worker["busy_s"]]
    speeds = [f"{worker['pairs'] / worker['busy_s']:,.0f}" for worker in busy]
    died = sum(worker["died"] for worker in workers)
    lost = f"; {died} died during the run" if died else ""
    return [f"{len(speeds)} workers scored the last part at {', '.join(speeds)} pairs/s{lost}"] if speeds else []
