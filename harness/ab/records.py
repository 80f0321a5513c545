"""The frozen records of an A/B run, from the processes to the report. A leaf: imports nothing of the project."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp
from typing import Any, Literal, NamedTuple

from harness.figures.shifts import Shift

Arm = Literal["A", "B"]
Metric = Literal["p50", "p95", "p99", "throughput"]
Outcome = Literal["pass", "regression", "inconclusive"]

METRICS: tuple[Metric, ...] = ("p50", "p95", "p99", "throughput")


@dataclass(frozen=True)
class LaunchPlan:
    """How much is measured. A launch is one fresh process of one engine; two of them are a launch pair."""

    launch_pairs: int = 10
    rounds: int = 4  # of each engine in every launch pair
    queries: int = 25  # of every round
    warmup: int = 10  # queries of every launch before its first round

    @property
    def queries_of_a_launch(self) -> int:
        return self.rounds * self.queries


STANDARD = LaunchPlan()
QUICK = LaunchPlan(launch_pairs=6)


class Round(NamedTuple):
    """Queries that one launch scored in one turn, in order."""

    service_s: Sequence[float]
    pairs: Sequence[int]  # (query, document) pairs of each query


Launch = Sequence[Round]  # the measured rounds of one process


class LaunchPair(NamedTuple):
    """Two processes, one of each engine, whose rounds took turns: round i of both scored the same queries."""

    a: Launch
    b: Launch


@dataclass(frozen=True)
class MetricFinding:
    """One metric: what was found and how it stands to its margin. `outcome` is None where it was not measured."""

    metric: Metric
    margin: float  # share by which B may be slower
    outcome: Outcome | None
    slowdowns: Sequence[float] = ()  # of every launch pair, as logarithms
    shift: Shift | None = None
    p_holm: float | None = None
    reason: str = ""  # why it is not measured or not decided


@dataclass(frozen=True)
class AbVerdict:
    """Over all metrics. A regression is one only if a second, independent set of launches shows it again."""

    outcome: Outcome
    findings: Mapping[Metric, MetricFinding]
    confirmation: Mapping[Metric, MetricFinding] | None = None  # of the metrics that were red

    @property
    def confirmed(self) -> bool | None:
        """None: nothing was to be confirmed."""
        return None if self.confirmation is None else self.outcome == "regression"

    def document(self) -> dict[str, Any]:
        """The verdict as plain JSON data: slowdowns as ratios, 1.05 for 5% slower."""
        second = self.confirmation
        return {
            "outcome": self.outcome,
            "confirmed": self.confirmed,
            "metrics": {name: finding_document(found) for name, found in self.findings.items()},
            "confirmation": None
            if second is None
            else {name: finding_document(found) for name, found in second.items()},
        }


def finding_document(found: MetricFinding) -> dict[str, Any]:
    shift = found.shift
    known: dict[str, Any] = dict.fromkeys(("slowdown", "lo", "hi", "level", "p_slower"))
    if shift is not None:
        known = {
            "slowdown": exp(shift.value),
            "lo": None if shift.lo is None else exp(shift.lo),
            "hi": None if shift.hi is None else exp(shift.hi),
            "level": shift.level,
            "p_slower": shift.p_slower,
        }
    return {
        "outcome": found.outcome,
        "margin": found.margin,
        **known,
        "p_holm": found.p_holm,
        "launch_slowdowns": [exp(value) for value in found.slowdowns],
        "reason": found.reason,
    }


class TurnConditions(NamedTuple):
    """What else the machine did during a turn; None where this system does not say."""

    wall_s: float
    others_cores: float | None  # cores that other processes kept busy
    cores: int
    load_average: float | None  # 1 minute, own processes included
    cpu_mhz: float | None  # of the fastest core, at the end
    gpu_mhz: float | None  # SM clock of the fastest GPU, at the end


@dataclass(frozen=True)
class Turn:
    """What one launch did in one turn; round 0 is its warm-up."""

    set: int  # 1, or 2 for the confirmation
    launch_pair: int  # from 1
    arm: Arm
    round: int
    query_ids: Sequence[str]
    pairs: Sequence[int]
    service_s: Sequence[float]
    warmup: int  # how many of them, the first ones, do not count
    conditions: TurnConditions

    def lines(self) -> list[dict[str, Any]]:
        """One line for the turn, one for every query."""
        place = {"set": self.set, "launch_pair": self.launch_pair, "arm": self.arm, "round": self.round}
        samples = zip(self.query_ids, self.pairs, self.service_s, strict=True)
        return [
            {"event": "turn", **place, **self.conditions._asdict()},
            *(
                {
                    "event": "sample",
                    **place,
                    "query_id": query_id,
                    "pairs": pairs,
                    "service_s": service_s,
                    "warmup": number < self.warmup,
                }
                for number, (query_id, pairs, service_s) in enumerate(samples)
            ),
        ]


@dataclass(frozen=True)
class Born:
    """A process that has loaded its engine."""

    set: int
    launch_pair: int
    arm: Arm
    pid: int
    load_s: float
    description: Mapping[str, str]
    versions: Mapping[str, str]
    machine: Mapping[str, str]

    def line(self) -> dict[str, Any]:
        return {"event": "launch", **asdict(self)}
