"""What each rule of `crispbench ab` does to the spread of launch pairs, measured with an engine against itself.

The variants take turns launch pair by launch pair, so that all of them see the same machine.

python -m perf.ab_widths configs/ab.yaml demo-fp32 --launch-pairs 10
"""

import argparse
import itertools
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.ab import sides
from harness.ab.forecast import scale
from harness.ab.journal import Journal
from harness.ab.launches import run_launch_pair
from harness.ab.pinning import choose_cores
from harness.ab.records import LaunchPair, LaunchPlan, Metric
from harness.ab.schedule import queries_wanted
from harness.ab.verdict import slowdown
from harness.config import read_config
from harness.figures.shifts import paired

LONG_TURNS = LaunchPlan(rounds=4, queries=25)
VARIANTS: Mapping[str, LaunchPlan] = {
    "turns of 25 requests": LONG_TURNS,
    "turns of 5 requests": LaunchPlan(),
    "turns of 5 requests, no warm-up": LaunchPlan(warmup=0),
    "turns of 5 requests, pinned to one core": LaunchPlan(cores=choose_cores(1)),
}
METRICS: tuple[Metric, ...] = ("p50", "p95", "throughput")


class Widths(NamedTuple):
    """The numbers of the launch pairs of one variant, as logarithms."""

    name: str
    values: Mapping[str, Sequence[float]]

    def lines(self) -> Iterator[str]:
        for name, values in self.values.items():
            interval = paired(values, 0.0)
            ends = "-" if interval.lo is None or interval.hi is None else f"{(interval.hi - interval.lo) / 2:.1%}"
            yield f"| {self.name} | {name} | {np.median(values):+.1%} | {scale(values):.1%} | {ends} |"


def percentile_ratio(launch_pair: LaunchPair) -> float:
    """p50 without pairing requests: median over rounds of the ratio of both sides' p50."""
    medians = [[np.quantile(block.service_s, 0.5, method="inverted_cdf") for block in side] for side in launch_pair]
    return float(np.median(np.log(medians[1]) - np.log(medians[0])))


def measure(config: Path, engine: str, launch_pairs: int, variants: Mapping[str, LaunchPlan]) -> list[Widths]:
    settings = read_config(config)
    wanted = max(queries_wanted(plan) for plan in variants.values())
    both = sides.both(settings, (engine, engine), sides.first_task(settings, wanted))
    made: dict[str, list[LaunchPair]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as folder, Journal.open(Path(folder), LaunchPlan()) as journal:
        for number, (name, plan) in itertools.product(range(1, launch_pairs + 1), variants.items()):
            launch_pair = run_launch_pair(both, plan, journal, number=number, logs=Path(folder))
            made[name] += [] if launch_pair is None else [launch_pair]
    return [
        Widths(
            name,
            {
                **{str(metric): [slowdown(metric, pair) for pair in pairs] for metric in METRICS},
                "p50 of each side": [percentile_ratio(pair) for pair in pairs],
            },
        )
        for name, pairs in made.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("engine")
    parser.add_argument("--launch-pairs", type=int, default=10)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()
    before = os.getloadavg()
    print("| variant | number of a launch pair | median | spread | half of the interval |")
    print("|:--|:--|--:|--:|--:|")
    for widths in measure(
        options.config, options.engine, options.launch_pairs, {v: VARIANTS[v] for v in options.variants}
    ):
        print(*widths.lines(), sep="\n")
    print(f"load average before {before[0]:.1f}, after {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
