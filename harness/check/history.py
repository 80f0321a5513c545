"""The history of a stored baseline as series of figures, each with its levels; no level spans two machines."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from harness import machine
from harness.check import sides
from harness.check.baselines import BaselineEntry
from harness.check.findings import Unit
from harness.check.launches import TimedLaunch
from harness.check.sides import CheckSide
from harness.figures.changepoints import Level, levels
from harness.figures.measures import HEADLINE
from harness.outcome import Outcome

FORMAT = 1  # 1: first version, 2026-11


class HistoryPoint(NamedTuple):
    """One entry in a series."""

    entry: int  # number of the save
    value: float  # median over its launches
    launches: tuple[float, ...]


@dataclass(frozen=True)
class Track:
    """Points that may be joined: the same work, recorded on the same machine."""

    machine: int  # index in History.machines
    points: tuple[HistoryPoint, ...]
    levels: tuple[Level, ...]  # as indices in `points`; empty if there are too few points


@dataclass(frozen=True)
class Series:
    """One figure through all entries."""

    subject: str  # benchmark or scenario
    metric: str
    unit: Unit
    tracks: tuple[Track, ...]


class SavedEntry(NamedTuple):
    """One entry as a line of a table."""

    entry: int
    saved: str
    commit: str | None
    engine: str
    launches: int
    machine: int


@dataclass(frozen=True)
class History:
    """All entries of one baseline, and their figures over time."""

    name: str
    entries: tuple[SavedEntry, ...]
    machines: tuple[str, ...]
    series: tuple[Series, ...]

    @property
    def outcome(self) -> Outcome:
        """A history is described and not judged, so it always passes."""
        return Outcome.PASS

    def document(self) -> dict[str, Any]:
        """The content that `--json` prints."""
        return {
            "format": FORMAT,
            "name": self.name,
            "entries": [entry._asdict() for entry in self.entries],
            "machines": list(self.machines),
            "series": [_series_document(series) for series in self.series],
        }


def read(name: str, entries: Sequence[BaselineEntry]) -> History:
    """Every series of the entries. Raises StoreError."""
    machines: list[Mapping[str, Any]] = []
    tracks: dict[FigureKey, dict[tuple[int, str], list[HistoryPoint]]] = {}
    saved = []
    for entry in entries:
        index = _machine_index(machines, entry.machine)
        saved.append(SavedEntry(entry.number, entry.saved, entry.commit, entry.engine, entry.launches, index))
        for key, work, values in _figures(sides.read(entry.folders)):
            point = HistoryPoint(entry.number, float(np.median(values)), tuple(values))
            tracks.setdefault(key, {}).setdefault((index, work), []).append(point)
    series = (
        Series(*key, tuple(_track(index, points, key.unit) for (index, _), points in by_work.items()))
        for key, by_work in tracks.items()
    )
    return History(name, tuple(saved), tuple(map(_machine_name, machines)), tuple(series))


def _machine_index(machines: list[Mapping[str, Any]], record: Mapping[str, Any]) -> int:
    """Index of the machine among those seen so far; a new machine is appended."""
    for index, earlier in enumerate(machines):
        if not machine.differences(earlier, record):
            return index
    machines.append(record)
    return len(machines) - 1


class FigureKey(NamedTuple):
    """The figure that a point belongs to."""

    subject: str
    metric: str
    unit: Unit


def _figures(side: CheckSide) -> Iterator[tuple[FigureKey, str, list[float]]]:
    """Key, the work that was done, and the value of every launch: nDCG@10, then p50 and throughput."""
    for name, row in (side.recorded.rows if side.recorded else {}).items():
        quality = row.measures.get(HEADLINE)
        if quality is not None:
            lists = "" if row.candidates is None else row.candidates.sha256
            yield FigureKey(name, HEADLINE, "nDCG"), f"{row.revision} {lists}", [quality.value]
    for subject, launches in side.timed.items():
        if sides.invalid(launches):  # of a run: a save refuses recordings that are not valid
            continue
        p50 = [launch.times["p50"].seconds for launch in launches if "p50" in launch.times]
        pair_s = [launch.times["throughput"].seconds for launch in launches if subject != "server"]
        yield from _figure(FigureKey(subject, "p50", "s"), launches, p50)
        rates = [None if seconds is None else 1 / seconds for seconds in pair_s]
        yield from _figure(FigureKey(subject, "throughput", "pairs/s"), launches, rates)


def _figure(
    key: FigureKey, launches: Sequence[TimedLaunch], values: Sequence[float | None]
) -> Iterator[tuple[FigureKey, str, list[float]]]:
    measured = [value for value in values if value is not None]
    if measured:
        yield key, repr(launches[0].work), measured


def _track(machine_index: int, points: Sequence[HistoryPoint], unit: Unit) -> Track:
    """A track with its levels. Times change by shares, so their levels are fitted to logarithms."""
    values = [point.value for point in points]
    if unit == "nDCG":
        return Track(machine_index, tuple(points), tuple(levels(values)))
    logarithms = levels([math.log(value) for value in values])
    return Track(
        machine_index, tuple(points), tuple(level._replace(value=math.exp(level.value)) for level in logarithms)
    )


def _machine_name(record: Mapping[str, Any]) -> str:
    gpu = "" if record.get("gpu", "none") == "none" else f"{record['gpu']}, "
    return f"{gpu}{record['cpu']}, {record['cores']} cores"


def _series_document(series: Series) -> dict[str, Any]:
    return {
        "subject": series.subject,
        "metric": series.metric,
        "unit": series.unit,
        "tracks": [
            {
                "machine": track.machine,
                "points": [point._asdict() for point in track.points],
                "changes": [change._asdict() for change in changes(track)],
            }
            for track in series.tracks
        ],
    }


class ChangePoint(NamedTuple):
    """The entry at which a new level begins."""

    entry: int
    before: float
    after: float


def changes(track: Track) -> list[ChangePoint]:
    """The entries at which the levels of a track meet, oldest first."""
    return [
        ChangePoint(track.points[new.start].entry, old.value, new.value)
        for old, new in zip(track.levels, track.levels[1:], strict=False)
    ]


def title(series: Series) -> str:
    return f"{series.subject} {series.metric}"


def machine_letter(index: int) -> str:
    """A, B, ..., Z, AA, ..."""
    more, last = divmod(index, 26)
    return (machine_letter(more - 1) if more else "") + chr(ord("A") + last)
