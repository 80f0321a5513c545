"""A search for the largest rate that meets an objective, by doubling and bisection. The caller measures the rates.

The conclusion claims only what was measured: a rate that passed, and a higher rate that did not pass.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from harness.config import Search
from harness.figures.percentiles import floors_of, objective
from harness.latency.recording import Recording
from harness.latency.summary import Summary
from harness.latency.validity import examine
from harness.outcome import Outcome

QUANTILE = 0.99
LEAST = floors_of(QUANTILE).conservative  # smallest number of requests that can pass: 662
RESERVE = 1.2  # a Poisson schedule may be shorter than its mean, and there are fewer effective samples than requests


class SearchTerms(NamedTuple):
    """The settings of a search."""

    rate: float  # rate of the first probe, in requests per second
    queries: int  # smallest number of requests in a probe
    least_s: float  # shortest duration of a probe
    plan: Search

    def first(self, rate: float) -> int:
        """The number of requests with which a first probe at this rate can pass and lasts long enough."""
        return max(self.queries, round(RESERVE * LEAST), round(RESERVE * rate * self.least_s))

    def most(self, rate: float) -> int:
        return self.plan.longest * self.first(rate)


class SearchStep(NamedTuple):
    rate: float
    queries: int


class Probe(NamedTuple):
    """The measurement of one rate."""

    rate: float  # requests per second
    queries: int
    outcome: Outcome  # PASS, FAIL, INCONCLUSIVE or INVALID
    wanted: int = 0  # INCONCLUSIVE: estimated number of requests that would decide
    reason: str = ""  # reason for INVALID or INCONCLUSIVE


class RateFound(NamedTuple):
    """The conclusion of a search."""

    rate: float | None  # largest rate that passed, in requests per second
    above: float | None  # smallest higher rate that did not pass
    outcome: Outcome  # PASS: `above` failed and is within the width
    reason: str = ""

    def document(self) -> dict[str, Any]:
        return {"rate": self.rate, "above": self.above, "verdict": self.outcome, "reason": self.reason}


def search(probe: Callable[[SearchStep], Probe], terms: SearchTerms, now: Callable[[], float]) -> RateFound:
    """Probe rates until two of them enclose the answer closely enough, or until the probes or the time are used up."""
    probes: list[Probe] = []
    until_s = now() + terms.plan.seconds
    while len(probes) < terms.plan.probes and now() < until_s and (step := following(probes, terms)) is not None:
        probes.append(probe(step))
    return conclude(probes, terms.plan)


def following(probes: Sequence[Probe], terms: SearchTerms) -> SearchStep | None:
    """The next measurement; None at the end of the search.

    The rate doubles while all rates pass and halves while no rate passes. After that it is the geometric mean of the
    two rates that enclose the answer. An undecided rate is measured again with more requests before it counts as not
    passed.
    """
    if not probes:
        return SearchStep(terms.rate, terms.first(terms.rate))
    last = probes[-1]
    if last.outcome is Outcome.INVALID:
        return None
    if last.outcome is Outcome.INCONCLUSIVE and last.queries < terms.most(last.rate):
        return SearchStep(last.rate, min(max(2 * last.queries, last.wanted), terms.most(last.rate)))
    passed, above = _bracket(probes)
    if passed is None:
        rate = (above or terms.rate) / 2
    elif above is None:
        rate = passed * 2
    elif above <= passed * (1 + terms.plan.width):
        return None
    else:
        rate = math.sqrt(passed * above)
    return SearchStep(rate, terms.first(rate))


def conclude(probes: Sequence[Probe], plan: Search) -> RateFound:
    """The conclusion from these probes, for any reason why the search ended."""
    passed, above = _bracket(probes)
    last = {probe.rate: probe for probe in probes}  # the last probe of every rate
    stopped = next((probe for probe in probes if probe.outcome is Outcome.INVALID), None)
    if stopped is not None:
        reason = f"the measurement at {stopped.rate:.4g}/s is invalid: {stopped.reason}"
        return RateFound(passed, above, Outcome.INVALID, reason)
    if above is not None and last[above].outcome is Outcome.INCONCLUSIVE:
        limit = last[above]
        reason = f": {limit.reason}" if limit.reason else ""
        return RateFound(
            passed, above, Outcome.INCONCLUSIVE, f"{limit.queries:,} requests at {above:.4g}/s are not enough{reason}"
        )
    if passed is not None and above is not None and above <= passed * (1 + plan.width):
        return RateFound(passed, above, Outcome.PASS)
    if passed is None and above is not None:
        return RateFound(None, above, Outcome.FAIL, f"no rate down to {above:.4g}/s passed")
    reason = f"{len(probes)} measurements did not narrow it down to latency.search.width"
    return RateFound(passed, above, Outcome.INCONCLUSIVE, reason)


def sentence(conclusion: RateFound, slo_ms: float) -> str:
    """The conclusion in one sentence that claims only what was measured."""
    rate, above, outcome, reason = conclusion
    goal = f"p99 within {slo_ms:g} ms"
    best = f"{goal} was met up to {rate:.4g}/s" if rate is not None else f"{goal} was not met at any rate"
    beyond = f", and missed at {above:.4g}/s" if outcome is Outcome.PASS and above is not None else ""
    return best + beyond + (f" ({outcome}: {reason})" if reason else "")


def judged(recording: Recording, summary: Summary) -> Probe:
    """The recording of one rate as a probe.

    A load generator behind its schedule makes the probe invalid, unless the server was too slow even when its times
    count from the sending: a late generator can only lower the server's load.
    """
    settings = summary.header.settings
    assert settings.slo_ms is not None  # a search has an objective
    rate, queries, slo_s = settings.rate, summary.header.requests, settings.slo_ms / 1e3
    examination = examine(recording, summary.response, summary.duration_s)
    if examination.disturbed:
        return Probe(rate, queries, Outcome.INVALID, reason=examination.disturbed[0])
    service_s = [math.inf if timing.error is not None else timing.service_s for timing in recording.timings]
    if objective(service_s, slo_s, QUANTILE).verdict is Outcome.FAIL:
        return Probe(rate, queries, Outcome.FAIL)
    if examination.behind:
        return Probe(rate, queries, Outcome.INVALID, reason=examination.behind[0])
    response_s = [math.inf if timing.error is not None else timing.response_s for timing in recording.timings]
    response = objective(response_s, slo_s, QUANTILE)
    if response.verdict is Outcome.FAIL:
        return Probe(rate, queries, Outcome.FAIL)
    wanted = round(RESERVE * response.needed * response.n / response.n_eff) if response.n_eff else 0
    if examination.unsteady:
        return Probe(rate, queries, Outcome.INCONCLUSIVE, wanted, examination.unsteady[0])
    return Probe(rate, queries, response.verdict, wanted)


def _bracket(probes: Sequence[Probe]) -> tuple[float | None, float | None]:
    """The largest rate that passed, and the smallest rate that did not pass."""
    outcomes = {probe.rate: probe.outcome for probe in probes}
    passed = [rate for rate, outcome in outcomes.items() if outcome is Outcome.PASS]
    missed = [rate for rate, outcome in outcomes.items() if outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE)]
    return max(passed, default=None), min(missed, default=None)
