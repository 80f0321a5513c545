"""What a pair costs: a table of tokens, arithmetic, energy and money beside the one of times."""

from collections.abc import Iterator, Sequence

from harness.latency.summary import Summary
from harness.report import notation
from harness.report.content import OriginLine, Section, Term
from harness.report.table import Cell, Table

COLUMNS = (
    "engine", "scenario", "pairs/s", "tokens/s", "tokens", "computed", "padding", "MFU", "computed / ceiling",
    "J per 1,000 pairs", "$ per 1M pairs",
)  # fmt: skip

# Column -> figure of Efficiency whose reason it shows.
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
        "tokens of all prompts, each pair alone (useful); those that went through the model, fewer where a query's "
        "documents share their prefix, more where prompts are padded; the share of the computed ones that is padding",
    ),
    Term(
        "MFU",
        "useful floating-point operations per second over the machine's ceiling. Useful: 2 per number in the layers' "
        "matrices and token, and 4 x layers x heads x head_dim per token and key that it sees, of every pair alone; a "
        "shared prefix counts for each pair though it is computed once, which raises MFU, even over 100%",
    ),
    Term(
        "computed / ceiling",
        "the same for what was computed, which may leave out most of the last layer: how busy the arithmetic was; what "
        "is missing to 100% was waiting, memory, attention or work that is no matrix product",
    ),
    Term(
        "ceiling",
        "the best of some repeated matrix products of the model's own shapes, measured on the same machine in the same "
        "arithmetic before the warm-up: no figure of a data sheet. What else the machine did then lowers it",
    ),
    Term(
        "J per 1,000 pairs, $ per 1M pairs",
        "from the GPU's own energy counter, its idle draw included; from latency.price_per_hour in the config. Both "
        "count the time that passed, waiting for requests included",
    ),
)


def section(number: int, benchmark: str, summaries: Sequence[Summary]) -> Section:
    """The table of one benchmark. Each reason for a missing figure is said once."""
    reasons: dict[str, list[str]] = {}
    for summary in summaries:
        for reason in _reasons(summary):
            reasons.setdefault(reason, []).append(f"{notation.plain(summary.engine)}, {summary.scenario}")
    ceilings = dict.fromkeys(line for summary in summaries for line in _ceiling(summary))
    return Section(
        anchor=f"efficiency-{number}",
        table=Table(f"{notation.plain(benchmark)}: efficiency", COLUMNS, tuple(map(_line, summaries)), judged=False),
        sentence=_sentence(summaries),
        origins=tuple(OriginLine(line, line) for line in ceilings),
        notes=tuple(
            Term("all" if len(labels) == len(summaries) > 1 else "; ".join(labels), reason)
            for reason, labels in reasons.items()
        ),
    )


def operations(per_s: float) -> str:
    """FLOP/s as they are said: 431 GFLOP/s, 1.20 TFLOP/s."""
    unit, name = (1e12, "TFLOP/s") if per_s >= 1e12 else (1e9, "GFLOP/s")
    return f"{notation.significant(per_s / unit)} {name}"


def _line(summary: Summary) -> tuple[Cell, ...]:
    found = summary.efficiency
    padding = None if not found.computed_tokens else (found.padded_tokens or 0) / found.computed_tokens
    rate, computed_rate = found.flops_per_s, found.computed_flops_per_s
    return (
        Cell(notation.plain(summary.engine)),
        Cell(notation.plain(summary.scenario)),
        Cell(notation.significant(summary.pairs_per_s)),
        Cell(notation.significant(summary.tokens_per_s)),
        _count(found.tokens),
        _count(found.computed_tokens),
        Cell(notation.percent(padding if found.padded_tokens is not None else None)),
        Cell(notation.percent(found.mfu), "" if rate is None else operations(rate)),
        Cell(notation.percent(found.utilisation), "" if computed_rate is None else operations(computed_rate)),
        Cell(notation.significant(found.joules_per_1000_pairs)),
        Cell(notation.significant(found.dollars_per_1m_pairs)),
    )


def _count(value: int | None) -> Cell:
    return Cell() if value is None else Cell(f"{value:,}")


def _reasons(summary: Summary) -> Iterator[str]:
    columns: dict[str, list[str]] = {}
    for column, figure in REASONS.items():
        if figure in summary.efficiency.unknown:
            columns.setdefault(summary.efficiency.unknown[figure], []).append(column)
    for reason, names in columns.items():
        yield notation.plain(f"{', '.join(names)}: not known, {reason}")


def _ceiling(summary: Summary) -> Iterator[str]:
    ceiling = summary.header.get("ceiling")
    if ceiling is not None:
        yield notation.plain(
            f"{summary.engine}: ceiling {operations(ceiling['flops_per_s'])} in {ceiling['dtype']}, "
            f"{notation.significant(ceiling['bytes_per_s'] / 1e9)} GB/s of memory ({ceiling['how']})"
        )


def _sentence(summaries: Sequence[Summary]) -> str:
    valid = [summary for summary in summaries if summary.verdict == "VALID"]
    known = [(each.efficiency.utilisation, each) for each in valid if each.efficiency.utilisation is not None]
    if not known:
        return "No valid measurement knows which part of its ceiling it used."
    share, best = max(known, key=lambda found: found[0])
    return (
        f"The largest part of its ceiling is used by {notation.plain(best.engine)}, {notation.plain(best.scenario)}: "
        f"{notation.percent(share)}."
    )
