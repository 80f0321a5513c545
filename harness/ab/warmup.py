"""When a launch is warm: its times are steady from one warm-up turn to the next. Pure."""

import math
from collections.abc import Sequence

import numpy as np

MOST_TURNS = 6  # a launch that is not steady by then is measured all the same, and marked
STEADY = 0.05  # largest change of the median request's time, as a logarithm, between two turns


def is_steady(turns: Sequence[Sequence[float]]) -> bool:
    """Whether the last two turns, in seconds per request and of the same requests, differ by at most STEADY."""
    return len(turns) > 1 and abs(change(turns)) <= STEADY


def unsteady(turns: Sequence[Sequence[float]]) -> list[str]:
    """The mark of a launch that did not become steady; empty if it did, or if it had no warm-up."""
    if len(turns) < MOST_TURNS or is_steady(turns):
        return []
    return [f"its times still changed by {abs(math.expm1(change(turns))):.0%} in warm-up turn {len(turns)}"]


def change(turns: Sequence[Sequence[float]]) -> float:
    """Median over the requests of the logarithm of the time in the last turn over that in the turn before."""
    return float(np.median(np.log(np.asarray(turns[-1])) - np.log(np.asarray(turns[-2]))))
