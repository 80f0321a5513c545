"""Intervals are those of scipy's bootstrap, near the closed form, and the same for the same values in any order."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.records import Difference, Measurement
from harness.statistics import mean, paired_difference

VALUES = {f"q{number}": value for number, value in enumerate([0.0, 0.63, 1.0, 0.5, 0.0, 0.39, 1.0, 0.0])}

per_query = st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=2, max_size=12)


def test_the_interval_is_scipys_percentile_bootstrap_of_the_mean() -> None:
    direct = stats.bootstrap(
        (np.array(list(VALUES.values())),),
        np.mean,
        n_resamples=9999,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert mean(VALUES) == Measurement(pytest.approx(0.44), float(direct.low), float(direct.high))


def test_the_interval_of_many_queries_is_near_the_normal_one() -> None:
    # 400 queries, half 0 and half 1: mean 0.5, standard error sqrt(0.25 / 400) = 0.025, so 0.5 ± 1.96 * 0.025
    measured = mean({str(number): float(number % 2) for number in range(400)})
    assert measured.value == 0.5
    assert measured.lo == pytest.approx(0.451, abs=0.002)
    assert measured.hi == pytest.approx(0.549, abs=0.002)


def test_the_order_of_the_queries_does_not_matter() -> None:
    turned = dict(reversed(VALUES.items()))
    assert mean(turned) == mean(VALUES)
    others = dict.fromkeys(VALUES, 0.5)
    assert paired_difference(turned, others) == paired_difference(VALUES, others)


def test_many_queries_are_resampled_in_batches_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mean(VALUES)
    monkeypatch.setattr("harness.statistics.BATCH_VALUES", 100)
    assert mean(VALUES) == whole


def test_one_query_has_no_interval() -> None:
    assert mean({"q": 0.7}) == Measurement(0.7, None, None)


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert mean({"q": 0.25, "r": 0.25}) == Measurement(0.25, 0.25, 0.25)


def test_a_difference_is_of_the_same_queries_and_counts_them() -> None:
    a, b = {"q": 0.75, "r": 0.5}, {"r": 0.25, "q": 0.5}
    assert paired_difference(a, b) == Difference(0.25, 0.25, 0.25, 2)


def test_pairing_removes_what_both_engines_share() -> None:
    # queries differ a lot, the engines by 0.01 to 0.02 everywhere: unpaired this would be lost in the noise
    a = {query_id: value + 0.01 + 0.001 * number for number, (query_id, value) in enumerate(VALUES.items())}
    difference = paired_difference(a, VALUES)
    assert 0.01 < difference.lo < difference.value < difference.hi < 0.02


def test_a_difference_over_other_queries_is_refused() -> None:
    with pytest.raises(ValueError, match="2 and 1 queries, 1 not in both"):
        paired_difference({"q": 0.5, "r": 0.5}, {"q": 0.5})


@settings(max_examples=25, deadline=None)
@given(values=per_query)
def test_an_interval_holds_the_mean_and_stays_within_the_values(values: dict[str, float]) -> None:
    measured = mean(values)
    assert measured.lo is not None and measured.hi is not None
    assert measured.value == pytest.approx(math.fsum(values.values()) / len(values))
    slack = 1e-12
    assert min(values.values()) - slack <= measured.lo <= measured.value + slack
    assert measured.value - slack <= measured.hi <= max(values.values()) + slack


@settings(max_examples=25, deadline=None)
@given(values=per_query, data=st.data())
def test_a_difference_turns_its_sign_with_the_sides(values: dict[str, float], data: st.DataObject) -> None:
    others = {query_id: data.draw(st.floats(0, 1)) for query_id in values}
    one, other = paired_difference(values, others), paired_difference(others, values)
    assert one.value == -other.value
    assert (one.lo, one.hi) == (pytest.approx(-other.hi, abs=1e-9), pytest.approx(-other.lo, abs=1e-9))
    assert paired_difference(values, values) == Difference(0.0, 0.0, 0.0, len(values))
