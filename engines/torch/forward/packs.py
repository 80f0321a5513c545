"""Which documents share a packed sequence, and how a CPU computes several sequences at once. Knows no model.

Threads that share the products of one sequence wait for each other between any two of them, and have little to share in
all that is done there. A sequence for each thread needs no waiting; what it costs is the query's prefix once more.
"""

import heapq
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch

# Of the time of one sequence, what threads that share it do not share (Amdahl 1967): by two threads' times 2% in bf16
# and 7% in int8 (docs/LOG.md).
UNSHARED = 0.05
AT_ONCE = 8  # sequences of the whole budget; more threads get smaller ones, so that memory stays bounded

T = TypeVar("T")


class PackPlan(NamedTuple):
    packs: list[list[int]]  # indices of the documents of each sequence
    threads: int  # that compute a pack each; 1: one pack after the other, by all threads together


def plan(costs: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of the tails of each pack: similar ones together, `budget` tokens at most unless one costs more."""
    packs: list[list[int]] = []
    used = 0
    for index in sorted(range(len(costs)), key=lambda i: costs[i]):
        if not packs or used + costs[index] > budget:
            packs.append([])
            used = 0
        packs[-1].append(index)
        used += costs[index]
    return packs


def spread(costs: Sequence[int], prefix_tokens: int, budget: int, threads: int) -> PackPlan:
    """Packs for so many threads: one for each at a time, if that should end sooner than one after the other."""
    together = plan(costs, budget)
    if threads == 1 or len(costs) < 2:
        return PackPlan(together, 1)
    apart = even(costs, max(min(budget, budget * AT_ONCE // threads), 1), threads)
    longest = max(sum(costs[index] for index in pack) for pack in apart)
    apart_tokens = -(-len(apart) // threads) * (prefix_tokens + longest)  # of the thread that has the most
    together_tokens = (len(together) * prefix_tokens + sum(costs)) * (UNSHARED + (1 - UNSHARED) / threads)
    return PackPlan(apart, min(threads, len(apart))) if apart_tokens < together_tokens else PackPlan(together, 1)


def even(costs: Sequence[int], budget: int, threads: int) -> list[list[int]]:
    """Packs alike in cost, a multiple of `threads` where there are as many tails; `budget` holds as in `plan`."""
    count = threads * -(-sum(costs) // (budget * threads))
    while True:
        packs = _longest_first(costs, count)
        if count >= len(costs) or all(sum(costs[index] for index in pack) <= budget for pack in packs):
            return packs
        count += threads


def _longest_first(costs: Sequence[int], count: int) -> list[list[int]]:
    """Graham's rule (1969): the next longest goes where there is least so far, which is within 4/3 of the best."""
    filled: list[tuple[int, int, list[int]]] = [(0, number, []) for number in range(min(count, len(costs)))]
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        used, number, pack = heapq.heappop(filled)
        heapq.heappush(filled, (used + costs[index], number, [*pack, index]))
    return [pack for _, _, pack in filled]


def compute(score: Callable[[list[int]], T], planned: PackPlan) -> list[T]:
    """`score` of every pack, in their order."""
    if planned.threads == 1:
        return [score(pack) for pack in planned.packs]
    shared = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(planned.threads, "pack", torch.set_num_threads, (1,)) as pool:
            return list(pool.map(score, planned.packs))
    finally:
        torch.set_num_threads(shared)  # a thread's own number was set above, and with it that of threads to come
