"""The fake engine fails only as its options say."""

import math
import statistics
import time

import pytest

from engines import Pair, ScoringFailed, load

PAIRS = [Pair("a cat", text) for text in ("a cat sat", "cat", "dog", "a bird")]


def test_more_shared_words_score_higher() -> None:
    both_words, cat, no_word, a = load("fake", {}).score(PAIRS)
    assert both_words > cat > no_word
    assert both_words > a > no_word


def test_scores_are_the_same_in_every_process() -> None:
    assert load("fake", {}).score(PAIRS[:1]) == [pytest.approx(1.0, abs=0.01)]
    assert load("fake", {}).score(PAIRS) == load("fake", {}).score(PAIRS)


def test_a_seed_changes_only_the_order_of_near_ties() -> None:
    first, second = load("fake", {}).score(PAIRS), load("fake", {"seed": 1}).score(PAIRS)
    assert first != second
    assert first == pytest.approx(second, abs=0.01)


def test_a_query_can_fail() -> None:
    engine = load("fake", {"fail_on": "cat"})
    with pytest.raises(ScoringFailed, match="'a cat' holds 'cat'"):
        engine.score(PAIRS)
    assert len(engine.score([Pair("dog", "cat")])) == 1


def test_a_document_can_score_nan() -> None:
    assert [math.isnan(score) for score in load("fake", {"nan_on": "dog"}).score(PAIRS)] == [False, False, True, False]


def test_all_scores_can_be_equal() -> None:
    assert load("fake", {"constant": True}).score(PAIRS) == [0.0] * 4


def test_fewer_decimals_make_ties() -> None:
    pairs = [Pair("cat", f"cat number {number}") for number in range(20)]
    assert len(set(load("fake", {}).score(pairs))) == 20
    assert len(set(load("fake", {"decimals": 1}).score(pairs))) == 1


def test_noise_has_the_standard_deviation_of_its_option() -> None:
    pairs = [Pair("cat", f"dog {number}") for number in range(2000)]
    quiet, noisy = load("fake", {}).score(pairs), load("fake", {"noise": 2.0}).score(pairs)
    differences = [after - before for before, after in zip(quiet, noisy, strict=True)]
    assert statistics.mean(differences) == pytest.approx(0, abs=0.2)
    assert statistics.stdev(differences) == pytest.approx(2, abs=0.2)


def test_a_delay_is_paid_once_per_call() -> None:
    engine = load("fake", {"delay_s": 0.05})
    started = time.perf_counter()
    engine.score(PAIRS)
    assert 0.05 <= time.perf_counter() - started


def test_an_empty_query_has_a_score() -> None:
    assert 0 <= load("fake", {}).score([Pair("", "")])[0] < 0.01
