"""Descriptions and counts of engines are typed and survive a round trip through their documents."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.base import COUNT_NAMES, Counts, Description, Device, ScoreKind, Truncation

FULL = Description(
    model="m",
    revision="r",
    precision="int8",
    template="t",
    template_sha256="ab" * 32,
    max_tokens=164,
    device=Device("gpu", "NVIDIA H100"),
    random_seed=0,
    weights_mb=15.0,
    truncation=Truncation.HERE,
    score_kind=ScoreKind.LOG_ODDS,
    demonstration=True,
    details={"torch": "2.13"},
)
counted = st.builds(Counts, **dict.fromkeys(COUNT_NAMES, st.none() | st.integers(0, 10**15)))


def test_a_description_survives_its_document_and_unset_fields_are_left_out() -> None:
    assert Description.read(FULL.document()) == FULL
    assert FULL.document()["weights"] == "random, seed 0"
    assert (FULL.document()["device"], FULL.document()["weights_mb"]) == ("NVIDIA H100", "15.0")
    assert Description().document() == {}
    assert Description.read({}) == Description()
    assert {type(value) for value in FULL.document().values()} == {str}


@pytest.mark.parametrize(
    "document",
    [{"max_tokens": "None"}, {"weights": "int4"}, {"truncation": "somehow"}, {"score_kind": "cosine"}, {"odd": "1"}],
)
def test_a_value_that_does_not_fit_its_field_stays_a_detail(document: dict[str, str]) -> None:
    assert Description.read(document) == Description(details=document)
    assert Description.read(document).document() == document


@pytest.mark.parametrize(("text", "kind"), [("cpu", "cpu"), ("mps", "mps"), ("NVIDIA L4", "gpu"), ("cpu | L4", "gpu")])
def test_a_device_is_a_cpu_mps_or_a_gpu_with_its_name(text: str, kind: str) -> None:
    assert Device.read(text).kind == kind and str(Device.read(text)) == text


@given(counted, counted)
def test_counts_add_and_subtract_field_by_field_and_unknown_is_not_zero(first: Counts, second: Counts) -> None:
    assert Counts.read(first.document()) == first
    for name in COUNT_NAMES:
        minuend, subtrahend, total = (getattr(counts, name) for counts in (first, second, first + second))
        assert total == (None if minuend is None and subtrahend is None else (minuend or 0) + (subtrahend or 0))
        assert getattr(first - second, name) == (None if minuend is None else minuend - (subtrahend or 0))


def test_a_count_of_a_newer_version_is_left_out() -> None:
    assert Counts.read({"tokens": 3, "colours": 4}) == Counts(tokens=3)
    assert len(COUNT_NAMES) == len(fields(Counts))
