"""Rows made by hand over four queries, so every mean can be checked by mental arithmetic."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from engines.base import Description
from harness.records import Completeness, Difference, Measurement, Percentile, Row
from tests import recordings

MakeRow = Callable[..., Row]


def make_row(
    engine: str = "bm25",
    quality: Sequence[float] = (0.5, 0.25, 0.5, 0.25),
    verdict: Completeness = "complete",
    **changes: Any,
) -> Row:
    per_query = {f"q{number}": value for number, value in enumerate(quality)}
    mean = sum(quality) / len(quality)
    measures: Mapping[str, Measurement] = {
        "AP": Measurement(mean / 2, 0.1, 0.4),
        "nDCG@10": Measurement(mean, mean - 0.125, mean + 0.125),
        "Judged@10": Measurement(0.9, 0.8, 1.0),
    }
    fields: dict[str, Any] = {
        "kind": "fake",
        "benchmark": "NFCorpus",
        "measures": {} if verdict == "invalid" else measures,
        "per_query": {} if verdict == "invalid" else per_query,
        "queries": len(quality),
        "pairs": 100 * len(quality),
        "coverage": 1.0 if verdict == "complete" else 0.75,
        "tie_rate": 0.125,
        "truncated": 0,
        "candidates": {
            "source": "bm25",
            "k": 100,
            "parameters": {},
            "sha256": "ab" * 32,
            "recall": 0.75,
            "oracle": 0.875,
            "random": 0.125,
        },
        "p50": Percentile(0.0125, 4, 1),
        "p90": Percentile(None, 4, 10),
        "pairs_per_s": 1234.5,
        "service_s": (0.01, 0.012, 0.013, 0.02),
        "against_baseline": None,
    }
    fields |= changes
    if isinstance(fields["candidates"], dict):
        fields["candidates"] = recordings.candidates(**fields["candidates"]) if fields["candidates"] else None
    if isinstance(fields.get("description"), dict):
        fields["description"] = Description.read(fields["description"])
    return Row(engine=engine, verdict=verdict, **fields)


@pytest.fixture
def row() -> MakeRow:
    return make_row


@pytest.fixture
def rows() -> list[Row]:
    """Rows of two benchmarks; the first has an incomplete and an invalid engine."""
    better = Difference(0.25, 0.125, 0.375, 4)
    return [
        make_row(),
        make_row("large", (0.75, 0.5, 0.75, 0.5), against_baseline=better, pairs_per_s=617.25),
        make_row("half", verdict="incomplete", against_baseline=better, notes=("q3 has no score: the server is gone",)),
        make_row("broken", verdict="invalid", notes=("every score is NaN",)),
        make_row(benchmark="SciFact"),
        make_row("large", (0.75, 0.5, 0.75, 0.5), benchmark="SciFact", against_baseline=better),
    ]
