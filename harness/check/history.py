"""The history of a stored baseline as series of figures, each with its levels; points of two machines share none."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from harness import machine
from harness.check import sides
from harness.check.baselines import BaselineEntry
from harness.check.findings import Unit
from harness.check.sides import CheckSide
from harness.figures.changepoints import Level, levels
from harness.figures.measures import HEADLINE

FORMAT = 1  # 1: first version, 2026-11


class HistoryPoint(NamedTuple):
    """One entry in a series."""

    entry: int  # number of the save
    value: float  # median of its launches
    launches: tuple[float, ...]


@dataclass(frozen=True)
class Track:
    """Points that may be joined: of the same work, recorded on the same machine."""

    machine: int  # place in History.machines
    points: tuple[HistoryPoint, ...]
    levels: tuple[Level, ...]  # places in points; empty where there are too few


@dataclass(frozen=True)
class Series:
    """One figure through all entries."""

    subject: str  # benchmark or scenario
    metric: str
    unit: Unit
    tracks: tuple[Track, ...]


class Saved(NamedTuple):
    """One entry as a line of a table."""

    entry: int
    saved: str
    commit: str | None
    engine: str
    launches: int
    machine: int


@dataclass(frozen=True)
class History:
    name: str
    entries: tuple[Saved, ...]
    machines: tuple[str, ...]
    series: tuple[Series, ...]

    def document(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "entries": [each._asdict() for each in self.entries],
            "machines": list(self.machines),
            "series": [_series_document(each) for each in self.series],
        }


def read(name: str, entries: Sequence[BaselineEntry]) -> History:
    """Every series of the entries. Raises StoreError."""
    records: list[Mapping[str, Any]] = []
    found: dict[tuple[str, str, Unit], dict[tuple[int, str], list[HistoryPoint]]] = {}
    saved = []
    for entry in entries:
        document = entry.document
        place = _place(records, document["machine"])
        saved.append(Saved(entry.number, entry.saved, entry.commit, document["engine"], document["launches"], place))
        for key, work, values in _figures(sides.read(entry.launches)):
            point = HistoryPoint(entry.number, float(np.median(values)), tuple(values))
            found.setdefault(key, {}).setdefault((place, work), []).append(point)
    series = (
        Series(*key, tuple(_track(place, points, key[2]) for (place, _), points in tracks.items()))
        for key, tracks in found.items()
    )
    return History(name, tuple(saved), tuple(map(_machine, records)), tuple(series))


def _place(records: list[Mapping[str, Any]], record: Mapping[str, Any]) -> int:
    """Number of the machine among those seen; a new one is appended."""
    for place, known in enumerate(records):
        if not machine.comparable(known, record):
            return place
    records.append(record)
    return len(records) - 1


def _figures(side: CheckSide) -> Iterator[tuple[tuple[str, str, Unit], str, list[float]]]:
    """Key, what was worked on, and the value of every launch: nDCG@10, then p50 and throughput."""
    for name, row in (side.recorded.rows if side.recorded else {}).items():
        measured = row.measures.get(HEADLINE)
        if measured is not None:
            lists = "" if row.candidates is None else row.candidates.sha256
            yield (name, HEADLINE, "nDCG"), f"{row.revision} {lists}", [measured.value]
    for scenario, launches in side.launches.items():
        work = repr(sides.work(launches[0].header))
        p50 = [launch.response["p50"].estimate for launch in launches if "p50" in launch.response]
        rates = [launch.pairs_per_s for launch in launches if scenario != "server"]
        for metric, unit, values in (("p50", "s", p50), ("throughput", "pairs/s", rates)):
            known = [value for value in values if value is not None]
            if known:
                yield (scenario, metric, unit), work, known  # type: ignore[misc]


def _track(place: int, points: Sequence[HistoryPoint], unit: Unit) -> Track:
    """Times change by shares, so their levels are those of logarithms."""
    values = [point.value for point in points]
    if unit == "nDCG":
        return Track(place, tuple(points), tuple(levels(values)))
    found = levels([math.log(value) for value in values])
    return Track(place, tuple(points), tuple(each._replace(value=math.exp(each.value)) for each in found))


def _machine(record: Mapping[str, Any]) -> str:
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
    """A level that begins."""

    entry: int  # the first of the new level
    before: float
    after: float


def changes(track: Track) -> list[ChangePoint]:
    """Where the levels of a track meet, oldest first."""
    return [
        ChangePoint(track.points[new.start].entry, old.value, new.value)
        for old, new in zip(track.levels, track.levels[1:], strict=False)
    ]
