"""One side of a check: its scores, and its launches of every scenario. This module judges nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.base import BadOptions, Description
from harness import machine
from harness.compare import comparability
from harness.compare.comparability import Recorded, template_difference
from harness.latency import summary
from harness.latency.recording import Header
from harness.latency.summary import Summary
from harness.manifest import Manifest
from harness.store import FILE, NotComparable, StoreError

LATENCY = "latency"
SCENARIOS = ("single-stream", "server", "offline")
SHORT = 24  # characters of a value that a message shows


@dataclass(frozen=True)
class CheckSide:
    """RUN/ENGINE folders that recorded one engine. Every folder with a recording is one launch of it."""

    folders: tuple[Path, ...]
    recorded: Recorded | None  # scores of the first folder that has any
    launches: Mapping[str, tuple[Summary, ...]]  # scenario -> one recording per folder that has one

    @property
    def most_launches(self) -> int:
        return max(map(len, self.launches.values()), default=0)

    @property
    def source(self) -> Header | Manifest:
        """The record that identifies the engine: the header of a recording, or the manifest of the scores."""
        first = next((launch.header for launches in self.launches.values() for launch in launches), None)
        if first is not None:
            return first
        assert self.recorded is not None, "read() returns no empty side"
        return self.recorded.manifest


def read(folders: Sequence[Path]) -> CheckSide:
    """The content of the folders. Raises BadOptions for a folder named twice, StoreError for one that holds nothing."""
    resolved = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, resolved, strict=True):
        if resolved.count(path) > 1:
            raise BadOptions(f"{folder} is given twice: every folder is one launch, so name different folders")
    recorded, launches = None, dict[str, tuple[Summary, ...]]()
    for folder in folders:
        paths = recordings(folder)
        if not paths and not (folder / FILE).is_file():
            raise StoreError(
                f"{folder} holds neither {FILE} nor {LATENCY}/*{summary.SUFFIX}: expected a RUN/ENGINE folder that "
                "`crispbench run` or `crispbench latency` wrote"
            )
        if recorded is None and (folder / FILE).is_file():
            recorded = comparability.read(folder)
        for path in paths:
            launches[path.stem] = (*launches.get(path.stem, ()), summary.read(path))
    return CheckSide(tuple(folders), recorded, {name: launches[name] for name in SCENARIOS if name in launches})


def recordings(folder: Path) -> list[Path]:
    return sorted((folder / LATENCY).glob(f"*{summary.SUFFIX}"))


def invalid(launches: Sequence[Summary]) -> str:
    """The reason why one of the recordings is not valid; empty if all are."""
    for launch in launches:
        if launch.verdict != "VALID":
            return f"a recording is {launch.verdict}: {'; '.join(launch.causes)}"
    return ""


def require_one_engine(side: CheckSide) -> None:
    """Raise NotComparable unless all launches of a side are of one engine on one machine."""
    for launches in side.launches.values():
        first = launches[0].header
        for launch in launches[1:]:
            phrases = [
                *obstacles(first, launch.header, allow=("template",)),  # the template is part of the description
                *described(first, launch.header),
                *map(differing, machine.differences(first.machine, launch.header.machine)),
            ]
            if phrases:
                where = f"{side.folders[0]} and the other folders beside it"
                raise NotComparable(f"{where} are not launches of one engine on one machine: {'; '.join(phrases)}")


def obstacles(baseline: Header, current: Header, allow: Sequence[str]) -> list[str]:
    """Differences in the work of two recordings of a scenario, from their headers; one phrase per difference."""
    before, now = work(baseline), work(current)
    if before["benchmark"] != now["benchmark"]:
        return [f"benchmark {before['benchmark']} -> {now['benchmark']}"]
    changed = [
        f"{name} {_short(value)} -> {_short(now.get(name))}" for name, value in before.items() if value != now.get(name)
    ]
    return [*changed, *([] if "template" in allow else _templates(baseline.description, current.description))]


def work(header: Header) -> dict[str, Any]:
    """The work that a recording timed: recordings of different work cannot be compared."""
    settings = header.settings
    open_loop = {"rate": settings.rate, "arrivals": settings.arrivals, "workers": settings.workers}
    return {
        "benchmark": header.benchmark,
        **header.benchmark_entry.decisive,
        "queries": header.requests,
        "warmup": settings.warmup,
        "seed": settings.seed,
        **(open_loop if header.scenario == "server" else {}),
    }


def _templates(before: Description, now: Description) -> Iterator[str]:
    difference = template_difference(before, now)
    if difference is not None:
        yield f"{difference.field} {_short(difference.before)} -> {_short(difference.now)} (--allow template)"


def described(baseline: Header | Manifest, current: Header | Manifest) -> list[str]:
    """Differences between the engines of two manifests or headers; one phrase per difference."""
    before, now = (
        {"kind": source.kind, **{f"option {name}": value for name, value in source.options.items()}}
        | source.description.document()
        for source in (baseline, current)
    )
    names = [*before, *(name for name in now if name not in before)]
    return [
        f"{name} {_short(before.get(name))} -> {_short(now.get(name))}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def differing(field: machine.Differing) -> str:
    return f"{field.field} {field.first} -> {field.second}"


def _short(value: Any) -> str:
    """A value as a message shows it; a value that one side does not have is "not set"."""
    if value is None:
        return "not set"
    return f"{value[:SHORT]}..." if isinstance(value, str) and len(value) > SHORT else str(value)
