"""How often an A/B run with its defaults is right, on simulated machines that know nothing of its statistics.

The machines are those of perf/ab_power.py, which prints the whole table: numpy alone, with drift, offsets of processes,
noise that lasts, wild launches and a step. Trials are few here, and each assertion allows three standard errors of its
own share.
"""

import math

import numpy as np
import pytest

from harness.ab.margins import MARGINS
from harness.ab.records import METRICS, LaunchPlan
from harness.outcome import Outcome
from perf.ab_power import MACHINES, trials

TRIALS = 60


def error(share: float) -> float:
    """Three standard errors of a share of TRIALS."""
    return 3 * math.sqrt(share * (1 - share) / TRIALS)


@pytest.mark.parametrize("machine", ["drift", "autocorrelated", "all"])
def test_equal_engines_pass_in_nine_of_ten_runs(machine: str) -> None:
    cell = trials(MACHINES[machine], 0.0, number=TRIALS, plan=LaunchPlan(), margins=MARGINS)
    assert cell.share(Outcome.PASS) >= 0.9 - error(0.9)
    assert cell.share(Outcome.REGRESSION) == 0.0
    assert cell.mean_pairs < 25


@pytest.mark.parametrize("machine", ["drift", "autocorrelated", "all"])
def test_a_slowdown_of_five_percent_is_found_in_nineteen_of_twenty_runs(machine: str) -> None:
    cell = trials(MACHINES[machine], 0.05, number=TRIALS, plan=LaunchPlan(), margins=MARGINS)
    assert cell.share(Outcome.REGRESSION) >= 0.95 - error(0.95)
    assert cell.share(Outcome.PASS) == 0.0
    assert cell.mean_pairs < 40


@pytest.mark.parametrize("machine", ["drift", "all"])
def test_equal_engines_without_a_margin_raise_an_alarm_in_at_most_one_of_twenty_runs(machine: str) -> None:
    plan = LaunchPlan(max_pairs=20)
    cell = trials(MACHINES[machine], 0.0, number=3 * TRIALS, plan=plan, margins=dict.fromkeys(METRICS, 0.0))
    assert cell.share(Outcome.REGRESSION) <= 0.05 + error(0.05) / math.sqrt(3)


def test_the_simulated_machines_are_as_noisy_as_they_claim() -> None:
    from perf.ab_power import OFFSET, _times

    plan = LaunchPlan(max_pairs=40, rounds=2)
    a, b = _times(np.random.default_rng(1), MACHINES["drift"], 0.05, plan, 200)
    assert a.shape == b.shape == (200, 40, 2, 5)
    ratios = np.median(np.log(b / a), axis=(2, 3))
    assert math.expm1(float(np.median(ratios))) == pytest.approx(0.05, abs=0.002)
    assert math.sqrt(2) * OFFSET < float(ratios.std()) < 0.03
