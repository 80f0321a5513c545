"""From raw rounds to the table: medians, paired ratios with intervals, agreement with the reference, MFU. Pure."""

import math
from collections.abc import Sequence
from statistics import fmean, median
from typing import NamedTuple

from harness.figures.shifts import paired

TOLERANCE = 1e-3  # log-odds, between two computations in float32


class Contender(NamedTuple):
    peer: str
    precision: str

    def __str__(self) -> str:
        return f"{self.peer} {self.precision}"


class PeerTurn(NamedTuple):
    """One contender scored the whole workload once."""

    round: int
    position: int  # in the round's shuffled order
    contender: Contender
    seconds: float
    scores: Sequence[float]
    cpu_s: float | None
    peak_bytes: int | None


class PeerCeiling(NamedTuple):
    """What the machine reached at the same time over the layers' own matrices."""

    round: int
    position: int
    precision: str
    flops_per_s: float


class Ratio(NamedTuple):
    """How many times as long as the base: Hodges-Lehmann over rounds; no ends from fewer than 5 rounds."""

    value: float
    lo: float | None
    hi: float | None


class PeerAgreement(NamedTuple):
    """With this project's float32 scores of the same prompt, over all rounds."""

    largest_difference: float  # log-odds
    tau: float | None  # Kendall's tau-b, mean over queries; None where all scores of one are equal


class PeerRow(NamedTuple):
    contender: Contender
    template: str
    median_s: float
    pairs_per_s: float
    to_ours: Ratio | None  # ours in the same precision
    to_implementation: Ratio | None  # the reference implementation, which has float32 only on a CPU
    to_bf16: Ratio | None  # the same peer in bf16
    flops_per_s: float  # useful ones
    mfu: float | None  # useful operations of the machine's ceiling in this precision, median over rounds
    cores: float | None  # that it had, median over rounds: fewer than its threads where other programs ran
    peak_bytes: int | None
    weights_bytes: int
    agreement: PeerAgreement


def ratio(turns: Sequence[PeerTurn], subject: Contender, base: Contender) -> Ratio | None:
    """Of the rounds in which both took their turn; None if there are none, or they are the same."""
    seconds = {name: {turn.round: turn.seconds for turn in turns if turn.contender == name} for name in (subject, base)}
    rounds = seconds[subject].keys() & seconds[base].keys()
    if subject == base or not rounds:
        return None
    shift = paired([math.log(seconds[subject][each] / seconds[base][each]) for each in sorted(rounds)], 0.0)
    lo, hi = (None if end is None else math.exp(end) for end in (shift.lo, shift.hi))
    return Ratio(math.exp(shift.value), lo, hi)


def agreement(reference: Sequence[float], found: Sequence[Sequence[float]], lengths: Sequence[int]) -> PeerAgreement:
    """Of the scores of several rounds with the reference; `lengths` are the documents of each query, in order."""
    from scipy.stats import kendalltau

    largest = max(abs(one - other) for scores in found for one, other in zip(scores, reference, strict=True))
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    parts = [slice(start, start + length) for start, length in zip(starts, lengths, strict=True)]
    taus = [float(kendalltau(reference[part], scores[part]).statistic) for scores in found for part in parts]
    return PeerAgreement(largest, None if any(map(math.isnan, taus)) else fmean(taus))


def mfu(turns: Sequence[PeerTurn], ceilings: Sequence[PeerCeiling], contender: Contender, flops: float) -> float | None:
    """Useful operations per second over those of the same round's ceiling; None without a ceiling."""
    best = {each.round: each.flops_per_s for each in ceilings if each.precision == contender.precision}
    shares = [
        flops / turn.seconds / best[turn.round] for turn in turns if turn.contender == contender and turn.round in best
    ]
    return median(shares) if shares else None


def disagreements(rows: Sequence[PeerRow]) -> list[str]:
    """Contenders that compute in float32 and have other scores: they do not do the same work."""
    return [
        f"{row.contender} differs from the reference by {row.agreement.largest_difference:.2g} log-odds, "
        f"expected at most {TOLERANCE:g} in float32: its times are of another computation"
        for row in rows
        if row.contender.precision == "fp32" and not row.agreement.largest_difference <= TOLERANCE
    ]


def as_json(row: PeerRow) -> dict[str, object]:
    parts = (Contender, Ratio, PeerAgreement)
    return {name: value._asdict() if isinstance(value, parts) else value for name, value in row._asdict().items()}
