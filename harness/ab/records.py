"""The frozen records of an A/B run, from its processes to its verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from engines.base import Description
from harness.figures.sequential import RepeatedInterval
from harness.outcome import Outcome

Arm = Literal["A", "B"]
Metric = Literal["p50", "p95", "p99", "throughput"]

ARMS: tuple[Arm, Arm] = ("A", "B")
METRICS: tuple[Metric, ...] = ("p50", "p95", "p99", "throughput")


@dataclass(frozen=True)
class LaunchPlan:
    """The size of an A/B run. A launch is one fresh process of one engine; a launch of each engine is a launch pair."""

    max_pairs: int = 100  # launch pairs after which the run ends without a decision
    minutes: float | None = 30.0  # no launch pair is started that would end later; None for no limit
    rounds: int = 20  # rounds per engine in a launch pair
    queries: int = 5  # queries per round
    warmup: int = 10  # queries per warm-up turn, which is repeated until the times are steady; 0 for no warm-up
    cores: Sequence[int] = ()  # cores to which the processes are pinned; empty if they are not

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> "LaunchPlan":
        """The plan of a record. Format 1 had a fixed number of launch pairs, without a limit in time."""
        if "launch_pairs" in fields:
            rest = {name: value for name, value in fields.items() if name != "launch_pairs"}
            return cls(max_pairs=fields["launch_pairs"], minutes=None, **rest)
        return cls(**fields)

    @property
    def queries_of_a_launch(self) -> int:
        return self.rounds * self.queries


STANDARD = LaunchPlan()


class Round(NamedTuple):
    """The queries that one launch scored in one turn, in order."""

    service_s: Sequence[float]
    pairs: Sequence[int]  # (query, document) pairs per query


Launch = Sequence[Round]  # the measured rounds of one process


class LaunchPair(NamedTuple):
    """Two processes, one per engine, whose rounds took turns: round i of both scored the same queries."""

    a: Launch
    b: Launch


@dataclass(frozen=True)
class MetricFinding:
    """One metric and its outcome against the margin. `outcome` is None if the metric was not measured."""

    metric: Metric
    margin: float  # share by which B may be slower
    outcome: Outcome | None
    slowdowns: Sequence[float] = ()  # one per launch pair, as logarithms of the ratio
    interval: RepeatedInterval | None = None
    reason: str = ""  # reason if it is not measured or not decided


Findings = Mapping[Metric, MetricFinding]


class Stop(StrEnum):
    """Why no further launch pair was started."""

    DECIDED = "decided"
    MOST_PAIRS = "max_pairs"
    TIME = "minutes"
    FUTILE = "futile"  # not even more than twice the launch pairs that are left could decide


class TurnConditions(NamedTuple):
    """Conditions of the machine during a turn; a value is None if the system does not report it."""

    wall_s: float
    others_cores: float | None  # cores that other processes kept busy
    cores: int
    load_average: float | None  # over 1 minute, own processes included
    cpu_mhz: float | None  # clock of the fastest core at the end of the turn
    gpu_mhz: float | None  # SM clock of the fastest GPU at the end of the turn


@dataclass(frozen=True)
class Turn:
    """The queries and times of one launch in one turn; round 0 is its warm-up."""

    launch_pair: int  # from 1
    arm: Arm
    round: int
    query_ids: Sequence[str]
    pairs: Sequence[int]
    service_s: Sequence[float]
    warmup: int  # number of leading queries that do not count
    conditions: TurnConditions

    @property
    def measured(self) -> Round:
        """The queries that count."""
        return Round(self.service_s[self.warmup :], self.pairs[self.warmup :])


@dataclass(frozen=True)
class LaunchSetup:
    """Everything that a process needs to load its engine and to take turns: its first line of input."""

    kind: str
    options: Mapping[str, Any]
    query_ids: Sequence[str]
    questions: Sequence[tuple[str, Sequence[str]]]  # per query: its text, and the texts of its candidates
    documents: Sequence[str]  # documents to prepare; empty if the engine prepares nothing
    analysis: str  # text analysis for the benchmark's language, which BM25 uses
    config_folder: str | None = None  # where relative paths are looked for after the working directory


@dataclass(frozen=True)
class LoadedLaunch:
    """A process that has loaded its engine."""

    launch_pair: int
    arm: Arm
    pid: int
    load_s: float
    description: Description
    versions: Mapping[str, str]
    machine: Mapping[str, Any]


class MarkedLaunch(NamedTuple):
    """A launch during which other processes worked or a clock changed, or whose times never became steady."""

    launch_pair: int
    arm: Arm
    marks: Sequence[str]
