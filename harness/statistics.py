"""Intervals by the bootstrap over queries. Results do not depend on the order of the queries."""

from collections.abc import Mapping

import numpy as np
from scipy import stats

from harness.records import Difference, Measurement

RESAMPLES = 9999
CONFIDENCE = 0.95
BATCH_VALUES = 10_000_000  # resampled values held at once: 80 MB


def mean(values: Mapping[str, float]) -> Measurement:
    """Mean over queries with its 95% bootstrap interval (percentile method, fixed seed)."""
    array = _in_order_of_id(values)
    lo, hi = _interval(array)
    return Measurement(float(array.mean()), lo, hi)


def paired_difference(a: Mapping[str, float], b: Mapping[str, float]) -> Difference:
    """Mean of a - b over the queries of both, with the interval of the paired differences.

    Raises ValueError if the two do not hold the same queries: a difference over some of them is another number.
    """
    if a.keys() != b.keys():
        raise ValueError(f"paired values hold {len(a)} and {len(b)} queries, {len(a.keys() ^ b.keys())} not in both")
    differences = _in_order_of_id({query_id: value - b[query_id] for query_id, value in a.items()})
    value = float(differences.mean())
    lo, hi = _interval(differences)
    return Difference(value, value if lo is None else lo, value if hi is None else hi, len(differences))


def _in_order_of_id(values: Mapping[str, float]) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return np.array([value for _, value in sorted(values.items())], dtype=np.float64)


def _interval(array: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> tuple[float | None, float | None]:
    if len(array) < 2:
        return None, None  # one query says nothing about another
    if np.ptp(array) == 0:
        return float(array[0]), float(array[0])  # scipy warns about a degenerate distribution
    result = stats.bootstrap(
        (array,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        batch=max(1, BATCH_VALUES // len(array)),
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
