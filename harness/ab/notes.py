"""Notes for the reader of an A/B run: the power of its design, its machine, and the noise floor."""

from harness.ab.result import AbRecord, NoiseFloor
from harness.figures.shifts import fewest_launch_pairs


def notes(result: AbRecord) -> list[str]:
    return [*_power_notes(result), *_machine_notes(result), *_noise_notes(result)]


def _power_notes(result: AbRecord) -> list[str]:
    """The confidence of the intervals, and a warning if there are too few launches to show a regression."""
    measured = [metric for metric in result.metrics.values() if metric.outcome is not None]
    level = next((metric.level for metric in measured if metric.level is not None), None)
    sentences = [] if level is None else [f"each end of an interval holds with {level:.1%} confidence"]
    launch_pairs = result.setup.plan.launch_pairs
    if measured and launch_pairs < (fewest := fewest_launch_pairs(len(measured))):
        sentences.append(
            f"{launch_pairs} launch pairs cannot show a regression on one of {len(measured)} metrics: "
            f"at least {fewest} are needed"
        )
    return sentences


def _machine_notes(result: AbRecord) -> list[str]:
    if not result.marked:
        return []
    first = result.marked[0]
    position = f"set {first.set}, launch pair {first.launch_pair}, {first.arm}"
    marks = "; ".join(first.marks)
    return [f"{len(result.marked)} of {result.launches} launches are marked, such as {position}: {marks}"]


def _noise_notes(result: AbRecord) -> list[str]:
    floor = result.noise_floor
    if result.setup.canary:
        return []
    if floor is None:
        return ["the noise floor of this machine is unknown: run the same command with --canary"]
    if not _fits(floor, result):
        return [f"the noise floor beside this run is not used: engine {floor.engine!r}, its options or machine differ"]
    reached = {name: share for name, share in floor.metrics.items() if share is not None}
    sentences = [f"noise floor, A against A: {', '.join(f'{name} {share:.1%}' for name, share in reached.items())}"]
    loud = [name for name, share in reached.items() if share > result.setup.margins.get(name, 1)]
    if loud:
        names = ", ".join(loud)
        sentences.append(f"the noise floor exceeds the margin of {names}: a verdict on it needs more launches")
    return sentences


def _fits(floor: NoiseFloor, result: AbRecord) -> bool:
    """Whether the floor was measured with engine A on this machine."""
    arm, machine = result.setup.arms["A"], result.records["A"].machine
    return (floor.engine, floor.options, floor.machine) == (arm.engine, arm.options, machine)
