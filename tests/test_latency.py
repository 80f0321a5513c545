"""A percentile is reported only with enough samples, and it is one of the samples."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.figures.percentiles import measured, percentile, samples_needed, throughput
from harness.records import Percentile, Sample


def sample(query_id: str = "q", service_s: float = 0.5, pairs: int = 10, *, warmup: bool = False) -> Sample:
    return Sample(query_id, service_s, pairs, warmup)


@pytest.mark.parametrize(
    ("quantile", "floor"),
    [
        (0.50, 5),  # 0.5^4 = 0.0625, 0.5^5 = 0.0313
        (0.90, 29),  # 0.9^28 = 0.0523, 0.9^29 = 0.0471
        (0.95, 59),  # 0.95^58 = 0.0510, 0.95^59 = 0.0485
        (0.99, 299),  # 0.99^298 = 0.0500352, 0.99^299 = 0.0495349
    ],
)
def test_a_percentile_needs_enough_samples_for_a_bound_with_95_percent_confidence(quantile: float, floor: int) -> None:
    assert samples_needed(quantile) == floor
    assert quantile**floor <= 0.05 < quantile ** (floor - 1)


@pytest.mark.parametrize(("quantile", "floor"), [(0.5, 5), (0.9, 29)])
def test_below_the_floor_a_percentile_is_unknown(quantile: float, floor: int) -> None:
    assert percentile([0.1] * (floor - 1), quantile) == Percentile(None, floor - 1, floor)
    assert percentile([0.1] * floor, quantile) == Percentile(0.1, floor, floor)
    assert percentile([], quantile) == Percentile(None, 0, floor)


@pytest.mark.parametrize(
    ("quantile", "count", "nearest_rank"),
    [
        (0.5, 5, 3),  # 2.5 is rounded up
        (0.5, 6, 3),
        (0.9, 29, 27),  # 26.1
        (0.9, 30, 27),  # 27 exactly
        (0.9, 31, 28),  # 27.9
        (0.99, 300, 297),
    ],
)
def test_a_percentile_is_the_sample_at_the_nearest_rank(quantile: float, count: int, nearest_rank: int) -> None:
    slowest_first = [float(number) for number in range(count, 0, -1)]  # the sample of rank n is n
    assert percentile(slowest_first, quantile).value == nearest_rank


@given(
    values=st.lists(st.floats(0, 1000), min_size=29, max_size=400),
    quantile=st.sampled_from([Fraction(1, 2), Fraction(9, 10)]),
)
def test_a_percentile_is_the_smallest_sample_that_covers_its_share(values: list[float], quantile: Fraction) -> None:
    value = percentile(values, float(quantile)).value
    assert value is not None and value in values
    within = sum(sample <= value for sample in values)
    below = sum(sample < value for sample in values)
    assert below < math.ceil(quantile * len(values)) <= within


def test_warm_up_and_queries_without_candidates_do_not_count_as_samples() -> None:
    timed = sample("third")
    assert measured([sample("first", warmup=True), sample("second", pairs=0), timed]) == [timed]


def test_throughput_is_pairs_per_second_of_scoring_time() -> None:
    assert throughput([sample(service_s=0.5, pairs=10), sample(service_s=1.5, pairs=30)]) == 20.0
    assert throughput([]) is None
