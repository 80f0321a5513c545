"""Which documents share a packed sequence, and how a CPU computes several sequences at once. Knows no model.

Threads that share the products of one sequence wait for each other after every product, and the work between products
splits badly. One sequence per thread needs no waiting; its price is the query's prefix once more per sequence.
"""

import heapq
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch

# Serial fraction of one forward (Amdahl 1967): two threads' times show 2% in bf16 and 7% in int8 (docs/LOG.md).
SERIAL_FRACTION = 0.05
AT_ONCE = 8  # sequences of the whole budget; more threads get smaller ones, so that memory stays bounded

T = TypeVar("T")


class PackPlan(NamedTuple):
    packs: list[list[int]]  # indices of the documents in each sequence
    threads: int  # packs computed at a time, each by one thread; 1: one pack after the other, by all threads together


def plan(costs: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of the tails in each pack: tails of similar cost, at most `budget` tokens unless one tail costs more."""
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
    """Packs for this number of threads: one per thread if the estimate is quicker, else one after the other."""
    together = plan(costs, budget)
    if threads == 1 or len(costs) < 2:
        return PackPlan(together, 1)
    apart = even(costs, max(min(budget, budget * AT_ONCE // threads), 1), threads)
    longest = max(sum(costs[index] for index in pack) for pack in apart)
    apart_tokens = -(-len(apart) // threads) * (prefix_tokens + longest)  # of the busiest thread
    together_tokens = (len(together) * prefix_tokens + sum(costs)) * (SERIAL_FRACTION + (1 - SERIAL_FRACTION) / threads)
    return PackPlan(apart, min(threads, len(apart))) if apart_tokens < together_tokens else PackPlan(together, 1)


def even(costs: Sequence[int], budget: int, threads: int) -> list[list[int]]:
    """Packs of about equal cost within `budget`. Their number is a multiple of `threads` if there are enough tails."""
    count = threads * -(-sum(costs) // (budget * threads))
    while True:
        packs = _longest_first(costs, count)
        if count >= len(costs) or all(sum(costs[index] for index in pack) <= budget for pack in packs):
            return packs
        count += threads


def _longest_first(costs: Sequence[int], count: int) -> list[list[int]]:
    """Longest processing time first (Graham 1969): at most 4/3 of the optimal longest pack."""
    filled: list[tuple[int, int, list[int]]] = [(0, number, []) for number in range(min(count, len(costs)))]
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        used, number, pack = heapq.heappop(filled)
        heapq.heappush(filled, (used + costs[index], number, [*pack, index]))
    return [pack for _, _, pack in filled]


def compute(score: Callable[[list[int]], T], planned: PackPlan) -> list[T]:
    """`score` of every pack, in the order of the packs."""
    if planned.threads == 1:
        return [score(pack) for pack in planned.packs]
    shared = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(planned.threads, "pack", torch.set_num_threads, (1,)) as pool:
            return list(pool.map(score, planned.packs))
    finally:
        torch.set_num_threads(shared)  # the pool's threads have set it for threads that start later
