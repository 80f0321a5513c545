"""The figures of a recording: percentiles, throughput and validity, computed from the raw timings only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.config import Scenario
from harness.figures.percentiles import Estimate, Objective, estimates, objective
from harness.latency import recording, validity
from harness.latency.efficiency import Efficiency, efficiency, seconds_of_counts
from harness.latency.load import Timing
from harness.latency.recording import End, Header, Recording

FORMAT = 1  # 1: first version, 2026-11
SUFFIX = ".jsonl"  # suffix of a recording; the suffix of its summary is .json

Validity = Literal["VALID", "INVALID", "INCOMPLETE"]


@dataclass(frozen=True)
class Summary:
    """The figures of one measurement. Failed requests are counted, but percentiles leave them out."""

    header: Header
    end: End | None
    answered: tuple[Timing, ...]
    errors: int
    verdict: Validity
    causes: tuple[str, ...]
    unchecked: tuple[str, ...]
    response: Mapping[str, Estimate]  # seconds from the schedule; empty for a single call
    service: Mapping[str, Estimate]  # seconds from the sending
    first_byte: Mapping[str, Estimate]  # seconds from the sending until the answer began; empty if not known
    delay: Mapping[str, Estimate]  # seconds from the schedule to the sending: the lateness of the generator
    duration_s: float
    pairs_per_s: float | None
    tokens_per_s: float | None
    objective: Objective | None
    efficiency: Efficiency

    @property
    def engine(self) -> str:
        return self.header.engine

    @property
    def scenario(self) -> Scenario:
        return self.header.scenario

    @property
    def benchmark(self) -> str:
        return self.header.benchmark

    def document(self) -> dict[str, Any]:
        """The content of RUN/ENGINE/latency/SCENARIO.json."""
        copied = ("engine", "kind", "benchmark", "scenario", "settings", "distinct_queries", "description", "machine")
        header = self.header.document()
        return {
            "format": FORMAT,
            **{name: header[name] for name in copied},
            "verdict": self.verdict,
            "causes": list(self.causes),
            "unchecked": list(self.unchecked),
            "answered": len(self.answered),
            "errors": self.errors,
            "warmup": header["warmup"],
            "response_s": {name: estimate._asdict() for name, estimate in self.response.items()},
            "service_s": {name: estimate._asdict() for name, estimate in self.service.items()},
            "first_byte_s": {name: estimate._asdict() for name, estimate in self.first_byte.items()},
            "delay_s": {name: estimate._asdict() for name, estimate in self.delay.items()},
            "duration_s": self.duration_s,
            "pairs_per_s": self.pairs_per_s,
            "tokens_per_s": self.tokens_per_s,
            "objective": None if self.objective is None else self.objective._asdict(),
            "ceiling": header["ceiling"],
            "efficiency": self.efficiency.document(),
            "before": header["before"],
            "end": None if self.end is None else self.end.document(),
        }


def read(path: Path) -> Summary:
    """The summary of a recording. Raises StoreError."""
    return summarise(recording.read(path))


def summarise(recorded: Recording) -> Summary:
    header, timings = recorded.header, recorded.timings
    answered = tuple(timing for timing in timings if timing.error is None)
    offline = header.scenario == "offline"
    response = {} if offline else estimates([timing.response_s for timing in answered])
    duration_s = _duration_s(timings, header.scenario)
    examination = validity.examine(recorded, response, duration_s)
    return Summary(
        header=header,
        end=recorded.end,
        answered=answered,
        errors=len(timings) - len(answered),
        verdict="INCOMPLETE" if recorded.end is None else "INVALID" if examination.causes else "VALID",
        causes=examination.causes,
        unchecked=examination.unchecked,
        response=response,
        service={} if offline else estimates([timing.service_s for timing in answered]),
        first_byte={} if offline else _first_byte(answered),
        delay={} if offline else estimates([timing.delay_s for timing in answered]),
        duration_s=duration_s,
        pairs_per_s=sum(timing.pairs for timing in answered) / duration_s if answered else None,
        tokens_per_s=_tokens_per_s(recorded, answered, duration_s),
        objective=_objective(recorded),
        efficiency=efficiency(recorded, sum(timing.pairs for timing in answered), duration_s),
    )


def _first_byte(answered: Sequence[Timing]) -> dict[str, Estimate]:
    waited_s = [timing.first_byte_s - timing.sent_s for timing in answered if timing.first_byte_s is not None]
    return estimates(waited_s) if waited_s and len(waited_s) == len(answered) else {}


def _duration_s(timings: Sequence[Timing], scenario: str) -> float:
    """The sum of the service times for a single stream; else the time from the first schedule to the last answer.

    The window of a closed loop opens and closes with an answer. n answers enclose n - 1 gaps, so that the time between
    them is scaled by n / (n - 1).
    """
    if scenario == "single-stream":
        return sum(timing.service_s for timing in timings)
    if scenario == "sweep" and len(timings) > 1:
        done_s = [timing.done_s for timing in timings]
        return (max(done_s) - min(done_s)) * len(timings) / (len(timings) - 1)
    starts, ends = [timing.scheduled_s for timing in timings], [timing.done_s for timing in timings]
    return max(ends) - min(starts) if timings else 0.0


def _tokens_per_s(recorded: Recording, answered: Sequence[Timing], duration_s: float) -> float | None:
    """The rate from the requests' tokens if they are known; else from the counts, which include failed requests."""
    tokens = [timing.tokens for timing in answered if timing.tokens is not None]
    if answered and len(tokens) == len(answered):
        return sum(tokens) / duration_s
    total = None if recorded.end is None else recorded.end.counts.tokens
    return None if total is None or not answered else total / seconds_of_counts(recorded, duration_s)


def _objective(recorded: Recording) -> Objective | None:
    slo_ms = recorded.header.settings.slo_ms
    if slo_ms is None or recorded.header.scenario != "server" or recorded.end is None:
        return None
    responses = [timing.response_s if timing.error is None else float("inf") for timing in recorded.timings]
    return objective(responses, slo_ms / 1e3)
