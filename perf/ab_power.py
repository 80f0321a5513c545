"""How often `crispbench ab` is right, and after how many launch pairs, on simulated machines.

The machines know nothing of the product but the order of its turns; the verdicts are the product's own.

python -m perf.ab_power                          # the table of docs/ab.md, about 15 minutes on one core
python -m perf.ab_power --trials 100 --machines drift outliers
"""

import argparse
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from harness.ab.margins import MARGINS
from harness.ab.records import METRICS, LaunchPair, LaunchPlan, Metric, Round, Stop
from harness.ab.sequence import measure
from harness.outcome import Outcome

QUERY_S, DRIFT, DRIFT_TIME_S = 0.05, 0.05, 60.0
OFFSET, NOISE = 0.015, 0.03  # of a process for its life, and of a query: standard deviations of logarithms
STALLS, STALL = 0.01, 3.0  # share of queries, and how many times as long they take
LOADING_QUERIES = 200  # the time between launch pairs, in queries
SEED = 20261128

Launcher = Callable[[int, Callable[[float], bool]], LaunchPair]
Times = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class SimulatedMachine(NamedTuple):
    """A machine beyond drift, offsets, noise and stalls, which all have. Values are logarithms."""

    noise: float = 0.0  # standard deviation of noise that lasts for some queries
    memory: float = 0.0  # its correlation between neighbouring queries
    outliers: float = 0.0  # share of launches that are slower by OUTLIER
    step: float = 0.0  # change of speed in the middle of the third launch pair
    offset: float = OFFSET


OUTLIER = 0.3
MACHINES: Mapping[str, SimulatedMachine] = {
    "drift": SimulatedMachine(),
    "autocorrelated": SimulatedMachine(noise=0.10, memory=0.9),
    "more autocorrelated": SimulatedMachine(noise=0.20, memory=0.95),
    "outliers": SimulatedMachine(outliers=0.05),
    "step": SimulatedMachine(step=0.10),
    "all": SimulatedMachine(noise=0.05, memory=0.95, outliers=0.03, step=0.10),
}


class PowerTrials(NamedTuple):
    """Trials of one machine and one true slowdown."""

    outcomes: Sequence[Outcome]
    launch_pairs: Sequence[int]
    futile: int

    def share(self, outcome: Outcome) -> float:
        return self.outcomes.count(outcome) / len(self.outcomes)

    @property
    def mean_pairs(self) -> float:
        return float(np.mean(self.launch_pairs))


def trials(
    machine: SimulatedMachine, slower: float, *, number: int, plan: LaunchPlan, margins: Mapping[Metric, float]
) -> PowerTrials:
    """Verdicts on engines of which B is slower by this share."""
    sequences = [
        measure(launch, plan, margins, lambda _: None, lambda: 0.0)
        for launch in itertools.islice(_runs(machine, slower, plan, number), number)
    ]
    return PowerTrials(
        [sequence.outcome for sequence in sequences],
        [sequence.launch_pairs for sequence in sequences],
        sum(sequence.stop is Stop.FUTILE for sequence in sequences),
    )


def _runs(
    machine: SimulatedMachine, slower: float, plan: LaunchPlan, number: int, at_once: int = 100
) -> Iterator[Launcher]:
    """A function from the number of a launch pair to its times, for each trial."""
    rng = np.random.default_rng([SEED, round(1000 * slower), plan.max_pairs])
    for begin in range(0, number, at_once):
        a, b = _times(rng, machine, slower, plan, min(at_once, number - begin))
        for trial in range(len(a)):
            yield _launcher(a[trial], b[trial])


def _launcher(a: Times, b: Times) -> Launcher:
    def launch(number: int, goes_on: Callable[[float], bool]) -> LaunchPair:
        pairs = [30] * a.shape[-1]
        return LaunchPair(*([Round(list(row), pairs) for row in side[number - 1]] for side in (a, b)))

    return launch


def _times(
    rng: np.random.Generator, machine: SimulatedMachine, slower: float, plan: LaunchPlan, number: int
) -> tuple[Times, Times]:
    """Seconds per query of A and B, by trial, launch pair, round and query."""
    turn = plan.queries + 1  # the first query of a turn does not count
    queries = 2 * plan.rounds * turn
    drift = _autocorrelated(rng, number, plan.max_pairs, queries, DRIFT, math.exp(-QUERY_S / DRIFT_TIME_S))
    noise = _autocorrelated(rng, number, plan.max_pairs, queries, machine.noise, machine.memory)
    noise += rng.normal(0, NOISE, noise.shape)
    noise[:, 3:] += machine.step
    noise[:, 2:3, queries // 2 :] += machine.step
    times = QUERY_S * np.exp(drift + noise) * np.where(rng.random(noise.shape) < STALLS, STALL, 1.0)
    turns = times.reshape(number, plan.max_pairs, 2 * plan.rounds, turn)[..., 1:]
    opens = np.arange(2 * plan.rounds) % 4 % 3 == 0  # ABBA ABBA: the turns of the engine that is started first
    first, second = turns[:, :, opens], turns[:, :, ~opens]
    odd = (np.arange(plan.max_pairs) % 2 == 0)[:, None, None]
    offsets = rng.normal(0, machine.offset, (2, number, plan.max_pairs, 1, 1))
    offsets += OUTLIER * (rng.random(offsets.shape) < machine.outliers)
    factors = np.exp(offsets)
    return np.where(odd, first, second) * factors[0], np.where(odd, second, first) * factors[1] * (1 + slower)


def _autocorrelated(
    rng: np.random.Generator, number: int, launch_pairs: int, queries: int, deviation: float, memory: float
) -> Times:
    """A first-order autoregression per trial, which goes on while the processes of a launch pair load."""
    values = np.zeros((number, launch_pairs, queries))
    if not deviation:
        return values
    gap = memory**LOADING_QUERIES
    value = rng.normal(0, deviation, number)
    for launch_pair in range(launch_pairs):
        value = gap * value + rng.normal(0, deviation * math.sqrt(1 - gap**2), number)
        shocks = rng.normal(0, deviation * math.sqrt(1 - memory**2), (queries, number))
        for query in range(queries):
            value = memory * value + shocks[query]
            values[:, launch_pair, query] = value
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--machines", nargs="+", choices=MACHINES, default=list(MACHINES))
    parser.add_argument("--slower", nargs="+", type=float, default=[0.0, 0.02, 0.05, 0.10])
    options = parser.parse_args()
    print("| machine | margins | B is | regression | pass | inconclusive | mean launch pairs |")
    print("|:--|:--|:--|--:|--:|--:|--:|")
    for name in options.machines:
        for margins, slower in [(dict.fromkeys(METRICS, 0.0), 0.0), *((MARGINS, share) for share in options.slower)]:
            cell = trials(MACHINES[name], slower, number=options.trials, plan=LaunchPlan(), margins=margins)
            shares = [cell.share(outcome) for outcome in (Outcome.REGRESSION, Outcome.PASS, Outcome.INCONCLUSIVE)]
            shown = " | ".join(f"{share:.1%}" for share in shares)
            of = "default" if margins is MARGINS else "0%"
            print(f"| {name} | {of} | {slower:.0%} slower | {shown} | {cell.mean_pairs:.1f} |", flush=True)


if __name__ == "__main__":
    main()
