"""The manifest of a RUN/ENGINE folder: the configuration that made the scores of one engine, as frozen records.

This module imports the engines' contract and nothing of the harness. Only `read` and `read_description` know how older
versions wrote a manifest.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import PurePath
from typing import Any, Self, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from engines.base import Description, ScoreKind

# 1: first version, 2026-11
# 2: a description states its score kind and whether the model is a demonstration, 2026-11-28
FORMAT = 2
# A recorded run may come from a stranger, and every row of a report costs a part of a second.
MAX_BENCHMARKS = 200  # of one engine; the largest suite has 18, several suites together some 60
MAX_NAME = 2_000  # characters of a benchmark's name
MAX_TEXT = 10_000  # characters of any other text
Record = TypeVar("Record")


@dataclass(frozen=True)
class Machine:
    """The machine that made the scores. In a merged run, a field holds all values: `NVIDIA H100 | NVIDIA H200`."""

    system: str
    cpu: str
    cores: str
    memory_gib: str
    gpu: str  # names of all GPUs, or `none`
    gpu_driver: str  # or `none`

    @property
    def host(self) -> str:
        """Processor, cores and memory in one line, as every report shows them."""
        return f"{self.cpu}, {self.cores} cores, {self.memory_gib} GiB"

    def document(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Read the fields of a record, which may hold more. Raises KeyError for a missing field, ValueError."""
        return typed(cls, {field.name: document[field.name] for field in fields(cls)})

    @classmethod
    def joined(cls, machines: Sequence["Machine"]) -> Self:
        """One record for several machines, in which every field holds all values."""
        documents = [machine.document() for machine in machines]
        values = {field.name: dict.fromkeys(document[field.name] for document in documents) for field in fields(cls)}
        return cls(**{name: " | ".join(distinct) for name, distinct in values.items()})


@dataclass(frozen=True)
class CandidatesRecord:
    """The origin of a benchmark's candidates, and the bounds that they set for any reranker."""

    source: str  # bm25, run, native, dense
    k: int  # largest number of candidates per query
    parameters: Mapping[str, Any]
    sha256: str  # hash of the lists
    recall: float  # R@k
    oracle: float  # nDCG@10 in the best possible order
    random: float  # expected nDCG@10 in random order

    def document(self) -> dict[str, Any]:
        return {**vars(self), "parameters": dict(self.parameters)}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        return typed(cls, {field.name: document[field.name] for field in fields(cls)})


ADDED = ("available", "without_candidates", "alarms")  # fields of a benchmark that older manifests do not have


@dataclass(frozen=True)
class BenchmarkRecord:
    """The data, rules and candidates of a benchmark that was scored."""

    revision: str
    split: str
    queries: int
    documents: int
    analysis: str
    remove_self: bool
    warnings: tuple[str, ...]
    candidates: CandidatesRecord
    # Added on 2026-11-28 and written only if they say something, so that older manifests read and compare as before.
    available: int | None = None  # queries that the benchmark has, of which `queries` were taken; None: unknown
    without_candidates: tuple[str, ...] = ()  # ids of the queries for which the first stage found no document
    alarms: tuple[str, ...] = ()  # warnings that make the figures doubtful, which reports show above them

    def document(self) -> dict[str, Any]:
        stated = {name: value for name, value in vars(self).items() if value or name not in ADDED}
        lists = {name: list(value) for name, value in stated.items() if isinstance(value, tuple)}
        return {**stated, **lists, "candidates": self.candidates.document()}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        values = {field.name: document[field.name] for field in fields(cls) if field.name not in ADDED}
        lists = {
            "without_candidates": tuple(map(str, document.get("without_candidates", ()))),
            "alarms": tuple(map(str, document.get("alarms", ()))),
            "warnings": tuple(document["warnings"]),
        }
        candidates = CandidatesRecord.read(document["candidates"])
        return typed(cls, {**values, **lists, "available": document.get("available"), "candidates": candidates})

    @property
    def decisive(self) -> dict[str, Any]:
        """The values that decide which results are possible, by their paths in the document."""
        return {
            "revision": self.revision,
            "split": self.split,
            "remove_self": self.remove_self,
            "candidates.sha256": self.candidates.sha256,
        }


@dataclass(frozen=True)
class Manifest:
    """The configuration that made the scores of one engine. Different configurations never share a store."""

    engine: str  # name in the config
    kind: str
    options: Mapping[str, Any]
    description: Description
    versions: Mapping[str, str]
    machine: Machine
    benchmarks: Mapping[str, BenchmarkRecord]  # by name
    machines: Sequence[Machine] = ()  # all machines of a run that was merged from different ones

    def document(self) -> dict[str, Any]:
        """The manifest as plain JSON data."""
        return {
            "format": FORMAT,
            "engine": self.engine,
            "kind": self.kind,
            "options": dict(self.options),
            "description": self.description.document(),
            "versions": dict(self.versions),
            "machine": self.machine.document(),
            "benchmarks": {name: entry.document() for name, entry in self.benchmarks.items()},
            **({"machines": [machine.document() for machine in self.machines]} if self.machines else {}),
        }

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Read a manifest of any version. Raises KeyError, TypeError or ValueError for another document."""
        _check_sizes(document)
        written = document["format"]
        if written not in (1, FORMAT):
            raise ValueError(f"its format is {written!r}, this version reads 1 and {FORMAT}")
        values = {
            "engine": document["engine"],
            "kind": document["kind"],
            "options": document["options"],
            "description": read_description(document, typed=written >= FORMAT),
            "versions": document["versions"],
            "machine": Machine.read(document["machine"]),
            "benchmarks": {name: BenchmarkRecord.read(entry) for name, entry in document["benchmarks"].items()},
            "machines": tuple(map(Machine.read, document.get("machines", ()))),
        }
        return typed(cls, values)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.document(), sort_keys=True).encode()).hexdigest()


def typed(record: Callable[..., Record], values: Mapping[str, Any]) -> Record:
    """A record whose values have the types of its fields. Raises KeyError for a missing one, ValueError."""
    for name, adapter in _adapters(record).items():
        try:
            adapter.validate_python(values[name], strict=True)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, (name, *problem["loc"])))
            raise ValueError(f"{where} is {problem['input']!r:.60}: {problem['msg'].lower()}") from None
    return record(**values)


@cache
def _adapters(record: Any) -> dict[str, TypeAdapter[Any]]:
    """What checks each field of a record."""
    hints = get_type_hints(record)
    return {field.name: TypeAdapter(hints[field.name]) for field in fields(record)}


def _check_sizes(document: Mapping[str, Any]) -> None:
    """Raise ValueError for more benchmarks or longer texts than a run writes."""
    benchmarks = document["benchmarks"]
    if len(benchmarks) > MAX_BENCHMARKS:
        raise ValueError(f"it has {len(benchmarks):,} benchmarks, expected at most {MAX_BENCHMARKS}")
    waiting: list[Any] = [document]
    longest = max(map(len, benchmarks), default=0)
    if longest > MAX_NAME:
        raise ValueError(f"a benchmark's name has {longest:,} characters, expected at most {MAX_NAME}")
    while waiting:
        value = waiting.pop()
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise ValueError(f"a text has {len(value):,} characters, expected at most {MAX_TEXT:,}")
        if isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            waiting += value


# Kinds whose descriptions had no score kind before format 2. Their scores were log-odds.
_LOG_ODDS_BEFORE_2 = ("torch", "tensorrt_llm")
_DEMONSTRATION_BEFORE_2 = "demo"  # name of the folder that held the one demonstration model, checkpoints/demo


def read_description(record: Mapping[str, Any], *, typed: bool) -> Description:
    """The description in a manifest or in a recording's header; without `typed`, of a version that lacked fields."""
    description = Description.read(record["description"])
    if typed or record["kind"] not in _LOG_ODDS_BEFORE_2:
        return description
    return replace(
        description,
        score_kind=ScoreKind.LOG_ODDS,
        demonstration=PurePath(description.model).name == _DEMONSTRATION_BEFORE_2,
    )
