"""The figures of perf/gpu.py as a short page, each target beside the figure that it is for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from perf.gpu_measures import Figures, ScoreAgreement

COLUMNS: dict[str, Callable[[Figures], str]] = {
    "size": lambda row: row.size,
    "arm": lambda row: row.arm,
    "tokens/pair": lambda row: f"{row.tokens_per_pair:.0f}",
    "p50 s": lambda row: f"{row.p50_s:.4f}",
    "p50 s, 10 documents": lambda row: f"{row.small_p50_s:.4f}",
    "pairs/s": lambda row: f"{row.pairs_per_s:,.0f}",
    "tokens/s": lambda row: f"{row.tokens_per_s:,.0f}",
    "MFU": lambda row: _share(row.mfu),
    "MFU, single stream": lambda row: _share(row.single_stream_mfu),
    "W": lambda row: "-" if row.watts is None else f"{row.watts:.0f}",
    "mJ/pair": lambda row: "-" if row.joules_per_pair is None else f"{1000 * row.joules_per_pair:.0f}",
    "peak GiB": lambda row: "-" if row.peak_gib is None else f"{row.peak_gib:.1f}",
    "load s": lambda row: f"{row.load_s:.1f}",
    "kernels": lambda row: row.kernels,
}


class SpeedTarget(NamedTuple):
    name: str
    aim: str
    reached: Callable[[Mapping[str, Figures]], float | None]  # from the figures by "size, arm"
    met: Callable[[float], bool]


def _best(rows: Mapping[str, Figures], precision: str) -> Figures | None:
    """The quickest arm of a precision at the large size."""
    candidates = [row for row in rows.values() if row.size == "large" and row.arm.split()[0] == precision]
    return max(candidates, key=lambda row: row.pairs_per_s, default=None)


def _p50_s(precision: str) -> Callable[[Mapping[str, Figures]], float | None]:
    def reached(rows: Mapping[str, Figures]) -> float | None:
        times_s = [row.p50_s for row in rows.values() if row.size == "large" and row.arm.split()[0] == precision]
        return min(times_s, default=None)

    return reached


def _gain(rows: Mapping[str, Figures]) -> float | None:
    fp8, bf16 = _best(rows, "fp8"), _best(rows, "bf16")
    return fp8.pairs_per_s / bf16.pairs_per_s if fp8 and bf16 else None


def _mfu(rows: Mapping[str, Figures]) -> float | None:
    bf16 = _best(rows, "bf16")
    return bf16.mfu if bf16 else None


TARGETS = [
    SpeedTarget("large bf16, MFU offline", ">= 0.60", _mfu, lambda value: value >= 0.6),
    SpeedTarget("large fp8 / bf16, pairs/s", ">= 1.3", _gain, lambda value: value >= 1.3),
    SpeedTarget("large bf16, p50 of 100 documents, s", "<= 0.24", _p50_s("bf16"), lambda value: value <= 0.24),
    SpeedTarget("large fp8, p50 of 100 documents, s", "<= 0.18", _p50_s("fp8"), lambda value: value <= 0.18),
]


def markdown(
    machine: Mapping[str, Any],
    ceilings: Mapping[str, Any],
    figures: Sequence[Figures],
    agreements: Sequence[ScoreAgreement],
    left_out: Mapping[str, str],
) -> str:
    """The page in Markdown. A target whose arms were left out is reported as not measured, never as missed."""
    lines = ["  ".join(f"{name} {value}" for name, value in machine.items()), ""]
    for name, ceiling in ceilings.items():
        rate = f"{ceiling['flops_per_s'] / 1e12:,.1f} TFLOP/s in {ceiling['dtype']}" if ceiling else "not known"
        lines.append(f"ceiling, {name}: {rate}")
    lines += ["", *_table(list(COLUMNS), [[cell(row) for cell in COLUMNS.values()] for row in figures]), ""]
    rows = {f"{row.size}, {row.arm}": row for row in figures}
    lines += [*_table(["target", "aim", "reached", ""], [_verdict(target, rows) for target in TARGETS]), ""]
    head = ["arm", "against", "queries", "largest difference", "spread of scores", "tau"]
    lines += _table(head, [_cells(agreement) for agreement in agreements])
    if left_out:
        lines += ["", *(f"left out: {name}: {reason}" for name, reason in left_out.items())]
    return "\n".join(lines)


def _verdict(target: SpeedTarget, rows: Mapping[str, Figures]) -> list[str]:
    value = target.reached(rows)
    if value is None:
        return [target.name, target.aim, "-", "not measured"]
    return [target.name, target.aim, f"{value:.3f}", "met" if target.met(value) else "missed"]


def _cells(agreement: ScoreAgreement) -> list[str]:
    numbers = (f"{value:.4f}" for value in (agreement.largest_difference, agreement.spread, agreement.tau))
    return [agreement.arm, agreement.reference, str(agreement.queries), *numbers]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
