"""ab.json: the typed record of an A/B run, which the report, the plot and later runs read."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import exp
from pathlib import Path
from typing import Any

from engines.base import Description, first_line
from harness import files
from harness.ab.forecast import Forecasts, MetricForecast
from harness.ab.records import ARMS, Arm, LaunchPlan, MarkedLaunch, Metric, MetricFinding, Stop
from harness.outcome import Outcome
from harness.store import StoreError

FILE = "ab.json"
FORMAT = 2  # 1: first version, 2026-11, with a second set of launches to confirm a regression; 2: one set, with looks
MAX_BYTES = 16 * 2**20  # of a result


@dataclass(frozen=True)
class ArmEngine:
    """The engine of one arm, as the config has it."""

    engine: str
    kind: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class AbSetup:
    """The facts of an A/B run before its first launch."""

    name: str  # name of the config
    canary: bool  # A against A
    plan: LaunchPlan
    margins: Mapping[Metric, float]
    benchmark: Mapping[str, Any]  # name, revision, candidates
    arms: Mapping[Arm, ArmEngine]

    def document(self) -> dict[str, Any]:
        """The content of ab.json while the run is incomplete."""
        return {
            "format": FORMAT,
            "complete": False,
            "name": self.name,
            "canary": self.canary,
            "plan": asdict(self.plan),
            "margins": dict(self.margins),
            "benchmark": dict(self.benchmark),
            "arms": {arm: asdict(engine) for arm, engine in self.arms.items()},
        }

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "AbSetup":
        return cls(
            name=document["name"],
            canary=document["canary"],
            plan=LaunchPlan.read(document["plan"]),
            margins=document["margins"],
            benchmark=document["benchmark"],
            arms={arm: ArmEngine(**document["arms"][arm]) for arm in ARMS},
        )


@dataclass(frozen=True)
class MetricResult:
    """One metric over all launch pairs. Slowdowns are ratios of times: 1.05 if B takes 5% longer.

    Unknown figures are None: all of them if the metric was not measured, and the ends of the interval if there were
    too few launch pairs.
    """

    outcome: Outcome | None
    margin: float  # share by which B may be slower
    slowdown: float | None  # Hodges-Lehmann estimate
    lo: float | None
    hi: float | None
    launch_slowdowns: Sequence[float]  # one per launch pair
    reason: str  # reason if it is not measured or not decided

    @classmethod
    def of(cls, finding: MetricFinding) -> "MetricResult":
        interval = finding.interval
        return cls(
            outcome=finding.outcome,
            margin=finding.margin,
            slowdown=None if interval is None else exp(interval.value),
            lo=None if interval is None or interval.lo is None else exp(interval.lo),
            hi=None if interval is None or interval.hi is None else exp(interval.hi),
            launch_slowdowns=[exp(value) for value in finding.slowdowns],
            reason=finding.reason,
        )

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "MetricResult":
        """The metric of any format. Format 1 had p-values and the confidence of its interval."""
        outcome = document["outcome"]
        kept = {field.name: document[field.name] for field in fields(cls)}
        return cls(**{**kept, "outcome": None if outcome is None else Outcome(outcome)})


MetricResults = Mapping[Metric, MetricResult]


@dataclass(frozen=True)
class ArmRecord:
    """The engine, versions and machine that the launches of one arm report, and their loading times."""

    description: Description
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    load_s: Sequence[float]  # seconds, one per launch

    def document(self) -> dict[str, Any]:
        return {**vars(self), "description": self.description.document()}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "ArmRecord":
        return cls(**{**document, "description": Description.read(document["description"])})


@dataclass(frozen=True)
class NoiseFloor:
    """The difference that a machine shows between an engine and itself."""

    engine: str
    options: Mapping[str, Any]
    machine: Mapping[str, Any]
    metrics: Mapping[Metric, float | None]  # distance of the interval's farther end from 1, as a share


@dataclass(frozen=True)
class AbRecord:
    """A complete A/B run, as ab.json records it."""

    folder: Path
    setup: AbSetup
    outcome: Outcome
    metrics: MetricResults
    stop: Stop
    launch_pairs: int
    most: int  # launch pairs of the last look, from the plan and the time of the first launch pair
    elapsed_s: float | None
    pair_s: float | None  # seconds of a launch pair; an estimate if none was finished
    forecast: Forecasts  # what the measured metrics need, from the launch pairs that were made
    marked: Sequence[MarkedLaunch]
    records: Mapping[Arm, ArmRecord]
    noise_floor: NoiseFloor | None = None
    notes: Sequence[str] = ()

    def document(self) -> dict[str, Any]:
        """The content of ab.json, which `--json` prints."""
        return {
            **self.setup.document(),
            "complete": True,
            "outcome": self.outcome,
            "metrics": {name: asdict(metric) for name, metric in self.metrics.items()},
            "stop": self.stop,
            "launch_pairs": self.launch_pairs,
            "most": self.most,
            "elapsed_s": self.elapsed_s,
            "pair_s": self.pair_s,
            "forecast": {name: metric._asdict() for name, metric in self.forecast.items()},
            "marked": [launch._asdict() for launch in self.marked],
            "records": {arm: record.document() for arm, record in self.records.items()},
            "noise_floor": None if self.noise_floor is None else vars(self.noise_floor),
            "notes": list(self.notes),
        }


def read(folder: Path) -> AbRecord:
    """The result in a folder. Raises StoreError if there is no result, or if the run was killed or failed."""
    path = folder / FILE
    try:
        document = files.read_json(path, most_bytes=MAX_BYTES)
        if document["format"] not in READERS:
            raise ValueError(f"its format is {document['format']!r}, this version reads up to {FORMAT}")
        if not document["complete"]:
            raise ValueError(document.get("error") or "the run is incomplete")
        return READERS[document["format"]](folder, document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} holds no result ({first_line(error)}); repeat `crispbench ab` with --fresh") from None


def _read(folder: Path, document: Mapping[str, Any]) -> AbRecord:
    return AbRecord(
        **_common(folder, document),
        stop=Stop(document["stop"]),
        launch_pairs=document["launch_pairs"],
        most=document["most"],
        elapsed_s=document["elapsed_s"],
        pair_s=document["pair_s"],
        marked=[MarkedLaunch(**launch) for launch in document["marked"]],
        forecast={name: MetricForecast(**metric) for name, metric in document["forecast"].items()},
        notes=document["notes"],
    )


def _read_format_1(folder: Path, document: Mapping[str, Any]) -> AbRecord:
    """A run with a fixed number of launch pairs, which were made once more to confirm a regression."""
    launch_pairs, confirmed = document["plan"]["launch_pairs"], document["confirmed"]
    marked = [{name: value for name, value in launch.items() if name != "set"} for launch in document["marked"]]
    said = {True: "confirmed", False: "did not confirm"}.get(confirmed)
    second = [] if said is None else [f"a second set of {launch_pairs} launch pairs {said} the first, which is shown"]
    return AbRecord(
        **_common(folder, document),
        stop=Stop.MOST_PAIRS,
        launch_pairs=launch_pairs,
        most=launch_pairs,
        elapsed_s=None,
        pair_s=None,
        marked=[MarkedLaunch(**launch) for launch in marked],
        forecast={},
        notes=[*second, *document["notes"]],
    )


READERS = {1: _read_format_1, FORMAT: _read}


def _common(folder: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that every format has."""
    floor = document["noise_floor"]
    return {
        "folder": folder,
        "setup": AbSetup.read(document),
        "outcome": Outcome(document["outcome"]),
        "metrics": {name: MetricResult.read(metric) for name, metric in document["metrics"].items()},
        "records": {arm: ArmRecord.read(document["records"][arm]) for arm in ARMS},
        "noise_floor": None if floor is None else NoiseFloor(**floor),
    }
