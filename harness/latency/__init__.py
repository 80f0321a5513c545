"""Latency percentiles from raw samples, shown only where there are enough samples to know them."""

import math
from collections.abc import Sequence

from harness.records import Percentile, Sample

CONFIDENCE = 0.95


def samples_needed(quantile: float) -> int:
    """Fewest samples n whose maximum bounds the quantile from above with 95% confidence: quantile^n <= 5%.

    p50 5, p90 29, p95 59, p99 299. With fewer, a printed percentile would be the maximum in disguise.
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(quantile))


def measured(samples: Sequence[Sample]) -> list[Sample]:
    """The samples that count: without warm-up and without queries that had no candidates."""
    return [sample for sample in samples if not sample.warmup and sample.pairs]


def percentile(values: Sequence[float], quantile: float) -> Percentile:
    """Nearest-rank percentile of seconds; None below the floor, never the maximum."""
    needed = samples_needed(quantile)
    if len(values) < needed:
        return Percentile(None, len(values), needed)
    return Percentile(sorted(values)[math.ceil(quantile * len(values)) - 1], len(values), needed)


def throughput(samples: Sequence[Sample]) -> float | None:
    """Pairs per second of scoring time; None without samples."""
    seconds = sum(sample.service_s for sample in samples)
    return sum(sample.pairs for sample in samples) / seconds if seconds else None
