"""Averages over benchmarks, and the verdict over several benchmarks."""

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
    rest = {"p": PValue(1.0, True), "standardised": None, "unseen_loss": 0.0, "outcome": outcome, "needed": None}
    return Effect(name=name, benchmarks=(name,), difference=difference, **sides, **rest)


def whole(means: dict[str, Contrast], units: dict[str, Contrast]) -> QualityVerdict:
    judged = [effect(name, difference, judge(difference, MARGIN)) for name, difference in {**means, **units}.items()]
    averaging = Averaging({name: {name: 1.0} for name in units}, {}, tuple(means) or tuple(units))
    return verdict(judged, averaging, MARGIN)


def test_a_single_benchmark_is_the_gate() -> None:
    assert layout(["SciFact"]) == ({"SciFact": {"SciFact": 1.0}}, {}, ("SciFact",))


def test_benchmarks_of_an_incomplete_suite_are_averaged_with_equal_weights() -> None:
    averaging = layout(["SciFact", "NFCorpus", "FiQA2018", "ArguAna"])
    assert averaging.gates == ("mean of 4 benchmarks",)
    assert averaging.averages["mean of 4 benchmarks"] == dict.fromkeys(
        ["SciFact", "NFCorpus", "FiQA2018", "ArguAna"], 0.25
    )


def test_the_12_forums_are_averaged_first_and_count_once() -> None:
    averaging = layout(["SciFact", *FORUMS])
    assert set(averaging.units) == {"SciFact", "CQADupStack"}
    (weights,) = averaging.averages.values()
    assert weights["SciFact"] == 0.5
    assert weights[FORUMS[0]] == pytest.approx(1 / 24)
    assert list(averaging.weights(["SciFact", *FORUMS]))[:2] == ["mean of 2 benchmarks", "CQADupStack"]


def test_eleven_of_twelve_forums_count_as_eleven_benchmarks() -> None:
    assert set(layout(FORUMS[1:]).units) == set(FORUMS[1:])


def test_a_complete_suite_and_the_remaining_benchmarks_are_separate_gates() -> None:
    averaging = layout([*BEIR, "own"])
    assert averaging.gates == ("mean of suite beir", "own")
    assert averaging.averages["mean of suite beir"] == load_suite("beir").weights
    assert layout([*BEIR, "own", "other"]).gates == ("mean of suite beir", "mean of the other 2 benchmarks")
    assert len(averaging.units) == 16  # 15 of BEIR: CQADupStack counts as one


def test_holm_corrects_over_units_and_not_over_averages_or_members() -> None:
    names = ["SciFact", *FORUMS]
    reference = {name: {f"q{n}": 0.5 for n in range(60)} for name in names}
    candidate = {name: {f"q{n}": 0.5 + (-1) ** n * 0.1 for n in range(60)} for name in names}
    by_name = {effect.name: effect for effect in effects(reference, candidate, layout(names), MARGIN, {})}
    assert [name for name, effect in by_name.items() if effect.p_holm is not None] == ["CQADupStack", "SciFact"]
    assert by_name["mean of 2 benchmarks"].queries == 13 * 60
    assert by_name["mean of 2 benchmarks"].reference == pytest.approx(0.5)


def test_an_average_weights_benchmarks_and_not_queries() -> None:
    reference = {"small": {f"q{n}": 0.4 for n in range(50)}, "large": {f"q{n}": 0.8 for n in range(150)}}
    candidate = {"small": {f"q{n}": 0.5 for n in range(50)}, "large": reference["large"]}
    mean, *_ = effects(reference, candidate, layout(["small", "large"]), MARGIN, {})
    assert (mean.reference, mean.candidate) == (pytest.approx(0.6), pytest.approx(0.65))
    assert mean.difference.value == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("lo", "hi", "outcome"),
    [
        (-0.004, 0.1, "pass"),
        (-0.005, 0.1, "inconclusive"),  # the interval ends at the margin
        (-0.006, -0.005, "inconclusive"),
        (-0.1, -0.0051, "regression"),
    ],
)
def test_the_verdict_follows_from_the_interval_and_the_margin(lo: float, hi: float, outcome: Outcome) -> None:
    assert judge(Contrast(0.0, lo, hi, 0.1, 0.5), 0.005) == outcome


def test_only_a_strong_alarm_among_many_benchmarks_is_a_regression() -> None:
    calm = {f"b{number}": PASS for number in range(9)}
    assert whole({"mean": PASS}, {**calm, "odd": WEAK_ALARM}).outcome == "pass"
    result = whole({"mean": PASS}, {**calm, "odd": STRONG_ALARM})
    assert (result.outcome, result.regressions) == ("regression", ("odd",))


def test_a_gate_is_decided_by_its_interval_alone() -> None:
    assert whole({"mean": WEAK_ALARM}, {"a": UNSURE, "b": UNSURE}).outcome == "regression"
    assert whole({}, {"a": WEAK_ALARM}).outcome == "regression"


def test_unsure_benchmarks_do_not_keep_their_mean_from_passing_but_an_unsure_gate_does() -> None:
    assert whole({"mean": PASS}, {"a": UNSURE, "b": UNSURE}).outcome == "pass"
    assert whole({"mean": PASS, "other": UNSURE}, {"a": PASS}).outcome == "inconclusive"


def test_the_worst_candidate_decides_the_outcome() -> None:
    engine = ComparedEngine("e", "fake", "m", "cpu", "run/e")
    passed = Comparison(engine, engine, QualityVerdict("pass", 0.005, ("b",), ()), (), (), (), (), ())
    unsure, lost = (
        replace(passed, verdict=replace(passed.verdict, outcome=outcome)) for outcome in ("inconclusive", "regression")
    )
    assert Comparisons((passed, passed)).outcome == "pass"
    assert Comparisons((passed, unsure)).outcome == "inconclusive"
    assert Comparisons((unsure, lost, passed)).outcome == "regression"
