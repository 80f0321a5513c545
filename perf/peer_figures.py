"""From raw rounds to figures: paired ratios with intervals, agreement with the reference, MFU. No input or output."""

import math
from collections.abc import Sequence
from statistics import fmean, median
from typing import NamedTuple

from harness.figures.shifts import paired

TOLERANCE = 1e-3  # log-odds, largest difference between two computations in float32


class Contender(NamedTuple):
    peer: str
    precision: str

    def __str__(self) -> str:
        return f"{self.peer} {self.precision}"


class PeerTurn(NamedTuple):
    """One contender scored the whole workload once."""

    round: int
    position: int  # in the shuffled order of the round
    contender: Contender
    seconds: float
    scores: Sequence[float]
    cpu_s: float | None
    peak_bytes: int | None


class PeerCeiling(NamedTuple):
    """What the machine reached in the same round over the layers' own matrices."""

    round: int
    position: int
    precision: str
    flops_per_s: float


class Ratio(NamedTuple):
    """Time over that of the base, Hodges-Lehmann over rounds. Fewer than 5 rounds have no interval."""

    value: float
    lo: float | None
    hi: float | None


class PeerAgreement(NamedTuple):
    """Agreement with this project's float32 scores of the same prompt, over all rounds."""

    largest_difference: float  # log-odds
    tau: float | None  # Kendall's tau-b, mean over queries; None if all scores of a query are equal


class PeerRow(NamedTuple):
    contender: Contender
    template: str
    median_s: float
    pairs_per_s: float
    to_ours: Ratio | None  # to our engine in the same precision
    to_implementation: Ratio | None  # to the reference implementation, which has only float32 on a CPU
    to_bf16: Ratio | None  # to the same peer in bf16
    flops_per_s: float  # useful operations
    mfu: float | None  # useful operations as a share of the ceiling in this precision, median over rounds
    cores: float | None  # cores in use, median over rounds; fewer than the threads where other programs ran
    peak_bytes: int | None
    weights_bytes: int
    agreement: PeerAgreement


def ratio(turns: Sequence[PeerTurn], subject: Contender, base: Contender) -> Ratio | None:
    """Paired over the rounds in which both took a turn; None without such a round, or for a contender with itself."""
    seconds = {name: {turn.round: turn.seconds for turn in turns if turn.contender == name} for name in (subject, base)}
    rounds = seconds[subject].keys() & seconds[base].keys()
    if subject == base or not rounds:
        return None
    shift = paired([math.log(seconds[subject][number] / seconds[base][number]) for number in sorted(rounds)], 0.0)
    lo, hi = (None if end is None else math.exp(end) for end in (shift.lo, shift.hi))
    return Ratio(math.exp(shift.value), lo, hi)


def agreement(reference: Sequence[float], rounds: Sequence[Sequence[float]], lengths: Sequence[int]) -> PeerAgreement:
    """Scores of several rounds against the reference. `lengths` has the number of documents of each query."""
    from scipy.stats import kendalltau

    largest = max(abs(one - other) for scores in rounds for one, other in zip(scores, reference, strict=True))
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    parts = [slice(start, start + length) for start, length in zip(starts, lengths, strict=True)]
    taus = [float(kendalltau(reference[part], scores[part]).statistic) for scores in rounds for part in parts]
    return PeerAgreement(largest, None if any(map(math.isnan, taus)) else fmean(taus))


def mfu(turns: Sequence[PeerTurn], ceilings: Sequence[PeerCeiling], contender: Contender, flops: float) -> float | None:
    """Useful operations per second over the same round's ceiling, median over rounds; None without a ceiling."""
    peaks = {ceiling.round: ceiling.flops_per_s for ceiling in ceilings if ceiling.precision == contender.precision}
    shares = [
        flops / turn.seconds / peaks[turn.round]
        for turn in turns
        if turn.contender == contender and turn.round in peaks
    ]
    return median(shares) if shares else None


def disagreements(rows: Sequence[PeerRow]) -> list[str]:
    """Float32 contenders whose scores differ from the reference: they do not do the same work."""
    return [
        f"{row.contender} differs from the reference by {row.agreement.largest_difference:.2g} log-odds, "
        f"expected at most {TOLERANCE:g} in float32: its times belong to another computation"
        for row in rows
        if row.contender.precision == "fp32" and not row.agreement.largest_difference <= TOLERANCE
    ]


def as_json(row: PeerRow) -> dict[str, object]:
    parts = (Contender, Ratio, PeerAgreement)
    return {name: value._asdict() if isinstance(value, parts) else value for name, value in row._asdict().items()}
