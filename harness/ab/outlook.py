"""What is said of a run before its verdict, and what it would take to know more."""

import math
import os
from collections.abc import Mapping

from harness.ab.forecast import Forecasts, pairs_for_pass
from harness.ab.records import LaunchPlan, Metric
from harness.figures.sequential import FIRST, MOST, Looks
from harness.machine import cores

BUSY = 1.0  # load average per core above which other programs wait for ours
QUIETER = "a quieter machine or longer launches (--rounds) make it narrower"


def busy(load_average: float, cores: int) -> str:
    """A warning about other work on the machine; empty if there is little of it."""
    if load_average <= BUSY * cores:
        return ""
    of = f"{cores} core{'s' if cores > 1 else ''}"
    return f"; the machine is busy (load average {load_average:.1f} on {of}), so times vary more"


def slow_line(plan: LaunchPlan, seconds: float) -> str:
    """What a first launch pair that is still under way after these seconds says about the rest."""
    if plan.minutes is None:
        return f"the first launch pair takes more than {_time(seconds)}; a verdict needs at least {FIRST}"
    fitting = int(plan.minutes * 60 / max(seconds, 1e-9))
    begin = f"the first launch pair takes more than {_time(seconds)}: {plan.minutes:g} minutes allow at most {fitting}"
    load = busy(os.getloadavg()[0], len(cores()))
    return f"{begin}{load}" if fitting >= FIRST else f"{begin}, and a verdict needs {FIRST}: it cannot be known{load}"


def pace_line(plan: LaunchPlan, most: int, pair_s: float) -> str:
    """What the first launch pair says about the rest."""
    limit = "" if most == plan.max_pairs else f" in {plan.minutes:g} minutes"
    load = busy(os.getloadavg()[0], len(cores()))
    return f"a launch pair takes {_time(pair_s)}; at most {most} are made{limit} ({_time(most * pair_s)}){load}"


def hasty_line(plan: LaunchPlan, pair_s: float) -> str:
    """Why the first launch pair was not finished."""
    wanted = math.ceil(1.2 * FIRST * pair_s / 60)
    load = busy(os.getloadavg()[0], len(cores()))
    return (
        f"a launch pair would take {_time(pair_s)}, and a verdict needs at least {FIRST}: it cannot be known in "
        f"{plan.minutes:g} minutes, but perhaps in {wanted} (--fresh --minutes {wanted}){load}"
    )


def first_line(forecasts: Forecasts, elapsed_s: float, looks: Looks) -> str:
    """The forecast at the first look."""
    most, needed = looks.numbers[-1], pairs_for_pass(forecasts)
    spreads = ", ".join(f"{name} {math.expm1(metric.spread):.1%}" for name, metric in forecasts.items())
    equal = "more launch pairs than can be counted" if needed is None else f"about {needed} launch pairs"
    time = "" if needed is None else f" ({_time(needed * elapsed_s / FIRST)})"
    shown = [f"{name} {metric.visible:.1%}" for name, metric in forecasts.items() if metric.visible is not None]
    visible = f"; {most} show a slowdown of {', '.join(shown)}" if shown else ""
    return f"launch pairs vary by {spreads}: if B is as fast as A, a pass needs {equal}{time}{visible}"


def more(undecided: Mapping[Metric, int | None], *, made: int, pair_s: float | None) -> str:
    """What it would take to know more, from the launch pairs that each undecided metric needs; empty without one."""
    names, needed = ", ".join(undecided), [number for number in undecided.values() if number is not None]
    pairs = max([*needed, made + made // 2, FIRST])
    if not undecided:
        return ""
    if len(needed) < len(undecided) or pairs > MOST:
        return f"to know more of {names}: more than {MOST} launch pairs would be needed; {QUIETER}"
    if pair_s is None:
        return f"to know more of {names}: about {pairs} launch pairs"
    seconds = pairs * pair_s
    limits = f"--max-pairs {pairs} --minutes {math.ceil(1.2 * seconds / 60)}"
    return f"to know more of {names}: about {pairs} launch pairs ({_time(seconds)}): --fresh {limits}"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
