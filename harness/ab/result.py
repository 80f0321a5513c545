"""ab.json: the typed record of an A/B run, which the report, the plot and later runs read."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp
from pathlib import Path
from typing import Any

from engines.base import Description, first_line
from harness import files
from harness.ab.records import ARMS, Arm, LaunchPlan, MarkedLaunch, Metric, MetricFinding
from harness.outcome import Outcome
from harness.store import StoreError

FILE = "ab.json"
FORMAT = 1  # 1: first version, 2026-11
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
            plan=LaunchPlan(**document["plan"]),
            margins=document["margins"],
            benchmark=document["benchmark"],
            arms={arm: ArmEngine(**document["arms"][arm]) for arm in ARMS},
        )


@dataclass(frozen=True)
class MetricResult:
    """One metric over one set of launches. Slowdowns are ratios of times: 1.05 if B takes 5% longer.

    Unknown figures are None: all of them if the metric was not measured, and the ends of the interval if there were
    too few launches.
    """

    outcome: Outcome | None
    margin: float  # share by which B may be slower
    slowdown: float | None  # Hodges-Lehmann estimate
    lo: float | None
    hi: float | None
    level: float | None  # confidence of each end on its own
    p_slower: float | None  # one-sided, under the hypothesis that the slowdown is the margin or less
    p_holm: float | None  # adjusted over the metrics that were measured
    launch_slowdowns: Sequence[float]  # one per launch pair
    reason: str  # reason if it is not measured or not decided

    @classmethod
    def of(cls, finding: MetricFinding) -> "MetricResult":
        shift = finding.shift
        return cls(
            outcome=finding.outcome,
            margin=finding.margin,
            slowdown=None if shift is None else exp(shift.value),
            lo=None if shift is None or shift.lo is None else exp(shift.lo),
            hi=None if shift is None or shift.hi is None else exp(shift.hi),
            level=None if shift is None else shift.level,
            p_slower=None if shift is None else shift.p_slower,
            p_holm=finding.p_holm,
            launch_slowdowns=[exp(value) for value in finding.slowdowns],
            reason=finding.reason,
        )

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "MetricResult":
        outcome = document["outcome"]
        return cls(**{**document, "outcome": None if outcome is None else Outcome(outcome)})


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
    confirmation: MetricResults | None  # second set, for the metrics that were red in the first
    launches: int
    marked: Sequence[MarkedLaunch]
    records: Mapping[Arm, ArmRecord]
    noise_floor: NoiseFloor | None = None
    notes: Sequence[str] = ()

    @property
    def confirmed(self) -> bool | None:
        """Whether the second set was red again; None without a second set."""
        return None if self.confirmation is None else self.outcome is Outcome.REGRESSION

    def document(self) -> dict[str, Any]:
        """The content of ab.json, which `--json` prints."""
        return {
            **self.setup.document(),
            "complete": True,
            "outcome": self.outcome,
            "confirmed": self.confirmed,
            "metrics": _metrics_document(self.metrics),
            "confirmation": None if self.confirmation is None else _metrics_document(self.confirmation),
            "launches": self.launches,
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
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']!r}, this version reads {FORMAT}")
        if not document["complete"]:
            raise ValueError(document.get("error") or "the run is incomplete")
        return _read(folder, document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} holds no result ({first_line(error)}); repeat `crispbench ab` with --fresh") from None


def _read(folder: Path, document: Mapping[str, Any]) -> AbRecord:
    floor, confirmation = document["noise_floor"], document["confirmation"]
    return AbRecord(
        folder=folder,
        setup=AbSetup.read(document),
        outcome=Outcome(document["outcome"]),
        metrics=_read_metrics(document["metrics"]),
        confirmation=None if confirmation is None else _read_metrics(confirmation),
        launches=document["launches"],
        marked=[MarkedLaunch(**launch) for launch in document["marked"]],
        records={arm: ArmRecord.read(document["records"][arm]) for arm in ARMS},
        noise_floor=None if floor is None else NoiseFloor(**floor),
        notes=document["notes"],
    )


def _metrics_document(metrics: MetricResults) -> dict[str, Any]:
    return {name: asdict(metric) for name, metric in metrics.items()}


def _read_metrics(document: Mapping[Metric, Mapping[str, Any]]) -> dict[Metric, MetricResult]:
    return {name: MetricResult.read(metric) for name, metric in document.items()}
