"""run.json, the index of a run folder: the run's name, its engines in order, and the origin of its parts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engines.base import first_line
from harness import files
from harness.figures.measure_names import parse
from harness.figures.measures import HEADLINE
from harness.manifest import MAX_BENCHMARKS
from harness.published import PublishedComparison
from harness.store import FILE, StoreError, WrongFolder

INDEX = "run.json"
FORMAT = 1  # 1: first version, 2026-11
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # name of an engine and of its folder
# A run folder may come from a stranger, and every engine and every measure costs time in every report.
MAX_BYTES = 4 * 2**20  # of run.json and workers.json
MAX_NAME = 200  # characters of the run's name
MAX_REASON = 2_000  # characters of the reason why an engine could not score; what is longer is cut
MAX_ENGINES = 200
MAX_MEASURES = 100
MAX_TABLES = 20  # published ones
MAX_RUNS = 1_000  # from which a run was merged
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
            document = files.read_json(run_dir / INDEX, most_bytes=MAX_BYTES)
            if not isinstance(document, dict) or not {"name", "engines", "unavailable"} <= document.keys():
                raise ValueError(f"{INDEX} lacks `name`, `engines` or `unavailable`")
            read = _IndexDocument.model_validate(document)
            measures = tuple(str(parse(name)) for name in read.measures)
            if measures and HEADLINE not in measures:
                raise ValueError(f"its measures lack {HEADLINE}")
            return cls(
                name=read.name,
                engines=tuple(read.engines),
                unavailable={name: reason[:MAX_REASON] for name, reason in read.unavailable.items()},
                missing=read.missing,
                published=tuple(read.published),
                measures=measures,
                notes={name: tuple(lines) for name, lines in read.notes.items()},
                part=read.part,
                merged=tuple(read.merged),
            )
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            raise _not_a_run(run_dir, f"{where} is {problem['input']!r:.60}: {problem['msg'].lower()}") from None
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise _not_a_run(run_dir, first_line(error)) from None


class _IndexDocument(BaseModel):
    """run.json with the types and sizes that a run writes."""

    model_config = ConfigDict(strict=True)

    name: str = Field(max_length=MAX_NAME)
    engines: list[Annotated[str, Field(pattern=f"^{NAME.pattern}$")]] = Field(max_length=MAX_ENGINES)
    unavailable: dict[str, str] = Field(max_length=MAX_ENGINES)
    missing: dict[str, str] = Field(default={}, max_length=MAX_BENCHMARKS)
    notes: dict[str, list[str]] = Field(default={}, max_length=MAX_ENGINES)
    published: list[PublishedComparison] = Field(default=[], max_length=MAX_TABLES)
    measures: list[str] = Field(default=[], max_length=MAX_MEASURES)
    part: str | None = Field(default=None, max_length=MAX_NAME)
    merged: list[dict[str, Any]] = Field(default=[], max_length=MAX_RUNS)


def _not_a_run(run_dir: Path, reason: str) -> StoreError:
    return StoreError(f"{run_dir} is not a run folder ({reason}): expected one that `crispbench run` wrote")


def _expected(path: Path) -> str:
    """What was expected instead of a folder without an index."""
    if (path / FILE).is_file() and (path.resolve().parent / INDEX).is_file():
        return f"it is an engine of the run {path.resolve().parent}"
    return f"it holds no {INDEX}; expected one that `crispbench run` wrote"


def worker_notes(folder: Path) -> list[str]:
    """One line with the speed of every Ray worker of the last run; empty for a run without Ray."""
    if not (folder / WORKERS).exists():
        return []
    try:
        workers = files.read_json(folder / WORKERS, most_bytes=MAX_BYTES)["workers"]
        busy = [worker for worker in workers if worker.get("pairs") and worker["busy_s"]]
        speeds = [f"{worker['pairs'] / worker['busy_s']:,.0f}" for worker in busy]
        died = sum(worker["died"] for worker in workers)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise StoreError(f"{folder / WORKERS} cannot be read ({first_line(error)}): remove it") from None
    lost = f"; {died} died during the run" if died else ""
    return [f"{len(speeds)} workers scored the last part at {', '.join(speeds)} pairs/s{lost}"] if speeds else []
