"""The cost of a pair in tokens, arithmetic, energy and money, in a table beside the table of times."""

from collections.abc import Iterator, Sequence

from harness.latency.page.notes import shared_notes
from harness.latency.summary import Summary
from harness.report import notation
from harness.report.content import Section, SourceLine, Term
from harness.report.table import Cell, Table

COLUMNS = (
    "engine", "scenario", "pairs/s", "tokens/s", "tokens", "computed", "padding", "MFU", "computed / ceiling",
    "J per 1,000 pairs", "$ per 1M pairs",
)  # fmt: skip

# Column -> the field of Efficiency whose reason it shows.
REASONS = {
    "tokens": "tokens",
    "computed": "computed_tokens",
    "padding": "padded_tokens",
    "MFU": "mfu",
    "J per 1,000 pairs": "joules_per_1000_pairs",
    "$ per 1M pairs": "dollars_per_1m_pairs",
}

LEGEND = (
    Term(
        "tokens, computed, padding",
        "tokens of all prompts, with every pair on its own (useful); tokens that went through the model, which are "
        "fewer if a query's documents share their prefix and more if prompts are padded; the share of padding in the "
        "latter",
    ),
    Term(
        "MFU",
        "useful floating-point operations per second over the machine's ceiling. The useful operations are 2 per token "
        "and number in the layers' matrices, and 4 x layers x heads x head_dim per token and key that it sees, with "
        "every pair on its own. A shared prefix counts for every pair although it is computed once, so MFU may exceed "
        "100%",
    ),
    Term(
        "computed / ceiling",
        "operations that were computed per second over the ceiling; they may leave out most of the last layer. This is "
        "how busy the arithmetic was; the rest to 100% is waiting, memory, attention and work outside matrix products",
    ),
    Term(
        "ceiling",
        "the best speed of repeated matrix products in the model's own shapes, measured on the same machine in the "
        "same arithmetic before the warm-up; it is not a data-sheet value. Other load on the machine lowers it",
    ),
    Term(
        "J per 1,000 pairs, $ per 1M pairs",
        "energy from the GPU's own counter, including its idle power; cost from latency.price_per_hour in the config. "
        "Both include the time spent waiting for requests",
    ),
)


def section(number: int, summaries: Sequence[Summary]) -> Section:
    """The table of one benchmark, and the reasons for missing figures."""
    ceilings = dict.fromkeys(line for summary in summaries for line in _ceiling(summary))
    return Section(
        anchor=f"efficiency-{number}",
        title=f"{summaries[0].benchmark}: efficiency",
        table=Table(COLUMNS, tuple(map(_line, summaries)), words=2, judged=False),
        sentence=_sentence(summaries),
        sources=tuple(map(SourceLine, ceilings)),
        notes=tuple(shared_notes([(summary, list(_reasons(summary))) for summary in summaries])),
    )


def operations(per_s: float) -> str:
    """FLOP/s with three significant digits: 431 GFLOP/s, 1.20 TFLOP/s."""
    unit, name = (1e12, "TFLOP/s") if per_s >= 1e12 else (1e9, "GFLOP/s")
    return f"{notation.significant(per_s / unit)} {name}"


def _line(summary: Summary) -> tuple[Cell, ...]:
    efficiency = summary.efficiency
    padding = None if not efficiency.computed_tokens else (efficiency.padded_tokens or 0) / efficiency.computed_tokens
    rate, computed_rate = efficiency.flops_per_s, efficiency.computed_flops_per_s
    return (
        Cell(summary.engine),
        Cell(summary.scenario),
        Cell(notation.significant(summary.pairs_per_s)),
        Cell(notation.significant(summary.tokens_per_s)),
        _count(efficiency.tokens),
        _count(efficiency.computed_tokens),
        Cell(notation.percent(padding if efficiency.padded_tokens is not None else None)),
        Cell(notation.percent(efficiency.mfu), "" if rate is None else operations(rate)),
        Cell(notation.percent(efficiency.utilisation), "" if computed_rate is None else operations(computed_rate)),
        Cell(notation.significant(efficiency.joules_per_1000_pairs)),
        Cell(notation.significant(efficiency.dollars_per_1m_pairs)),
    )


def _count(value: int | None) -> Cell:
    return Cell() if value is None else Cell(f"{value:,}")


def _reasons(summary: Summary) -> Iterator[str]:
    columns: dict[str, list[str]] = {}
    for column, figure in REASONS.items():
        if figure in summary.efficiency.unknown:
            columns.setdefault(summary.efficiency.unknown[figure], []).append(column)
    for reason, names in columns.items():
        yield f"{', '.join(names)}: not known, because {reason}"


def _ceiling(summary: Summary) -> Iterator[str]:
    ceiling = summary.header.ceiling
    if ceiling is not None:
        yield (
            f"{summary.engine}: ceiling {operations(ceiling.flops_per_s)} in {ceiling.dtype}, "
            f"{notation.significant(ceiling.bytes_per_s / 1e9)} GB/s of memory ({ceiling.how})"
        )


def _sentence(summaries: Sequence[Summary]) -> str:
    valid = [summary for summary in summaries if summary.verdict == "VALID"]
    shares = [(share, summary) for summary in valid if (share := summary.efficiency.utilisation) is not None]
    if not shares:
        return "The share of the ceiling is not known for any valid measurement."
    share, best = max(shares, key=lambda measurement: measurement[0])
    return f"{best.engine} uses the largest share of its ceiling, {notation.percent(share)} in {best.scenario}."
