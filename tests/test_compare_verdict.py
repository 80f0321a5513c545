"""What is averaged with what, and when several benchmarks together are a regression."""

from dataclasses import replace

import pytest

from harness.benchmarks.suites import load_suite
from harness.compare.comparison import ComparedEngine, Comparison, Comparisons, Effect, QualityVerdict
from harness.compare.noninferiority import MARGIN, Averaging, effects, judge, layout, verdict
from harness.figures.statistics import Contrast, PValue
from harness.outcome import Outcome

BEIR = list(load_suite("beir").weights)
FORUMS = [name for name in BEIR if name.startswith("CQADupstack")]

PASS = Contrast(0.0, -0.001, 0.001, 0.0005, 0.99)
UNSURE = Contrast(-0.005, -0.01, 0.0, 0.0025, 0.5)
WEAK_ALARM = Contrast(-0.02, -0.03, -0.006, 0.006, 0.02)
STRONG_ALARM = Contrast(-0.02, -0.03, -0.01, 0.003, 0.0005)


def effect(name: str, difference: Contrast, outcome: Outcome) -> Effect:
    sides = {"queries": 100, "reference": 0.5, "candidate": 0.5, "wins": 0, "ties": 100, "losses": 0}
    rest = {"p": PValue(1.0, True), "standardised": None, "outcome": outcome, "needed": None}
    return Effect(name=name, benchmarks=(name,), difference=difference, **sides, **rest)


def whole(means: dict[str, Contrast], units: dict[str, Contrast]) -> QualityVerdict:
    found = [effect(name, each, judge(each, 100, MARGIN)) for name, each in {**means, **units}.items()]
    laid = Averaging({name: {name: 1.0} for name in units}, {}, tuple(means) or tuple(units))
    return verdict(found, laid, MARGIN)


def test_one_benchmark_is_its_own_gate() -> None:
    assert layout(["SciFact"]) == ({"SciFact": {"SciFact": 1.0}}, {}, ("SciFact",))


def test_benchmarks_of_no_complete_suite_are_averaged_and_count_once_each() -> None:
    laid = layout(["SciFact", "NFCorpus", "FiQA2018", "ArguAna"])
    assert laid.gates == ("mean of 4 benchmarks",)
    assert laid.averages["mean of 4 benchmarks"] == dict.fromkeys(["SciFact", "NFCorpus", "FiQA2018", "ArguAna"], 0.25)


def test_the_12_forums_are_averaged_first_and_count_once() -> None:
    laid = layout(["SciFact", *FORUMS])
    assert set(laid.units) == {"SciFact", "CQADupStack"}
    (weights,) = laid.averages.values()
    assert weights["SciFact"] == 0.5
    assert weights[FORUMS[0]] == pytest.approx(1 / 24)
    assert list(laid.weights(["SciFact", *FORUMS]))[:2] == ["mean of 2 benchmarks", "CQADupStack"]


def test_eleven_of_twelve_forums_are_eleven_benchmarks() -> None:
    assert set(layout(FORUMS[1:]).units) == set(FORUMS[1:])


def test_a_complete_suite_is_a_gate_and_the_rest_is_another() -> None:
    laid = layout([*BEIR, "own"])
    assert laid.gates == ("mean of suite beir", "own")
    assert laid.averages["mean of suite beir"] == load_suite("beir").weights
    assert layout([*BEIR, "own", "other"]).gates == ("mean of suite beir", "mean of the other 2 benchmarks")
    assert len(laid.units) == 16  # 15 of BEIR, of which CQADupStack is one


def test_holm_is_over_units_and_neither_over_averages_nor_over_members() -> None:
    names = ["SciFact", *FORUMS]
    reference = {name: {f"q{n}": 0.5 for n in range(60)} for name in names}
    candidate = {name: {f"q{n}": 0.5 + (-1) ** n * 0.1 for n in range(60)} for name in names}
    found = {each.name: each for each in effects(reference, candidate, layout(names), MARGIN)}
    assert [name for name, each in found.items() if each.p_holm is not None] == ["CQADupStack", "SciFact"]
    assert found["mean of 2 benchmarks"].queries == 13 * 60
    assert found["mean of 2 benchmarks"].reference == pytest.approx(0.5)


def test_an_average_is_of_means_and_not_of_pooled_queries() -> None:
    reference = {"small": {f"q{n}": 0.4 for n in range(50)}, "large": {f"q{n}": 0.8 for n in range(150)}}
    candidate = {"small": {f"q{n}": 0.5 for n in range(50)}, "large": reference["large"]}
    mean, *_ = effects(reference, candidate, layout(["small", "large"]), MARGIN)
    assert (mean.reference, mean.candidate) == (pytest.approx(0.6), pytest.approx(0.65))
    assert mean.difference.value == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("lo", "hi", "outcome"),
    [
        (-0.004, 0.1, "pass"),
        (-0.005, 0.1, "inconclusive"),  # the end is the margin itself
        (-0.006, -0.005, "inconclusive"),
        (-0.1, -0.0051, "regression"),
        (None, None, "inconclusive"),
    ],
)
def test_the_interval_and_the_margin_decide(lo: float | None, hi: float | None, outcome: Outcome) -> None:
    assert judge(Contrast(0.0, lo, hi, 0.1, 0.5), 50, 0.005) == outcome
    assert judge(Contrast(0.0, lo, hi, 0.1, 0.5), 49, 0.005) == "inconclusive"


def test_a_weak_alarm_among_many_benchmarks_is_no_regression_and_a_strong_one_is() -> None:
    calm = {f"b{number}": PASS for number in range(9)}
    assert whole({"mean": PASS}, {**calm, "odd": WEAK_ALARM}).outcome == "pass"
    found = whole({"mean": PASS}, {**calm, "odd": STRONG_ALARM})
    assert (found.outcome, found.regressions) == ("regression", ("odd",))


def test_a_gate_alone_is_decided_by_its_interval() -> None:
    assert whole({"mean": WEAK_ALARM}, {"a": UNSURE, "b": UNSURE}).outcome == "regression"
    assert whole({}, {"a": WEAK_ALARM}).outcome == "regression"


def test_unsure_benchmarks_do_not_keep_their_mean_from_passing_but_an_unsure_gate_does() -> None:
    assert whole({"mean": PASS}, {"a": UNSURE, "b": UNSURE}).outcome == "pass"
    assert whole({"mean": PASS, "other": UNSURE}, {"a": PASS}).outcome == "inconclusive"


def test_the_worst_candidate_decides_a_contest() -> None:
    engine = ComparedEngine("e", "fake", "m", "cpu", "run/e")
    passed = Comparison(engine, engine, QualityVerdict("pass", 0.005, ("b",), ()), (), (), (), (), ())
    unsure, lost = (
        replace(passed, verdict=replace(passed.verdict, outcome=outcome)) for outcome in ("inconclusive", "regression")
    )
    assert Comparisons((passed, passed)).outcome == "pass"
    assert Comparisons((passed, unsure)).outcome == "inconclusive"
    assert Comparisons((unsure, lost, passed)).outcome == "regression"
