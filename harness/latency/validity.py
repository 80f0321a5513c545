"""The validity of a measurement: the causes against it, and the conditions that could not be examined."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from engines.base import Counts
from harness.figures.percentiles import Estimate, estimate
from harness.latency.conditions import Conditions
from harness.latency.load import Timing
from harness.latency.recording import End, Header, Recording
from harness.latency.telemetry import GpuTelemetry, Telemetry
from harness.report.notation import beside, exact

# The bounds come from the project's study of load generators; docs/latency.md gives the reasons.
ERRORS = 0.001  # largest share of failed requests
LATE = 0.01  # largest share of requests sent later than the bound on the delay, which bounds its p99
DELAY_OF_P50 = 0.05  # bound on the delay, as a share of the p50
DELAY_FLOOR_S = 0.001  # smallest bound on the delay: timers of a system are not better
CPU_CLOCK = 0.05  # largest relative change between the two halves
GPU_CLOCK = 0.02  # largest standard deviation over mean
DRIFT = 0.03  # largest relative gap between the intervals of the p50 of the two halves
CLIENT = 0.8  # largest share of its cores that the load generator may use; above, it measures itself
OTHERS = 0.1  # largest share of our cores that other programs may use
LIMITED = 0.01  # largest share of the time spent waiting for the CPU limit of the container
LEAST = "p90"  # a measurement without this percentile is too short


class Examination(NamedTuple):
    """The causes against a measurement in groups, one sentence each. A measurement without causes is valid."""

    disturbed: tuple[str, ...]  # causes that do not depend on the load: the machine, a dead process, a short duration
    # Too much load for the engine can also lead to the causes of the next two groups.
    behind: tuple[str, ...]  # failed and late requests
    unsteady: tuple[str, ...]  # correlated and drifting times, for which more requests may help
    unchecked: tuple[str, ...]  # names of conditions that this machine does not report

    @property
    def causes(self) -> tuple[str, ...]:
        return (*self.disturbed, *self.behind, *self.unsteady)


def examine(recording: Recording, latency: Mapping[str, Estimate], duration_s: float) -> Examination:
    """Examine a recording. `latency` has percentiles of the response time; it is empty for a single call."""
    header, end = recording.header, recording.end
    if end is None:
        requests = 1 if header.scenario == "offline" else header.requests
        cause = f"killed after {len(recording.timings)} of {requests} answers; it cannot be resumed: measure again"
        return Examination((cause,), (), (), ())
    local = not header.concurrent
    telemetry = end.telemetry
    behind = (*_errors(recording.timings, end.counts), *_late(recording.timings))
    unsteady = (*_too_few(latency), *(_drift(recording.timings) if latency else ()))
    disturbed = [
        *end.died,
        *_too_short(duration_s, header.settings.min_duration_s),
        *_machine(header.before, end, local=local),
    ]
    unchecked = [*_unread(header.before, telemetry)] if local else ["the server's machine"]
    if not local:
        disturbed += _client(header, end)
    if telemetry.cpu_mhz is not None:
        disturbed += _cpu_clock(telemetry.cpu_mhz)
    device = header.description.device
    if local and device is not None and device.kind == "gpu":
        disturbed += _gpus(telemetry.gpus)
        unchecked += [] if telemetry.gpus else ["GPU"]
    return Examination(tuple(disturbed), behind, unsteady, tuple(unchecked))


def delay_bound_s(p50_s: float) -> float:
    """The largest accepted lateness of a request: 5% of the p50, at least 1 ms."""
    return max(DELAY_OF_P50 * p50_s, DELAY_FLOOR_S)


def _errors(timings: Sequence[Timing], counts: Counts) -> Iterator[str]:
    retries, failed = counts.retries or 0, [timing for timing in timings if timing.error is not None]
    if len(failed) > ERRORS * len(timings):
        yield (f"{len(failed)} of {len(timings)} requests failed (limit {ERRORS:.1%}); the first: {failed[0].error}")
    if retries > ERRORS * len(timings):
        yield f"the engine repeated {retries} failed requests (limit {ERRORS:.1%} of all requests)"
    if counts.paced:
        yield f"{counts.paced} requests waited under requests_per_minute: leave it out to measure the server"


def _too_few(latency: Mapping[str, Estimate]) -> Iterator[str]:
    if LEAST in latency and latency[LEAST].estimate is None:
        yield f"too few samples for {LEAST}: {latency[LEAST].reason}"


def _too_short(duration_s: float, least_s: float) -> Iterator[str]:
    if duration_s < least_s:
        yield f"too short: {beside(duration_s, least_s, 1)} s of at least {exact(least_s)} s; raise latency.queries"


def _late(timings: Sequence[Timing]) -> Iterator[str]:
    """The p50 is used even if it has few effective samples, because it only sets a bound here."""
    if not timings:
        return
    bound_s = delay_bound_s(statistics.median(timing.response_s for timing in timings))
    late = sum(timing.delay_s > bound_s for timing in timings)
    if late > LATE * len(timings):
        yield (
            f"load generator behind schedule: {beside(late / len(timings) * 100, LATE * 100, 1)}% of the requests "
            f"were sent more than {bound_s * 1e3:,.1f} ms late (limit {LATE:.0%}); lower the rate or add workers"
        )


def _drift(timings: Sequence[Timing]) -> Iterator[str]:
    """Times drift if the 95% intervals of the p50 of the two halves lie more than DRIFT apart.

    In simulations without drift, at most 2% of the measurements are called drifting, including those of a queue at 95%
    of its capacity (tests/test_latency_validity.py). A plain bound of 3% between the medians would call 17% to 97% of
    them drifting.
    """
    values_s = [timing.response_s for timing in timings if timing.error is None]
    halves = values_s[: len(values_s) // 2], values_s[len(values_s) // 2 :]
    first, second = (estimate(half, 0.5) for half in halves)
    if first.lo is None or first.hi is None or second.lo is None or second.hi is None:
        return
    if second.lo > first.hi * (1 + DRIFT) or second.hi * (1 + DRIFT) < first.lo:
        shown = " to ".join(f"{(half.estimate or 0) * 1e3:,.3g} ms" for half in (first, second))
        yield (
            f"times drifted: the p50 of the halves went from {shown}, and their intervals are more than {DRIFT:.0%} "
            "apart; warm up longer, or lower the rate"
        )


def _client(header: Header, end: End) -> Iterator[str]:
    """The load generator of a remote engine. Without spare time it would measure itself."""
    own_s, seconds = end.after.own_s - header.before.own_s, end.seconds
    cores = min(header.settings.processes, end.cores)
    if own_s > CLIENT * cores * seconds:
        yield (
            f"load generator busy: it used {beside(own_s / seconds, CLIENT * cores, 2)} of {cores} cores "
            f"(limit {CLIENT * cores:g}); "
            "lower the rate or add processes"
        )


def _machine(before: Conditions, end: End, *, local: bool) -> Iterator[str]:
    after, cores, seconds, busy = end.after, end.cores, end.seconds, end.others_cores
    if local and busy is not None and busy > OTHERS * cores:
        yield (
            f"other load on the machine: other programs kept {beside(busy, OTHERS * cores, 2)} of {cores} cores busy "
            f"(limit {OTHERS * cores:g}); load average {before.load_average[0]:.1f} before, "
            f"{after.load_average[0]:.1f} after"
        )
    limited_s = _increase(before.cpu_limited_s, after.cpu_limited_s)
    if limited_s is not None and limited_s > LIMITED * seconds:
        yield f"the container's CPU limit stopped it for {limited_s:.1f} of {seconds:.1f} s"
    if _increase(before.heat_events, after.heat_events):
        yield "a core slowed down because of heat"


def _cpu_clock(halves_mhz: Sequence[float]) -> Iterator[str]:
    first, second = halves_mhz
    if abs(second / first - 1) > CPU_CLOCK:
        yield f"CPU clock changed from {first:.0f} to {second:.0f} MHz (limit {CPU_CLOCK:.0%})"


def _gpus(gpus: Sequence[GpuTelemetry]) -> Iterator[str]:
    for gpu in gpus:
        if gpu.slowed_by:
            yield f"{gpu.name} slowed down: {', '.join(gpu.slowed_by)}"
        if gpu.sm_variation is not None and gpu.sm_variation > GPU_CLOCK:
            share = beside(gpu.sm_variation * 100, GPU_CLOCK * 100, 1)
            yield f"the clock of {gpu.name} varied by {share}% (limit {GPU_CLOCK:.0%})"


def _unread(before: Conditions, telemetry: Telemetry) -> Iterator[str]:
    read = {"other load": before.busy_s, "CPU limit": before.cpu_limited_s, "heat": before.heat_events}
    yield from (name for name, value in read.items() if value is None)
    if telemetry.cpu_mhz is None:
        yield "CPU clock"


def _increase(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
