"""Drift, rank correlations and flips, computed by hand on three or four documents."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.figures.fidelity import Scores, fidelity, moves, noise, overlap, sides, tau
from harness.records import Score

QRELS = {"q": {"c": 1}, "r": {"a": 1, "b": 0}}


def scored(**queries: str | list[float]) -> Scores:
    """Scores of documents a, b, c, ... in first-stage order."""
    return {
        query_id: [Score("abcdefghijklmnop"[index], index + 1, float(value)) for index, value in enumerate(values)]
        for query_id, values in queries.items()
    }


def test_drift_is_the_candidate_minus_the_reference_over_all_pairs() -> None:
    drift = fidelity(QRELS, scored(q=[3, 2, 1], r=[1]), scored(q=[3.5, 2, 0], r=[0.5]), same_scale=True).drift
    assert drift is not None
    # The differences are 0.5, 0, -1, -0.5. The 99th percentile of 0, 0.5, 0.5, 1 is 0.5 + 0.97 * 0.5.
    assert drift == (0.5, pytest.approx(0.985), 1.0, -0.25, "q", "c")


def test_scores_on_different_scales_have_no_drift_and_are_compared_by_rank() -> None:
    result = fidelity(QRELS, scored(q=[3, 2, 1]), scored(q=[-1, -2, -3]), same_scale=False)
    assert result.drift is None
    assert result.per_query == {"q": pytest.approx(0.0)}
    assert result.tau.mean == 1.0


def test_tau_b_corrects_for_ties() -> None:
    # The reference ties one of 6 pairs; the other 5 agree: 5 / sqrt(5 * 6).
    assert tau(np.array([4.0, 3.0, 2.0, 2.0]), np.array([4.0, 3.0, 2.0, 1.0])) == pytest.approx(5 / math.sqrt(30))
    assert tau(np.array([1.0, 2.0]), np.array([2.0, 1.0])) == -1.0
    assert tau(np.array([1.0, 1.0]), np.array([2.0, 1.0])) is None
    assert tau(np.array([1.0]), np.array([2.0])) is None


def test_a_query_without_a_correlation_is_counted_and_not_averaged() -> None:
    result = fidelity(QRELS, scored(q=[3, 2, 1], r=[1]), scored(q=[3, 2, 1], r=[0]), same_scale=True)
    assert (result.tau.mean, result.tau.lowest, result.tau.undefined) == (1.0, 1.0, 1)
    assert result.overlap.undefined == 0


def test_rank_biased_overlap_follows_webber_moffat_and_zobel() -> None:
    # The first two of three are swapped: agreements 0, 1, 1 at p = 0.9 give 0.9^3 + 0.1/0.9 * (0.9^2 + 0.9^3).
    assert overlap(np.array([1, 2, 3]), np.array([2, 1, 3])) == pytest.approx(0.729 + (0.81 + 0.729) / 9)
    assert overlap(np.array([1, 2, 3]), np.array([1, 2, 3])) == pytest.approx(1.0)


def test_a_swap_at_the_bottom_costs_less_overlap_than_one_at_the_top() -> None:
    order = np.arange(1, 21)
    above, below = order.copy(), order.copy()
    above[[0, 1]], below[[18, 19]] = above[[1, 0]], below[[19, 18]]
    assert overlap(order, above) < overlap(order, below) < 1


def test_flips_count_changes_of_the_top_1_of_the_top_10_and_of_its_order() -> None:
    reference = scored(q=list(range(12, 0, -1)), r=list(range(12, 0, -1)), s=[2, 1])
    candidate = scored(
        q=[12, 11, 10, 9, 8, 7, 6, 5, 4, 2.5, 2.9, 1],  # ranks 10 and 11 swap
        r=[11, 12, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1],  # ranks 1 and 2 swap
        s=[2, 1],
    )
    result = fidelity({}, reference, candidate, same_scale=True)
    assert (result.queries, result.top1, result.top10, result.top10_order) == (3, 1, 1, 2)


@pytest.mark.parametrize(
    ("candidate", "kind"),
    [
        ([4, 3, 1, 2], "first_relevant"),  # c falls from 3 to 4
        ([3, 4, 2, 1], "above"),
        ([1, 4, 2, 3], "above"),  # a falls from 1 to 4, c keeps rank 3
    ],
)
def test_changes_are_classified_by_the_first_relevant_document(candidate: list[float], kind: str) -> None:
    changes = fidelity(QRELS, scored(q=[4, 3, 2, 1]), scored(q=candidate), same_scale=True).changes
    assert changes._asdict()[kind] == sum(changes) == 1


def test_changes_below_the_first_relevant_document_and_without_one_are_counted_separately() -> None:
    reference, candidate = scored(r=[3, 2, 1], s=[2, 1]), scored(r=[3, 1, 2], s=[1, 2])
    assert fidelity(QRELS, reference, candidate, same_scale=True).changes == (0, 0, 1, 1)


def test_ties_keep_the_first_stages_order_and_are_counted() -> None:
    result = fidelity(QRELS, scored(q=[3, 2, 1]), scored(q=[2, 2, 1]), same_scale=True)
    assert sum(result.changes) == 0
    assert (result.reference.tie_rate, result.candidate.tie_rate) == (0.0, pytest.approx(2 / 3))


def test_saturation_counts_pairs_that_share_an_end_of_the_scale() -> None:
    result = fidelity(QRELS, scored(q=[9, 9, 1], r=[9]), scored(q=[3, 2, 1], r=[0]), same_scale=True)
    assert (result.reference.saturation, result.candidate.saturation) == (0.75, 0.0)


def test_a_query_without_candidates_changes_nothing() -> None:
    with_empty = fidelity(QRELS, scored(q=[2, 1], e=[]), scored(q=[2, 1], e=[]), same_scale=True)
    assert with_empty == fidelity(QRELS, scored(q=[2, 1]), scored(q=[2, 1]), same_scale=True)
    nothing = fidelity(QRELS, scored(e=[]), scored(e=[]), same_scale=True)
    assert (nothing.queries, nothing.drift, nothing.tau.mean) == (0, None, None)


def test_different_documents_are_refused() -> None:
    different = {"q": [Score("z", 1, 1.0)]}
    with pytest.raises(ValueError, match="'q'"):
        fidelity(QRELS, scored(q=[1]), different, same_scale=True)


def test_only_moves_into_or_out_of_the_top_10_are_listed() -> None:
    values = [float(value) for value in range(14, 0, -1)]
    now = values.copy()
    now[12], now[13] = now[13], now[12]  # ranks 13 and 14
    now[9], now[11] = now[11], now[9]  # ranks 10 and 12
    pair = sides("q", scored(q=values)["q"], scored(q=now)["q"])
    assert moves(pair, {"j": 0}) == (("j", 0, 10, 12, 5.0, 3.0), ("l", None, 12, 10, 3.0, 5.0))


def test_noise_is_exceeded_only_by_more_than_chance() -> None:
    rng = np.random.default_rng(1)
    reference = {f"q{number}": rng.normal(0, 1, 10) for number in range(60)}

    def near(size: float) -> Scores:
        return scored(**{query_id: list(values + rng.normal(0, size, 10)) for query_id, values in reference.items()})

    start = scored(**{query_id: list(values) for query_id, values in reference.items()})
    same, alike, worse = (fidelity({}, start, near(size), same_scale=True) for size in (0.1, 0.1, 0.2))
    assert noise(worse, same).exceeded
    assert not noise(alike, same).exceeded and not noise(same, worse).exceeded
    assert not noise(fidelity({}, start, start, same_scale=True), same).exceeded


lists = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


@settings(max_examples=50, deadline=None)
@given(values=lists, data=st.data())
def test_both_directions_give_the_same_distance(values: list[float], data: st.DataObject) -> None:
    changed = data.draw(st.lists(st.integers(-3, 3), min_size=len(values), max_size=len(values)))
    forth = fidelity(QRELS, scored(q=values), scored(q=changed), same_scale=True)
    back = fidelity(QRELS, scored(q=changed), scored(q=values), same_scale=True)
    assert forth.drift is not None and back.drift is not None
    assert (forth.drift.mean_absolute, forth.drift.bias) == (back.drift.mean_absolute, -back.drift.bias)
    assert forth.overlap == back.overlap and forth.reference == back.candidate
    assert (forth.top1, forth.top10, forth.top10_order) == (back.top1, back.top10, back.top10_order)
    assert 0 < forth.overlap.mean <= 1 + 1e-12 if forth.overlap.mean is not None else False
