"""What a check can detect, and what it allows for the days of a machine, by the history of a baseline."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from harness.check import baselines
from harness.check.noise import DayNoise, between
from harness.check.times import Logs, adjusted, trial
from harness.check.verb import CheckResult, check, read_options
from harness.figures.shifts import ALPHA, visible_shift
from tests.check_folders import record_launches

LAUNCHES = (0.985, 0.992, 1.0, 1.008, 1.015)
DAYS = (1.0, 1.03, 0.99, 1.04, 1.01, 0.98)


def history(store: Path, days: Sequence[float]) -> None:
    for number, day in enumerate(days):
        folders = record_launches(store.parent / f"day{number}", [day * launch for launch in LAUNCHES])
        baselines.save(store, "main", folders)


def gate(store: Path, current: Sequence[Path], *margins: str) -> CheckResult:
    return check("main", [str(folder) for folder in current], read_options(margins, (), store=store, last=1))


def test_with_history_the_days_of_the_machine_are_known_and_widen_the_interval(tmp_path: Path) -> None:
    store = tmp_path / "store"
    history(store, DAYS)
    slow = record_launches(tmp_path / "now", [0.98 * 1.05 * launch for launch in LAUNCHES])
    result = gate(store, slow)
    p50 = next(row for row in result.latency.rows if row.metric == "p50")
    # Neighbours differ by 3% to 5%: a new day may be 5% slower without any change of the engine.
    assert p50.day is not None and p50.day > 0.05
    assert p50.outcome == "inconclusive"
    assert p50.change is not None and p50.change.lo is not None and p50.change.lo < 0 < (p50.change.hi or 0)
    assert any(note.startswith("single-stream: two days of this machine may differ by p50 ") for note in result.notes)


def test_a_slowdown_far_beyond_the_days_of_the_machine_is_a_regression(tmp_path: Path) -> None:
    store = tmp_path / "store"
    history(store, DAYS)
    assert gate(store, record_launches(tmp_path / "now", [1.4 * launch for launch in LAUNCHES])).outcome == "regression"


def test_days_that_do_not_differ_cost_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    history(store, [1.0] * 5)
    result = gate(store, record_launches(tmp_path / "now", [1.1 * launch for launch in LAUNCHES]))
    p50 = next(row for row in result.latency.rows if row.metric == "p50")
    assert (p50.outcome, p50.day) == ("regression", 0.0)


def test_without_enough_saves_the_days_are_unknown_and_the_report_says_how_many_tell_them(tmp_path: Path) -> None:
    store = tmp_path / "store"
    history(store, DAYS[:4])
    result = gate(store, record_launches(tmp_path / "now", LAUNCHES))
    assert all(row.day is None for row in result.latency.rows)
    assert any(
        "is unknown, and counts as the engine's: 5 saves of the same work tell it" in note for note in result.notes
    )


def test_saves_of_another_machine_say_nothing_of_this_one(tmp_path: Path) -> None:
    store = tmp_path / "store"
    for number, day in enumerate(DAYS):
        machine = {"system": "Linux x86_64", "cpu": "Xeon", "versions": {}}
        folders = record_launches(tmp_path / f"other{number}", [day * launch for launch in LAUNCHES], machine=machine)
        baselines.save(store, "main", folders)
    baselines.save(store, "main", record_launches(tmp_path / "ours", LAUNCHES))
    result = gate(store, record_launches(tmp_path / "now", LAUNCHES))
    assert all(row.day is None for row in result.latency.rows)


def test_a_check_says_below_which_slowdown_it_is_blind(tmp_path: Path) -> None:
    sides = [record_launches(tmp_path / name, LAUNCHES) for name in ("a", "b")]
    baselines.save(tmp_path / "store", "main", sides[0])
    result = gate(tmp_path / "store", sides[1])
    assert any(note.startswith("single-stream: with 5 and 5 launches, a slowdown under p50 ") for note in result.notes)
    p50 = next(row for row in result.latency.rows if row.metric == "p50")
    # Launches vary by 1.2%. By the normal approximation 2.13 + 0.84 times sqrt(2/5) of it, beyond the margin of 3%.
    assert p50.visible == pytest.approx(0.03 + 2.97 * 0.012 * math.sqrt(2 / 5), abs=0.01)


def test_launches_that_could_only_pass_give_no_pass_for_a_margin_that_was_asked_for(tmp_path: Path) -> None:
    sides = [record_launches(tmp_path / name, (0.999, 1.0, 1.001)) for name in ("a", "b")]
    baselines.save(tmp_path / "store", "main", sides[0])
    # Three and three launches have a smallest p of 1/20, which is 3/20 over p50, p95 and throughput.
    assert gate(tmp_path / "store", sides[1], "nDCG@10=none").latency.outcome == "pass"
    asked = gate(tmp_path / "store", sides[1], "p50=0.03", "nDCG@10=none")
    p50 = next(row for row in asked.latency.rows if row.metric == "p50")
    assert (p50.outcome, p50.visible, asked.outcome) == ("inconclusive", None, "inconclusive")
    assert p50.reason.startswith("so few launches could not show a regression either; 4 of each can: repeat ")
    alone = gate(tmp_path / "store", sides[1], "p50=0.03", "p95=none", "throughput=none", "nDCG@10=none")
    assert alone.outcome == "pass"


@pytest.mark.parametrize(("launches", "tests"), [(4, 3), (5, 3), (8, 1)])
def test_the_visible_shift_is_found_in_four_of_five_cases(launches: int, tests: int) -> None:
    """Independent of the product: normal launches, and all orders of the pooled ranks for the critical value."""
    shift, trials = visible_shift(launches, launches, ALPHA / tests), 2000
    rng = np.random.default_rng(20261128)
    null = np.array([_below(*rng.permutation(2 * launches).reshape(2, launches)) for _ in range(20_000)])
    critical = max(count for count in range(launches**2) if (null < count).mean() <= ALPHA / tests)
    a, b = rng.normal(0, 1, (trials, launches)), rng.normal(shift, 1, (trials, launches))
    found = np.mean([_below(first, second) < critical for first, second in zip(a, b, strict=True)])
    assert found == pytest.approx(0.8, abs=0.06)  # 300 runs of the product's own and 2,000 of ours: 2.5% together


def _below(a: "np.ndarray[tuple[int], np.dtype[np.float64]]", b: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> int:
    return int((b[:, None] <= a[None, :]).sum())


def test_two_launches_show_no_shift_however_large() -> None:
    assert math.isinf(visible_shift(2, 2, ALPHA)) and math.isfinite(visible_shift(3, 3, ALPHA))


@pytest.mark.parametrize("deviation", [0.0, 0.01, 0.03])
def test_the_noise_between_days_is_estimated_without_that_of_launches(deviation: float) -> None:
    rng = np.random.default_rng(20261128)
    found = []
    for _ in range(300):
        days = rng.normal(0, deviation, 12)
        found.append(between([list(day + rng.normal(0, 0.015, 5)) for day in days]).deviation)
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(deviation, abs=0.006 + 0.3 * deviation)


def test_a_change_of_the_engine_at_one_save_is_no_noise_of_the_machine() -> None:
    days = [0.0, 0.01, -0.01, 0.0, 0.5, 0.51, 0.49, 0.5]
    assert between([[day] for day in days]).deviation < 0.02


OFFSET, DAY = 0.018, 0.02
TRIALS = 200


def share(slower: float, outcome: str, *, saves: int) -> float:
    """Share of simulated checks of p50 with this outcome, where each day has an offset of its own. numpy's alone."""
    rng, count = np.random.default_rng(20261128), 0
    for _ in range(TRIALS):
        days = [rng.normal(rng.normal(0, DAY), OFFSET, 5) for _ in range(saves + 1)]
        known = between([list(day) for day in days[:-1]]) if saves >= 5 else None
        logs = Logs(list(days[-2]), list(days[-1] + math.log1p(slower)))
        (row,) = adjusted([trial("single-stream", "p50", logs, 0.03, known)])
        count += row.outcome == outcome
    return count / TRIALS


def test_known_days_keep_a_slowdown_of_the_margin_from_passing_and_from_being_red() -> None:
    error = 3 * math.sqrt(0.05 * 0.95 / TRIALS)  # 4.6%
    assert share(0.03, "pass", saves=10) <= 0.05 + error
    assert share(0.03, "regression", saves=10) <= 0.05 + error
    assert share(0.03, "regression", saves=1) > 0.1  # what unknown days do


def test_a_day_may_differ_by_the_quantile_of_t_for_its_saves() -> None:
    # t at 97.5% with 4 degrees of freedom is 2.776.
    assert DayNoise(5, 0.01).allowance == pytest.approx(2.776 * math.sqrt(2) * 0.01, rel=1e-3)
