"""The content of a latency report, which is built once from the measurements for every format."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from harness.figures.percentiles import QUANTILES, Estimate, floors_of
from harness.latency import validity
from harness.latency.page import cost, load_curve
from harness.latency.page.notes import label, shared_notes
from harness.latency.summary import Summary
from harness.machine import differences
from harness.report import notation
from harness.report.content import EngineLine, Report, Section, SourceLine, Term
from harness.report.table import Cell, Table, Tone

NAME = "latency"  # stem of the Markdown file
HINT = "[95% interval]; '-' means unknown, never zero. index.html explains every column."
COLUMNS = ("engine", "scenario", "n", *QUANTILES, "pairs/s", "tokens/s", "nDCG@10", "verdict")
FIELDS_SHOWN = 4  # fields of two machines that a warning names
TONES: Mapping[str, Tone] = {"INVALID": "bad", "INCOMPLETE": "bad"}

LEGEND = (
    Term("single-stream", "one query after the other, each with all its candidates in one call; the time of the call"),
    Term(
        "server",
        "queries arrive on a schedule even if earlier ones are not answered yet. The time counts from the schedule, so "
        "that it includes waiting; service and first byte count from the sending",
    ),
    Term("offline", "all queries in one call: the throughput, without a time per query"),
    Term("n", "answered requests without the warm-up"),
    Term(
        "p99 [lo, hi]",
        "time within which 99% of the requests are answered: the sample at that rank, and the samples that enclose it "
        f"with 95% confidence; {notation.MISSING} for an end that needs more samples. A sample that resembles the "
        "previous one counts less (n_eff). With too few samples the figure is missing; the largest sample never "
        "replaces it",
    ),
    Term("VALID, INVALID", "whether an observation contradicts the figures; every cause is listed"),
    Term("INCOMPLETE", "the measurement was killed before its end; it cannot be resumed"),
    Term("nDCG@10", "quality of the same engine over the same candidates in this run, explained in its report"),
    *cost.LEGEND,
)


class MeasuredScenario(NamedTuple):
    """A measurement, and nDCG@10 of the same engine over the same candidates in the same run."""

    summary: Summary
    quality: Mapping[str, float] | None = None


def build(measured: Sequence[MeasuredScenario], title: str, searched: Sequence[load_curve.Searched] = ()) -> Report:
    """The report of all measurements. Levels of a sweep and probes of a search have tables of their own."""
    groups: dict[str, list[MeasuredScenario]] = {}
    for scenario in measured:
        if not load_curve.is_part(scenario.summary):
            groups.setdefault(scenario.summary.benchmark, []).append(scenario)
    parts = tuple(load_curve.sections(measured, searched))
    engines = {scenario.summary.engine: _engine(scenario.summary) for scenario in reversed(measured)}
    return Report(
        title=f"Latency: {title}",
        sections=(
            *(section for number, group in enumerate(groups.values(), 1) for section in _sections(number, group)),
            *parts,
        ),
        warnings=(*(() if measured else ("The folder has no measurements yet.",)), *_different_machines(measured)),
        engines=tuple(engines[name] for name in dict.fromkeys(scenario.summary.engine for scenario in measured)),
        legend=(*LEGEND, *(load_curve.LEGEND if parts else ())),
        hint=HINT if measured else "",
    )


def _sections(number: int, group: Sequence[MeasuredScenario]) -> Iterator[Section]:
    """Times and efficiency of one benchmark."""
    summaries = [scenario.summary for scenario in group]
    yield Section(
        anchor=f"latency-{number}",
        title=summaries[0].benchmark,
        table=_table(group),
        sentence=_sentence(summaries),
        sources=tuple(map(SourceLine, dict.fromkeys(map(_candidates, summaries)))),
        notes=tuple(shared_notes([(summary, list(_notes(summary))) for summary in summaries])),
    )
    yield cost.section(number, summaries)


def _table(group: Sequence[MeasuredScenario]) -> Table:
    """One line per measurement, joined by one line per part of its time."""
    lines: list[tuple[Cell, ...]] = []
    joined: set[int] = set()
    for scenario in group:
        whole, *parts = _lines(scenario)
        joined.update(range(len(lines) + 1, len(lines) + 1 + len(parts)))
        lines += [whole, *parts]
    return Table(COLUMNS, tuple(lines), words=2, joined=frozenset(joined))


def _lines(measured: MeasuredScenario) -> Iterator[tuple[Cell, ...]]:
    summary, quality = measured
    name = Cell(summary.engine)
    yield (
        name,
        Cell(summary.scenario),
        Cell(f"{_queries(summary):,}"),
        *(_percentile(summary.response.get(name), quantile) for name, quantile in QUANTILES.items()),
        Cell(notation.significant(summary.pairs_per_s)),
        Cell(notation.significant(summary.tokens_per_s)),
        Cell(notation.MISSING, "random weights") if _is_random(summary) else _quality(quality),
        Cell(summary.verdict, tone=TONES.get(summary.verdict, "plain")),
    )
    if summary.scenario == "server":
        yield _part(name, "service", summary.service)
    if summary.first_byte:
        yield _part(name, "first byte", summary.first_byte)


def _part(engine: Cell, part: str, estimates: Mapping[str, Estimate]) -> tuple[Cell, ...]:
    """A line with the percentiles of a part of the time in the line above."""
    percentiles = (_percentile(estimates.get(name), quantile) for name, quantile in QUANTILES.items())
    return (engine, Cell(part), Cell(""), *percentiles, Cell(""), Cell(""), Cell(""), Cell(""))


def _is_random(summary: Summary) -> bool:
    """Whether the weights are random, so that only the times are meaningful."""
    return summary.header.description.random_seed is not None


def _queries(summary: Summary) -> int:
    """The number of answered queries; an offline call answers all queries or none."""
    if summary.scenario != "offline":
        return len(summary.answered)
    return summary.header.requests if summary.answered else 0


def _percentile(estimate: Estimate | None, quantile: float) -> Cell:
    if estimate is None:
        return Cell(notation.MISSING, "all in one call")
    if estimate.estimate is None:
        return Cell(notation.MISSING, f"n_eff {estimate.n_eff:,} < {floors_of(quantile).estimate:,}")
    interval = f"[{notation.duration(estimate.lo)}, {notation.duration(estimate.hi)}]"
    return Cell(notation.duration(estimate.estimate), interval)


def _quality(quality: Mapping[str, float] | None) -> Cell:
    if quality is None:
        return Cell()
    return Cell(notation.decimal(quality["value"]), notation.interval(quality["lo"], quality["hi"]))


def _sentence(summaries: Sequence[Summary]) -> str:
    valid = [summary for summary in summaries if summary.verdict == "VALID"]
    count = f"{len(valid)} of {len(summaries)} measurements are valid."
    streams = [(summary.response["p50"].estimate, summary) for summary in valid if summary.scenario == "single-stream"]
    medians = [(p50_s, summary) for p50_s, summary in streams if p50_s is not None]
    if len(medians) < 2:
        return count
    p50_s, quickest = min(medians, key=lambda stream: stream[0])
    return f"{count} {quickest.engine} has the lowest p50 of single-stream, {notation.duration(p50_s)}."


def _notes(summary: Summary) -> Iterator[str]:
    yield from (f"{summary.verdict}: {cause}" for cause in summary.causes)
    if _is_random(summary):
        seed = summary.header.description.random_seed
        yield f"the weights are random (seed {seed}): the speed is that of the model, but the scores mean nothing"
    yield from _objective(summary)
    bounds = [
        f"{name} {notation.duration(estimate.conservative)}"
        for name, estimate in summary.response.items()
        if estimate.conservative is not None
    ]
    if bounds:
        yield f"upper bounds with 99% confidence: {', '.join(bounds)}"
    settings, header = summary.header.settings, summary.header
    if summary.scenario == "server":
        delay = f"{validity.DELAY_OF_P50:.0%} of the p50, or {validity.DELAY_FLOOR_S * 1e3:g} ms, late"
        at_most = f"at most {settings.workers} under way" if header.concurrent else "one call at a time"
        yield f"{settings.arrivals} arrivals, {settings.rate:g}/s, {at_most}"
        yield f"at most {validity.LATE:.0%} of the requests may be sent more than {delay}"
    requests, distinct = header.requests, header.distinct_queries
    if requests > distinct:
        yield f"{distinct} queries were sent {requests} times in all, so caches may have answered"
    failed = sum(timing.error is not None for timing in header.warmup)
    failures = f"; {failed} of them failed" if failed else ""
    yield f"{len(header.warmup)} warm-up requests, not counted{failures}"
    if summary.unchecked:
        yield f"not checked: {', '.join(summary.unchecked)}"
    yield from _gpus(summary)


def _objective(summary: Summary) -> Iterator[str]:
    objective = summary.objective
    if objective is not None:
        yield (
            f"p{objective.quantile * 100:g} within {notation.exact(objective.slo_s * 1e3)} ms: {objective.verdict}; "
            f"{objective.over:,} of {objective.n:,} requests took longer; to pass with that many, {objective.needed:,} "
            f"effective samples are needed, and {objective.n_eff:,} were taken"
        )


def _gpus(summary: Summary) -> Iterator[str]:
    for gpu in summary.end.telemetry.gpus if summary.end is not None else ():
        pairs = sum(timing.pairs for timing in summary.answered)
        energy_j = None if gpu.energy_j is None else gpu.energy_j / pairs
        yield (
            f"{gpu.name}: peak memory {notation.significant(gpu.memory_peak_gib)} GiB, "
            f"power {notation.significant(gpu.power_w)} W, energy {notation.significant(energy_j)} J per pair, "
            f"at most {notation.significant(gpu.temperature_c)} °C"
        )


def _candidates(summary: Summary) -> str:
    entry = summary.header.benchmark_entry
    candidates = entry.candidates
    return (
        f"revision {entry.revision}; candidates {candidates.source}, k = {candidates.k}, "
        f"sha256 {candidates.sha256[:16]}"
    )


def _different_machines(measured: Sequence[MeasuredScenario]) -> Iterator[str]:
    for scenario in measured[1:]:
        first, second = measured[0].summary, scenario.summary
        differing = differences(first.header.machine, second.header.machine)
        if differing:
            shown = differing[:FIELDS_SHOWN]
            fields = "; ".join(f"{pair.field} {pair.first!r} and {pair.second!r}" for pair in shown)
            yield f"{label(first)} and {label(second)} were measured on different machines: {fields}"


def _engine(summary: Summary) -> EngineLine:
    description, machine = summary.header.description, summary.header.hardware
    weights = "" if description.random_seed is None else f"random, seed {description.random_seed}"
    model = " ".join(filter(None, (description.model, weights, description.precision, description.template)))
    gpu = f"{machine.gpu}; " if machine.gpu != "none" else ""
    where = f"{gpu}{machine.host}"
    facts = (summary.engine, summary.header.kind, model, where)
    return EngineLine(*(fact.strip() or notation.MISSING for fact in facts))
