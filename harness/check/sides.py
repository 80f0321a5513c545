"""One side of a check: its scores, and its launches of every scenario. This module judges nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.base import BadOptions, Description
from harness import machine
from harness.check import launches
from harness.check.launches import TimedLaunch
from harness.compare import comparability
from harness.compare.comparability import Recorded, template_difference
from harness.fingerprint import DifferingField
from harness.latency import summary
from harness.latency.recording import Header
from harness.manifest import Manifest
from harness.store import FILE, NotComparable, WrongFolder

LATENCY = "latency"
SCENARIOS = ("single-stream", "server", "offline")
SHORT = 24  # characters of a value that a message shows

Launches = Mapping[str, tuple[TimedLaunch, ...]]  # subject -> one launch per folder that has one


@dataclass(frozen=True)
class CheckSide:
    """RUN/ENGINE folders that recorded one engine. Every folder is one launch of it."""

    folders: tuple[Path, ...]
    recorded: Recorded | None  # scores of the first folder that has any
    launches: Launches  # by scenario, of `crispbench latency`
    runs: Launches  # by benchmark, of `crispbench run`

    @property
    def timed(self) -> Launches:
        """The recordings; without any, the times of the run, under subjects that say so."""
        return self.launches or {run_subject(name): launches for name, launches in self.runs.items()}

    @property
    def most_launches(self) -> int:
        return max(map(len, (*self.launches.values(), *self.runs.values())), default=0)

    @property
    def source(self) -> Header | Manifest:
        """The record that identifies the engine: the header of a recording, or the manifest of the scores."""
        first = next((launch.source for group in self.launches.values() for launch in group), None)
        if first is not None:
            return first
        assert self.recorded is not None, "read() returns no empty side"
        return self.recorded.manifest


def read(folders: Sequence[Path]) -> CheckSide:
    """The content of the folders. Raises BadOptions for a folder named twice, WrongFolder for an empty one."""
    resolved = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, resolved, strict=True):
        if resolved.count(path) > 1:
            raise BadOptions(f"{folder} is given twice: every folder is one launch, so name different folders")
    recorded = None
    timed: dict[str, tuple[TimedLaunch, ...]] = {}
    runs: dict[str, tuple[TimedLaunch, ...]] = {}
    for folder in folders:
        paths = recordings(folder)
        if not paths and not (folder / FILE).is_file():
            raise WrongFolder(f"{folder} {_not_an_engine(folder)}")
        for path in paths:
            timed[path.stem] = (*timed.get(path.stem, ()), launches.of_recording(path))
        if (folder / FILE).is_file():
            recorded = recorded or comparability.read(folder)
            for benchmark, launch in launches.of_run(folder).items():
                runs[benchmark] = (*runs.get(benchmark, ()), launch)
    return CheckSide(tuple(folders), recorded, {name: timed[name] for name in SCENARIOS if name in timed}, runs)


def _not_an_engine(folder: Path) -> str:
    """The reason why a folder is not the folder of an engine, and the next step."""
    engines = [path for path in sorted(folder.glob("*/")) if recordings(path) or (path / FILE).is_file()]
    if engines:
        return f"is a whole run: name one of its engines, such as {engines[0]}"
    return (
        f"holds neither {FILE} nor {LATENCY}/*{summary.SUFFIX}: expected a RUN/ENGINE folder that `crispbench run` or "
        "`crispbench latency` wrote"
    )


def recordings(folder: Path) -> list[Path]:
    return sorted((folder / LATENCY).glob(f"*{summary.SUFFIX}"))


def run_subject(benchmark: str) -> str:
    """The name of the times that a run recorded on this benchmark, beside the names of the scenarios."""
    return f"run {benchmark}"


def invalid(group: Sequence[TimedLaunch]) -> str:
    """The reason why the times of one of the launches cannot be used; empty if all can."""
    return next((launch.invalid for launch in group if launch.invalid), "")


def require_one_engine(side: CheckSide) -> None:
    """Raise NotComparable unless all launches of a side are of one engine on one machine."""
    usable = ([launch for launch in group if not launch.invalid] for group in side.runs.values())
    for group in (*side.launches.values(), *usable):
        for launch in group[1:]:
            first = group[0]
            phrases = [
                *obstacles(first, launch, allow=("template",)),  # the template is part of the description
                *described(first.source, launch.source),
                *map(differing, machine.differences(first.machine, launch.machine)),
            ]
            if phrases:
                where = f"{side.folders[0]} and the other folders beside it"
                raise NotComparable(f"{where} are not launches of one engine on one machine: {'; '.join(phrases)}")


def obstacles(baseline: TimedLaunch, current: TimedLaunch, allow: Sequence[str]) -> list[str]:
    """Differences in the work of two launches; one phrase per difference."""
    before, now = baseline.work, current.work
    if before["benchmark"] != now["benchmark"]:
        return [f"benchmark {before['benchmark']} -> {now['benchmark']}"]
    changed = [_changed(name, value, now.get(name)) for name, value in before.items() if value != now.get(name)]
    lifted = "template" in allow
    return [*changed, *([] if lifted else _templates(baseline.source.description, current.source.description))]


def _changed(name: str, before: Any, now: Any) -> str:
    hidden = DifferingField(("benchmarks", "", *name.split(".")), before, now).hidden
    return f"the {hidden} changed" if hidden else f"{name} {_short(before)} -> {_short(now)}"


def _templates(before: Description, now: Description) -> Iterator[str]:
    difference = template_difference(before, now)
    if difference is not None:
        names = (before.template or "unnamed", now.template or "unnamed")
        shown = f"template {names[0]} -> {names[1]}" if names[0] != names[1] else f"the content of {names[0]} changed"
        yield f"{shown} (--allow template)"


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
