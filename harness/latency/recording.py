"""The raw timings of one measurement, in a file of JSON lines that only grows.

The first line is the header, every answered request has a line, and the last line is the end. A measurement without an
end was killed. It stays incomplete and is never resumed: a second process has different memory and clocks, cold caches
and no queue, so its requests together with those of the first would give one number about two machines.
"""

import fcntl
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import TypeAdapter, ValidationError

from engines.base import Ceiling, Counts, Description, first_line
from harness import files
from harness.config import Latency, Scenario
from harness.latency.conditions import Conditions
from harness.latency.load import Timing
from harness.latency.telemetry import Telemetry
from harness.manifest import BenchmarkRecord, Machine, read_description, typed
from harness.store import StoreError

# 1: first version, 2026-11
# 2: a description states its score kind and whether the model is a demonstration, and a header states what the
#    recording is a part of, 2026-11-28
FORMAT = 2

MAX_BYTES = 256 * 2**20  # of a recording, some million requests

PartOf = Literal["sweep", "search"]
_TIMINGS = TypeAdapter(Timing)


@dataclass(frozen=True, kw_only=True)
class Header:
    """The first line of a recording: the engine, the benchmark, the settings and the machine."""

    engine: str  # name in the config
    kind: str
    options: Mapping[str, Any]
    description: Description
    concurrent: bool  # the engine answers several calls at a time, because its work is done elsewhere
    ceiling: Ceiling | None  # the machine's ceiling in this engine's arithmetic; None: not known
    benchmark: str
    benchmark_entry: BenchmarkRecord
    name: str  # name of the recording
    scenario: Scenario
    part_of: PartOf | None  # "sweep" for a level, "search" for a probe; None: an independent measurement
    settings: Latency  # with the number of requests
    distinct_queries: int
    warmup: tuple[Timing, ...]
    machine: Mapping[str, Any]  # harness.machine.record()
    before: Conditions
    started: str  # ISO 8601 in UTC

    @property
    def requests(self) -> int:
        """The number of requests to measure; for a sweep the smallest number."""
        assert self.settings.queries is not None  # every measurement sets it
        return self.settings.queries

    @property
    def hardware(self) -> Machine:
        return Machine.read(self.machine)

    def document(self) -> dict[str, Any]:
        return {
            **vars(self),
            "options": dict(self.options),
            "description": self.description.document(),
            "ceiling": None if self.ceiling is None else self.ceiling._asdict(),
            "benchmark_entry": self.benchmark_entry.document(),
            "settings": self.settings.model_dump(mode="json"),
            "warmup": [asdict(timing) for timing in self.warmup],
            "machine": dict(self.machine),
            "before": _plain(self.before),
        }

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Read a header of any version. Raises KeyError, TypeError or ValueError for another document."""
        written = document["format"]
        if written not in (1, FORMAT):
            raise ValueError(f"its format is {written!r}, this version reads 1 and {FORMAT}")
        values = {field.name: document[field.name] for field in fields(cls) if field.name in document}
        ceiling = document.get("ceiling")
        return typed(
            cls,
            values
            | {
                "description": read_description(document, typed=written >= 2),
                "ceiling": None if ceiling is None else Ceiling(**ceiling),
                "benchmark_entry": BenchmarkRecord.read(document["benchmark_entry"]),
                "part_of": document["part_of"] if written >= 2 else _part_of(document["name"]),
                "settings": Latency.model_validate(document["settings"]),
                "warmup": tuple(Timing(**timing) for timing in document["warmup"]),
                "before": _conditions(document["before"]),
            },
        )


@dataclass(frozen=True, kw_only=True)
class End:
    """The last line of a recording: its duration, the conditions after it, and the counts."""

    seconds: float
    after: Conditions
    cores: int  # number of cores that this process may use
    others_cores: float | None  # mean number of cores that other programs kept busy
    counts: Counts  # increase of the engine's counts
    died: tuple[str, ...]  # one phrase per load process that ended before its load
    telemetry: Telemetry

    def document(self) -> dict[str, Any]:
        return {
            **vars(self),
            "after": _plain(self.after),
            "counts": self.counts.document(),
            "died": list(self.died),
            "telemetry": self.telemetry.document(),
        }

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        return typed(
            cls,
            {
                "seconds": document["seconds"],
                "after": _conditions(document["after"]),
                "cores": document["cores"],
                "others_cores": document["others_cores"],
                "counts": Counts.read(document["counts"]),
                "died": tuple(document.get("died", ())),
                "telemetry": Telemetry.read(document["telemetry"]),
            },
        )


def _timing(line: str) -> Timing:
    """A timing with finite times. Raises ValueError."""
    try:
        timing = _TIMINGS.validate_json(line, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].lower()}") from None
    if not (isfinite(timing.scheduled_s) and isfinite(timing.sent_s) and isfinite(timing.done_s)):
        raise ValueError(f"the times of query {timing.query_id[:60]!r} are not finite")
    return timing


def _part_of(name: str) -> PartOf | None:
    """The value for a header before format 2, from names such as sweep-16 and search-3."""
    whole, _, number = name.rpartition("-")
    parts: dict[str, PartOf] = {"sweep": "sweep", "search": "search"}
    return parts.get(whole) if number.isdecimal() else None


def _plain(conditions: Conditions) -> dict[str, Any]:
    return conditions._asdict() | {"load_average": list(conditions.load_average)}


def _conditions(document: Mapping[str, Any]) -> Conditions:
    return Conditions(**{**document, "load_average": tuple(document["load_average"])})


@dataclass(frozen=True)
class Recording:
    header: Header
    timings: tuple[Timing, ...]  # in the order of their schedule
    end: End | None  # None: killed before its end


class Recorder:
    """Writes a recording behind a lock and replaces an earlier one. Threads may share it. Raises StoreError."""

    def __init__(self, path: Path, header: Header) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise StoreError(f"{path} is being written by another measurement: wait for it or use --out") from None
        self._file.truncate(0)
        self._turn = threading.Lock()
        self._write({"format": FORMAT, **header.document()})

    def add(self, timing: Timing) -> None:
        self._write(asdict(timing))

    def end(self, end: End) -> None:
        """The measurement is complete."""
        self._write({"end": end.document()})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _write(self, document: Mapping[str, Any]) -> None:
        line = json.dumps(document, ensure_ascii=False) + "\n"
        with self._turn:
            self._file.write(line)
            self._file.flush()  # to the system and not to the disk, which survives a kill and costs microseconds


def read(path: Path) -> Recording:
    """Read a recording, which may be incomplete; a line that was cut short is left out. Raises StoreError."""
    try:
        lines = files.read_text(path, most_bytes=MAX_BYTES, errors="replace").split("\n")
        first, *rest = lines[:-1]  # text after the last newline was cut short
        header = Header.read(files.parse_json(first))
        last = files.parse_json(rest[-1]) if rest else {}
        end = End.read(last["end"]) if "end" in last else None
        timings = sorted(map(_timing, rest[:-1] if "end" in last else rest), key=lambda timing: timing.scheduled_s)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        reason = first_line(error)
        raise StoreError(f"{path}: not a recording of `crispbench latency` ({reason}); measure again") from None
    return Recording(header, tuple(timings), end)
