"""The schedule of an A/B run: the queries of each engine in each turn. Pure: equal plans give equal schedules."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from harness.ab.records import Arm, LaunchPlan

ORDERS: tuple[tuple[Arm, Arm], tuple[Arm, Arm]] = (("A", "B"), ("B", "A"))


class TurnStep(NamedTuple):
    """One measured turn of one launch."""

    arm: Arm
    round: int  # from 1
    numbers: Sequence[int]  # positions in the list of queries; the first does not count


def order(launch_pair: int) -> tuple[Arm, Arm]:
    """The arms in the order in which they start and open the first round; A is first in odd launch pairs, else B."""
    return ORDERS[(launch_pair - 1) % 2]


def warmup_numbers(plan: LaunchPlan, queries: int) -> list[int]:
    """The queries of every warm-up turn. Turns repeat the same ones, so that their times can be compared."""
    return [(plan.queries_of_a_launch + number) % queries for number in range(plan.warmup)]


def steps(plan: LaunchPlan, launch_pair: int, queries: int) -> Iterator[TurnStep]:
    """The measured turns of a launch pair: rounds in the order ABBA ABBA (BAAB BAAB in even pairs).

    Linear drift of the machine cancels within two rounds. Both engines score the same queries in the same order. The
    measured queries come first in the list, and the warm-up queries follow; a list that is too short starts again. Each
    turn begins with one query that does not count, because the other process has just used the caches.
    """
    first, second = order(launch_pair)
    for round_ in range(1, plan.rounds + 1):
        start = (round_ - 1) * plan.queries
        numbers = [(start + number) % queries for number in range(plan.queries)]
        opening = (plan.queries_of_a_launch + plan.warmup + round_ - 1) % queries
        for arm in (first, second) if round_ % 2 else (second, first):
            yield TurnStep(arm, round_, [opening, *numbers])


def requests(plan: LaunchPlan) -> int:
    """The requests of both engines in the measured turns of a launch pair."""
    return 2 * plan.rounds * (plan.queries + 1)


def queries_wanted(plan: LaunchPlan) -> int:
    """The fewest queries with which no launch scores a query twice."""
    return plan.queries_of_a_launch + plan.warmup + plan.rounds
