"""The largest rate that keeps to an objective, by doubling and bisection. Pure: who measures a rate is its caller's.

It claims no more than was seen: a rate that passed, and one above it that did not.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from harness.config import Search
from harness.figures.percentiles import floors_of, objective
from harness.latency.recording import Recording
from harness.latency.summary import Summary
from harness.latency.validity import examine

QUANTILE = 0.99
LEAST = floors_of(QUANTILE).conservative  # requests that can pass at all: 662
RESERVE = 1.2  # a Poisson schedule may end before its mean; effective samples are fewer than requests

Verdict = Literal["pass", "fail", "inconclusive", "invalid"]


class SearchTerms(NamedTuple):
    """What a search begins with."""

    rate: float  # requests per second
    queries: int  # of a probe, at least
    least_s: float  # that a probe lasts
    plan: Search

    def first(self, rate: float) -> int:
        """How many requests of this rate can pass and last long enough."""
        return max(self.queries, round(RESERVE * LEAST), round(RESERVE * rate * self.least_s))

    def most(self, rate: float) -> int:
        return self.plan.longest * self.first(rate)


class SearchStep(NamedTuple):
    rate: float
    queries: int


class Probe(NamedTuple):
    """One rate, measured."""

    rate: float
    queries: int
    verdict: Verdict
    wanted: int = 0  # requests that would decide, as far as they tell, where it is inconclusive
    reason: str = ""  # why it is invalid or inconclusive


class Found(NamedTuple):
    rate: float | None  # the largest that passed
    above: float | None  # the smallest above it that did not
    verdict: Verdict  # pass: the one above failed and is within the width
    reason: str = ""


def search(probe: Callable[[SearchStep], Probe], terms: SearchTerms, now: Callable[[], float]) -> Found:
    """Probe rates until two of them enclose the largest one closely enough, or probes or time are used up."""
    probes: list[Probe] = []
    until_s = now() + terms.plan.seconds
    while len(probes) < terms.plan.probes and now() < until_s and (step := following(probes, terms)) is not None:
        probes.append(probe(step))
    return conclude(probes, terms.plan)


def following(probes: Sequence[Probe], terms: SearchTerms) -> SearchStep | None:
    """What to measure next; None at the end.

    Doubling while all pass, halving while none does, then the geometric mean of the two that enclose the answer. A
    rate that was not decided is measured again with more requests before it counts as one that did not pass.
    """
    if not probes:
        return SearchStep(terms.rate, terms.first(terms.rate))
    last = probes[-1]
    if last.verdict == "invalid":
        return None
    if last.verdict == "inconclusive" and last.queries < terms.most(last.rate):
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


def conclude(probes: Sequence[Probe], plan: Search) -> Found:
    """What the probes say, whoever stopped them."""
    passed, above = _bracket(probes)
    last = {probe.rate: probe for probe in probes}  # the last of each rate
    stopped = next((probe for probe in probes if probe.verdict == "invalid"), None)
    if stopped is not None:
        reason = f"the measurement at {stopped.rate:.4g}/s is invalid: {stopped.reason}"
        return Found(passed, above, "invalid", reason)
    if above is not None and last[above].verdict == "inconclusive":
        limit = last[above]
        why = f": {limit.reason}" if limit.reason else ""
        return Found(passed, above, "inconclusive", f"{limit.queries:,} requests at {above:.4g}/s do not decide{why}")
    if passed is not None and above is not None and above <= passed * (1 + plan.width):
        return Found(passed, above, "pass")
    if passed is None and above is not None:
        return Found(None, above, "fail", f"no rate passed, down to {above:.4g}/s")
    return Found(passed, above, "inconclusive", f"{len(probes)} measurements did not come closer; see latency.search")


def sentence(found: Found, slo_ms: float) -> str:
    """What was found, in no more words than were seen."""
    goal = f"p99 within {slo_ms:g} ms"
    best = f"{goal} was seen up to {found.rate:.4g}/s" if found.rate is not None else f"{goal} was seen at no rate"
    beyond = f", and missed at {found.above:.4g}/s" if found.verdict == "pass" and found.above is not None else ""
    return best + beyond + (f" ({found.verdict}: {found.reason})" if found.reason else "")


def judged(recording: Recording, summary: Summary) -> Probe:
    """A recording of one rate as a probe.

    A generator that was behind its schedule says nothing of the server, except where the server was too slow already
    from the sending on: being late only lowers its load.
    """
    settings = summary.header["settings"]
    place = (settings["rate"], settings["queries"])
    found = examine(recording, summary.response, summary.duration_s)
    harmless = {*found.behind, *found.unsteady}
    for cause in found.causes:
        if cause not in harmless:
            return Probe(*place, "invalid", reason=cause)
    sent = [float("inf") if timing.error is not None else timing.service_s for timing in recording.timings]
    if objective(sent, settings["slo_ms"] / 1e3, QUANTILE).verdict == "fail":
        return Probe(*place, "fail")
    if found.behind:
        return Probe(*place, "invalid", reason=found.behind[0])
    due = [float("inf") if timing.error is not None else timing.response_s for timing in recording.timings]
    seen = objective(due, settings["slo_ms"] / 1e3, QUANTILE)
    if seen.verdict == "fail":
        return Probe(*place, "fail")
    wanted = round(RESERVE * seen.needed * seen.n / seen.n_eff) if seen.n_eff else 0
    if found.unsteady:
        return Probe(*place, "inconclusive", wanted, found.unsteady[0])
    return Probe(*place, seen.verdict, wanted)


def _bracket(probes: Sequence[Probe]) -> tuple[float | None, float | None]:
    """The largest rate that passed, and the smallest that did not."""
    verdicts = {probe.rate: probe.verdict for probe in probes}
    passed = [rate for rate, verdict in verdicts.items() if verdict == "pass"]
    others = [rate for rate, verdict in verdicts.items() if verdict in ("fail", "inconclusive")]
    return max(passed, default=None), min(others, default=None)
