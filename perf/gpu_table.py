"""The figures of perf/gpu.py as a short page, with what was aimed at beside what was reached."""

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
    reached: Callable[[Mapping[str, Figures]], float | None]  # by "size, arm"
    met: Callable[[float], bool]


def _best(rows: Mapping[str, Figures], precision: str) -> Figures | None:
    """The quickest arm of a precision at the large size."""
    found = [row for row in rows.values() if row.size == "large" and row.arm.split()[0] == precision]
    return max(found, key=lambda row: row.pairs_per_s, default=None)


def _p50_s(precision: str) -> Callable[[Mapping[str, Figures]], float | None]:
    def reached(rows: Mapping[str, Figures]) -> float | None:
        found = [row.p50_s for row in rows.values() if row.size == "large" and row.arm.split()[0] == precision]
        return min(found, default=None)

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
    """The page. A target without its arms is not measured, which is not the same as missed."""
    lines = ["  ".join(f"{name} {value}" for name, value in machine.items()), ""]
    for name, found in ceilings.items():
        told = f"{found['flops_per_s'] / 1e12:,.1f} TFLOP/s in {found['dtype']}" if found else "not known"
        lines.append(f"ceiling, {name}: {told}")
    lines += ["", *_table(list(COLUMNS), [[cell(row) for cell in COLUMNS.values()] for row in figures]), ""]
    rows = {f"{row.size}, {row.arm}": row for row in figures}
    lines += [*_table(["target", "aim", "reached", ""], [_verdict(target, rows) for target in TARGETS]), ""]
    head = ["arm", "beside", "queries", "largest difference", "spread of scores", "tau"]
    lines += _table(head, [_cells(one) for one in agreements])
    if left_out:
        lines += ["", *(f"left out: {name}: {why}" for name, why in left_out.items())]
    return "\n".join(lines)


def _verdict(target: SpeedTarget, rows: Mapping[str, Figures]) -> list[str]:
    value = target.reached(rows)
    if value is None:
        return [target.name, target.aim, "-", "not measured"]
    return [target.name, target.aim, f"{value:.3f}", "met" if target.met(value) else "missed"]


def _cells(one: ScoreAgreement) -> list[str]:
    numbers = (f"{value:.4f}" for value in (one.largest_difference, one.spread, one.tau))
    return [one.arm, one.reference, str(one.queries), *numbers]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
