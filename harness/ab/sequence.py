"""The launch pairs of a run, one after the other, until the verdict is known or cannot be reached."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from harness import progress
from harness.ab.forecast import Forecasts, first_forecast, forecast, is_futile
from harness.ab.outlook import first_line, hasty_line, pace_line, slow_line
from harness.ab.records import Findings, LaunchPair, LaunchPlan, Metric, Stop
from harness.ab.schedule import requests
from harness.ab.verdict import PairSlowdowns, conclude, judge, measured, slowdowns
from harness.figures.sequential import FIRST, Looks, plan_looks
from harness.outcome import Outcome

FIRST_WORD_S = 50.0  # time after which a person is told what to expect, even within the first launch pair
PATIENCE_S = 20.0  # time in a launch pair before its progress counts
OVERTIME = 1.25  # a launch pair under way is given up only if the time is exceeded clearly


class LaunchSequence(NamedTuple):
    """The launch pairs that were made, and what follows from them."""

    launch_pairs: int  # up to the last look; a run that the time ends may have made one more
    findings: Findings
    outcome: Outcome
    stop: Stop
    most: int  # launch pairs of the last look
    elapsed_s: float
    pair_s: float  # seconds of a launch pair; an estimate if none was finished
    forecasts: Forecasts


def measure(
    launch: Callable[[int, Callable[[float], bool]], LaunchPair | None],
    plan: LaunchPlan,
    margins: Mapping[Metric, float],
    say: Callable[[str], None],
    clock: Callable[[], float],
) -> LaunchSequence:
    """Make launch pairs until a look decides, a limit is reached, or more than twice the rest could not decide.

    `launch` makes the launch pair of a number from 1, unless the function that it tells its progress to says no, and
    `clock` gives seconds. The times of the first two launch pairs set the number of the last look; nothing else of the
    data does, so the error rates hold.
    """
    begun_s = clock()
    pace = Pace(plan, clock)
    made: list[PairSlowdowns] = []
    with progress.bar("A and B", plan.max_pairs, "launch pairs") as done:

        def go_on() -> LaunchPair | None:
            launch_pair = launch(len(made) + 1, pace.fits)
            if launch_pair is not None:
                made.append(slowdowns(launch_pair, margins))
                pace.ended()
                done(1)
            return launch_pair

        with _told_within_a_minute(lambda: say(slow_line(plan, pace.at_least))):
            first = go_on()
        stop = Stop.TIME if first is None else _hopeless(first, plan, margins, pace)
        say(pace_line(plan, pace.most, pace.elapsed_s) if first else hasty_line(plan, pace.pair_s))
        if stop is None and plan.max_pairs > 1 and go_on() is None:
            stop = Stop.TIME
        looks = plan_looks(pace.most, len(measured(made)) or 1)
        while stop is None:
            if len(made) in (*looks.numbers, 2):
                stop = _stop(made, plan, margins, looks, pace)
            if stop is None and go_on() is None:
                stop = Stop.TIME
            if stop is None and len(made) == FIRST == looks.numbers[0]:
                say(first_line(forecast(judge(made, margins, most=looks.numbers[-1]), looks), pace.elapsed_s, looks))
    last_look = max((number for number in looks.numbers if number <= len(made)), default=len(made))
    findings = judge(made[:last_look], margins, most=looks.numbers[-1])
    return LaunchSequence(
        launch_pairs=last_look,
        findings=findings,
        outcome=conclude(findings),
        stop=stop,
        most=looks.numbers[-1],
        elapsed_s=clock() - begun_s,
        pair_s=pace.elapsed_s / len(made) if made else pace.pair_s,
        forecasts=forecast(findings, looks),
    )


class Pace:
    """The times at which launch pairs ended, and how many fit into the plan's time."""

    def __init__(self, plan: LaunchPlan, clock: Callable[[], float]) -> None:
        self._plan, self._clock = plan, clock
        self._ends_s = [clock()]
        self._loaded_s: float | None = None  # when the processes of the first launch pair had loaded
        self._share = 0.0  # of the launch pair under way, as far as its turns have ended
        self.pair_s = 0.0  # duration of the latest launch pair; of one under way an estimate

    def ended(self) -> None:
        """A launch pair has ended now."""
        self._ends_s.append(self._clock())
        self.pair_s = self._ends_s[-1] - self._ends_s[-2]

    def fits(self, share: float) -> bool:
        """Whether the time allows the fewest launch pairs that can decide, given the share of this one that is done."""
        now_s, made = self._clock(), len(self._ends_s) - 1
        self._share = share
        if not share:
            self._loaded_s = now_s
        if not share or self._plan.minutes is None or now_s - self._ends_s[-1] < PATIENCE_S:
            return True
        loaded_s = now_s if self._loaded_s is None else self._loaded_s
        self.pair_s = loaded_s - self._ends_s[-1] + (now_s - loaded_s) / share
        needed = max(1, min(FIRST, self._plan.max_pairs) - made)
        return self._ends_s[-1] - self._ends_s[0] + needed * self.pair_s <= OVERTIME * self._plan.minutes * 60

    @property
    def at_least(self) -> float:
        """Seconds that the launch pair under way takes at least, as the turn under way has not ended yet."""
        now_s, begun_s = self._clock(), self._ends_s[-1]
        if self._loaded_s is None:
            return now_s - begun_s
        turn = max(self._plan.warmup, self._plan.queries + 1) / requests(self._plan)
        return self._loaded_s - begun_s + (now_s - self._loaded_s) / min(1.0, self._share + turn)

    @property
    def elapsed_s(self) -> float:
        return self._ends_s[-1] - self._ends_s[0]

    @property
    def most(self) -> int:
        """The launch pairs that fit, at most those of the plan; an even number if the time decides.

        They take as long as the second one, as the first may have to read a model from a slow disk.
        """
        fitting = min(self._plan.max_pairs, self.fitting(2))
        return fitting if fitting == self._plan.max_pairs else max(1, fitting // 2 * 2)

    def fitting(self, latest: int) -> int:
        """The launch pairs that fit in all, if those to come take as long as this one, or as the last that was made."""
        if self._plan.minutes is None:
            return self._plan.max_pairs
        number = min(latest, len(self._ends_s) - 1)
        if not number:
            return self._plan.max_pairs
        pair_s = max(self._ends_s[number] - self._ends_s[number - 1], 1e-9)
        left_s = self._plan.minutes * 60 - (self._ends_s[number] - self._ends_s[0])
        return number + int(max(0.0, min(left_s / pair_s, self._plan.max_pairs)))


def _hopeless(first: LaunchPair, plan: LaunchPlan, margins: Mapping[Metric, float], pace: Pace) -> Stop | None:
    """Why one launch pair is enough to give up: a second does not fit into the time, or the rounds vary too much."""
    if pace.fitting(1) < min(2, plan.max_pairs):
        return Stop.TIME
    if plan.max_pairs < FIRST or "p50" not in slowdowns(first, margins).logs:
        return None
    looks = plan_looks(plan.max_pairs, len(margins))
    return Stop.FUTILE if is_futile({"p50": first_forecast(first, margins["p50"], looks)}, plan.max_pairs) else None


def _stop(
    made: Sequence[PairSlowdowns], plan: LaunchPlan, margins: Mapping[Metric, float], looks: Looks, pace: Pace
) -> Stop | None:
    """Why no launch pair follows this look; None to go on to the next look."""
    findings = judge(made, margins, most=looks.numbers[-1])
    if conclude(findings) is not Outcome.INCONCLUSIVE:
        return Stop.DECIDED
    following = next((number for number in looks.numbers if number > len(made)), None)
    if following is None:
        return Stop.MOST_PAIRS if looks.numbers[-1] == plan.max_pairs else Stop.TIME
    if following < min(FIRST, plan.max_pairs) or pace.fitting(len(made)) < following:
        return Stop.TIME
    if len(made) < FIRST:
        return None
    return Stop.FUTILE if is_futile(forecast(findings, looks), looks.numbers[-1]) else None


@contextmanager
def _told_within_a_minute(tell: Callable[[], None]) -> Iterator[None]:
    """Tells what to expect before the block has taken a minute."""
    timer = threading.Timer(FIRST_WORD_S, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
