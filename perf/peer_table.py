"""The table of a measurement and the lines above it."""

from collections.abc import Mapping, Sequence
from statistics import median, pstdev

from perf import peer_figures
from perf.peer_checkpoint import weights_bytes
from perf.peer_figures import Contender, PeerRow, Ratio
from perf.peer_pairs import Work
from perf.peer_rounds import IMPLEMENTATION, OURS, PEERS, PeerMeasurement, Setting

References = Mapping[str, Sequence[float]]  # template -> our scores in float32

COLUMNS = (
    "peer",
    "precision",
    "prompt",
    "seconds",
    "pairs/s",
    "time / ours, same precision",
    "time / mxbai-rerank fp32",
    "time / its bf16",
    "MFU",
    "cores",
    "peak GiB",
    "weights GiB",
    "largest difference",
    "tau",
)


def make_rows(setting: Setting, measured: PeerMeasurement, references: References, work: Work) -> list[PeerRow]:
    """One row for every contender that took all of its turns."""
    return [
        _row(contender, setting, measured, references[PEERS[contender.peer].template], work.flops)
        for contender in measured.about
        if str(contender) not in measured.missing
    ]


def _row(
    contender: Contender, setting: Setting, measured: PeerMeasurement, reference: Sequence[float], flops: int
) -> PeerRow:
    turns = [turn for turn in measured.turns if turn.contender == contender]
    lengths = [len(pairs) for pairs in setting.workload.lists]
    median_s = median(turn.seconds for turn in turns)
    return PeerRow(
        contender=contender,
        template=PEERS[contender.peer].template,
        median_s=median_s,
        pairs_per_s=sum(lengths) / median_s,
        to_ours=peer_figures.ratio(measured.turns, contender, Contender(OURS, contender.precision)),
        to_implementation=peer_figures.ratio(measured.turns, contender, Contender(IMPLEMENTATION, "fp32")),
        to_bf16=peer_figures.ratio(measured.turns, contender, Contender(contender.peer, "bf16")),
        flops_per_s=flops / median_s,
        mfu=peer_figures.mfu(measured.turns, measured.ceilings, contender, flops),
        cores=median(busy) if (busy := [turn.cpu_s / turn.seconds for turn in turns if turn.cpu_s]) else None,
        peak_bytes=max((turn.peak_bytes for turn in turns if turn.peak_bytes), default=None),
        weights_bytes=weights_bytes(setting.shape, contender.precision),
        agreement=peer_figures.agreement(reference, [turn.scores for turn in turns], lengths),
    )


def heading(setting: Setting, measured: PeerMeasurement, references: References, work: Work) -> str:
    """What was scored, how much work that is, and what the machine reached in the same rounds."""
    rates: dict[str, list[float]] = {}
    for ceiling in measured.ceilings:
        rates.setdefault(ceiling.precision, []).append(ceiling.flops_per_s / 1e9)
    ceilings = ", ".join(
        f"{precision} {median(values):.0f} ({min(values):.0f} to {max(values):.0f})"
        for precision, values in sorted(rates.items())
    )
    spreads = ", ".join(f"{name} {pstdev(scores):.2g}" for name, scores in references.items())
    return (
        f"{setting.workload.name}: {len(setting.workload.pairs)} pairs, {work.prompt_tokens} tokens, "
        f"{work.needed_tokens} with every prefix once, {work.flops / 1e9:.0f} GFLOP; "
        f"{setting.shape.layers} layers, {setting.shape.parameters / 1e6:.0f}M parameters\n"
        f"ceiling in GFLOP/s, median (range over rounds): {ceilings or '-'}; "
        f"standard deviation of the reference's scores: {spreads}"
    )


def table(rows: Sequence[PeerRow]) -> str:
    """Aligned columns. A missing figure is a dash."""
    cells = [COLUMNS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)


def _cells(row: PeerRow) -> tuple[str, ...]:
    return (
        row.contender.peer,
        row.contender.precision,
        row.template,
        f"{row.median_s:.3g}",
        f"{row.pairs_per_s:.3g}",
        _ratio(row.to_ours),
        _ratio(row.to_implementation),
        _ratio(row.to_bf16),
        "-" if row.mfu is None else f"{row.mfu:.0%}",
        "-" if row.cores is None else f"{row.cores:.2f}",
        "-" if row.peak_bytes is None else f"{row.peak_bytes / 2**30:.2f}",
        f"{row.weights_bytes / 2**30:.2f}",
        f"{row.agreement.largest_difference:.1e}",
        "-" if row.agreement.tau is None else f"{row.agreement.tau:.4f}",
    )


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return "-"
    lo, hi = ("-" if end is None else f"{end:.3g}" for end in (ratio.lo, ratio.hi))
    return f"{ratio.value:.3g} [{lo}, {hi}]"
