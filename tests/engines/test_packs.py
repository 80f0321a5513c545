"""Documents are divided into packs within the budget, and threads compute the packs in their order."""

import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engines.torch.forward import packs
from engines.torch.forward.packs import PackPlan


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


lengths = st.lists(st.integers(1, 3000), max_size=40)


@pytest.mark.parametrize(
    ("costs", "budget", "expected"),
    [
        ([], 10, []),
        ([5, 1, 4], 5, [[1, 2], [0]]),
        ([50, 1, 60], 10, [[1], [0], [2]]),
        ([3, 3, 3], 9, [[0, 1, 2]]),
    ],
)
def test_packs_hold_similar_lengths_within_the_budget(costs: list[int], budget: int, expected: list[list[int]]) -> None:
    assert packs.plan(costs, budget) == expected


@given(costs=lengths, prefix=st.integers(0, 3000), budget=st.integers(1, 4096), threads=st.integers(1, 64))
def test_every_document_is_in_one_pack_and_a_pack_keeps_to_the_budget_or_holds_one_document(
    costs: list[int], prefix: int, budget: int, threads: int
) -> None:
    plan = packs.spread(costs, prefix, budget, threads)
    assert sorted(index for pack in plan.packs for index in pack) == list(range(len(costs)))
    assert all(len(pack) == 1 or sum(costs[index] for index in pack) <= budget for pack in plan.packs)
    assert 1 <= plan.threads <= threads


@given(costs=lengths.filter(bool), budget=st.integers(100, 4096), threads=st.integers(2, 16))
def test_sums_of_even_packs_differ_by_one_document_at_most(costs: list[int], budget: int, threads: int) -> None:
    sums = [sum(costs[index] for index in pack) for pack in packs.even(costs, budget, threads)]
    assert max(sums) - min(sums) <= max(costs)


def test_a_query_with_many_documents_gives_every_thread_the_same_number_of_packs() -> None:
    # 9,600 tokens: five packs would leave one thread idle for a sixth of the time
    plan = packs.spread([400] * 24, 40, 2048, 2)
    assert plan.threads == 2
    assert [len(pack) for pack in plan.packs] == [4] * 6


def test_packs_run_on_one_thread_if_a_second_prefix_costs_more_than_sharing_saves() -> None:
    assert packs.spread([20] * 10, 2000, 2048, 2) == PackPlan([list(range(10))], 1)
    assert packs.spread([400], 40, 2048, 2) == PackPlan([[0]], 1)


def test_more_threads_get_smaller_packs_so_that_memory_is_bounded() -> None:
    plan = packs.spread([100] * 1000, 10, 2048, 32)
    assert max(len(pack) for pack in plan.packs) * 100 * 32 <= 2048 * packs.AT_ONCE


def test_scores_keep_the_order_of_the_packs_and_every_pack_uses_one_thread(two_threads: None) -> None:
    started = threading.Barrier(2)

    def score(pack: list[int]) -> tuple[int, int]:
        started.wait(10)  # the other thread computes a pack at the same time
        return pack[0], torch.get_num_threads()

    assert packs.compute(score, PackPlan([[5], [3], [9], [1]], 2)) == [(5, 1), (3, 1), (9, 1), (1, 1)]
    assert torch.get_num_threads() == 2  # restored for this thread
    thread_counts: list[int] = []
    new_thread = threading.Thread(target=lambda: thread_counts.append(torch.get_num_threads()))
    new_thread.start()
    new_thread.join()
    assert thread_counts == [2]  # and for new threads


def test_an_error_in_a_pack_is_raised_and_the_number_of_threads_is_restored(two_threads: None) -> None:
    def score(pack: list[int]) -> int:
        raise RuntimeError("can't allocate memory")

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        packs.compute(score, PackPlan([[0], [1], [2]], 2))
    assert torch.get_num_threads() == 2
