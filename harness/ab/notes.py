"""Notes for the reader of an A/B run: the power of its design, its machine, and the noise floor."""

from harness.ab.forecast import FUTILE
from harness.ab.outlook import more
from harness.ab.records import Stop
from harness.ab.result import AbRecord, NoiseFloor
from harness.figures.sequential import FIRST, fewest_launch_pairs
from harness.outcome import Outcome


def notes(result: AbRecord) -> list[str]:
    return [*_power_notes(result), *_machine_notes(result), *_noise_notes(result)]


def _power_notes(result: AbRecord) -> list[str]:
    """The confidence of the intervals, why the run ended without a verdict, and what it would take to know more."""
    measured = {name: metric for name, metric in result.metrics.items() if metric.outcome is not None}
    sentences = []
    if any(metric.hi is not None for metric in measured.values()):
        sentences.append("over all looks, the lower ends hold together with 95% confidence, and so does each upper end")
    if measured and 0 < result.launch_pairs < (fewest := fewest_launch_pairs(len(measured))):
        sentences.append(
            f"{result.launch_pairs} launch pairs cannot show a regression on one of {len(measured)} metrics: "
            f"at least {fewest} are needed"
        )
    if result.stop is Stop.FUTILE:
        sentences.append(f"it cannot be known here: not even {FUTILE * result.most} launch pairs would decide")
    told = (
        ""
        if result.outcome is not Outcome.INCONCLUSIVE
        else more(
            {
                name: result.forecast[name].for_verdict if name in result.forecast else FIRST
                for name, metric in measured.items()
                if metric.outcome is Outcome.INCONCLUSIVE
            },
            made=result.launch_pairs,
            pair_s=result.pair_s,
        )
    )
    return [*sentences, told] if told else sentences


def _machine_notes(result: AbRecord) -> list[str]:
    if not result.marked:
        return []
    first = result.marked[0]
    position = f"launch pair {first.launch_pair}, {first.arm}"
    marks = "; ".join(first.marks)
    return [f"{len(result.marked)} of {2 * result.launch_pairs} launches are marked, such as {position}: {marks}"]


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
