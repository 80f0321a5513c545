"""Engines under growing load: throughput against latency, and the highest rate within an objective.

Levels of a sweep and probes of a search are ordinary recordings, but they have their own tables.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from harness.figures.percentiles import QUANTILES, Estimate
from harness.latency.search import Probe, RateFound, sentence
from harness.latency.summary import Summary
from harness.report import notation
from harness.report.content import Note, Section, Term
from harness.report.table import Cell, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.report.plots import Plot, Style

Quality = Mapping[str, float] | None
Measured = tuple[Summary, Quality]

SWEEP_COLUMNS = ("engine", "under way", "n", "requests/s", "pairs/s", *QUANTILES, "nDCG@10", "verdict")
SEARCH_COLUMNS = ("engine", "requests/s", "n", "verdict")

LEGEND = (
    Term(
        "sweep",
        "a constant number of requests under way: every answer is followed by the next request at once. The throughput "
        "counts the answers between the first and the last one, without the start and the end of the loop",
    ),
    Term(
        "search",
        "rates on a Poisson schedule. They are doubled until one fails, and then lie between the last rate that passed "
        "and the first that failed. LoadGen's rule for servers judges a rate. The claimed rate is the largest that "
        "passed",
    ),
)


class SweepLevel(NamedTuple):
    """Throughput at one level of a sweep; the rates are None with fewer than two answers."""

    under_way: int
    requests_per_s: float | None
    pairs_per_s: float | None


class Searched(NamedTuple):
    """The probes of one engine in their order, and the conclusion from them."""

    engine: str
    benchmark: str
    slo_ms: float
    probes: Sequence[Probe]
    conclusion: RateFound


def is_part(summary: Summary) -> bool:
    """Whether the recording is one level of a sweep or one probe of a search."""
    return summary.header.part_of is not None


def level(summary: Summary) -> SweepLevel:
    """The throughput of a level. n answers enclose n - 1 gaps."""
    answers = sorted(summary.answered, key=lambda timing: timing.done_s)
    under_way = summary.header.settings.workers
    seconds = answers[-1].done_s - answers[0].done_s if answers else 0.0
    if seconds <= 0:
        return SweepLevel(under_way, None, None)
    return SweepLevel(under_way, (len(answers) - 1) / seconds, sum(answer.pairs for answer in answers[1:]) / seconds)


def sections(measured: Sequence[Measured], searched: Sequence[Searched] = ()) -> Iterator[Section]:
    """A table of levels per benchmark, and a table of probes per search."""
    for number, (benchmark, group) in enumerate(_swept(measured).items(), 1):
        table = Table(SWEEP_COLUMNS, tuple(_level_line(summary, quality) for summary, quality in group))
        yield Section(
            f"sweep-{number}", f"{benchmark}: requests under way", table, _best(group), notes=tuple(_notes(group))
        )
    for number, search in enumerate(searched, 1):
        table = Table(SEARCH_COLUMNS, tuple(_probe_line(search.engine, probe) for probe in search.probes))
        result = f"{search.engine}: {sentence(search.conclusion, search.slo_ms)}."
        yield Section(f"search-{number}", f"{search.benchmark}: rates within {search.slo_ms:g} ms", table, result)


def draw(measured: Sequence[Measured]) -> "list[Plot]":
    """Throughput against latency, one panel per benchmark; no plot without a sweep."""
    from harness.report import plots

    groups = {plots.short(name): group for name, group in _swept(measured).items()}
    if not groups:
        return []
    plot = plots.Plot(
        "load",
        "Throughput against latency",
        "Each mark is a level of the sweep, labelled with its number of requests under way; right and down is better. "
        "The line is p50 with its 95% interval, and the dotted line is p99 where it is known. Hollow marks are invalid "
        "or incomplete.",
    )
    styles = plots.style(list(dict.fromkeys(summary.engine for summary, _ in measured)))
    with plots.drawing():
        return [plots.saved(plot, _curves(groups, styles))]


def _swept(measured: Sequence[Measured]) -> dict[str, list[Measured]]:
    groups: dict[str, list[Measured]] = {}
    for summary, quality in measured:
        if summary.scenario == "sweep":
            groups.setdefault(summary.benchmark, []).append((summary, quality))
    return groups


def _level_line(summary: Summary, quality: Quality) -> tuple[Cell, ...]:
    throughput = level(summary)
    ranked = Cell() if quality is None else Cell(notation.decimal(quality["value"]))
    return (
        Cell(summary.engine),
        Cell(f"{throughput.under_way:,}"),
        Cell(f"{len(summary.answered):,}"),
        Cell(notation.significant(throughput.requests_per_s)),
        Cell(notation.significant(throughput.pairs_per_s)),
        *(_time(summary.response[name]) for name in QUANTILES),
        ranked,
        Cell(summary.verdict),
    )


def _time(estimate: Estimate) -> Cell:
    if estimate.estimate is None:
        return Cell(notation.MISSING, f"n_eff {estimate.n_eff:,}")
    interval = f"[{notation.duration(estimate.lo)}, {notation.duration(estimate.hi)}]"
    return Cell(notation.duration(estimate.estimate), interval)


def _probe_line(engine: str, probe: Probe) -> tuple[Cell, ...]:
    reason = f"({probe.reason})" if probe.reason else ""
    return (
        Cell(engine),
        Cell(f"{probe.rate:.4g}"),
        Cell(f"{probe.queries:,}"),
        Cell(probe.outcome, reason, tone=probe.outcome.tone),
    )


def _best(group: Sequence[Measured]) -> str:
    valid = [(level(summary), summary) for summary, _ in group if summary.verdict == "VALID"]
    rates = [
        (rate, throughput, summary) for throughput, summary in valid if (rate := throughput.requests_per_s) is not None
    ]
    count = f"{len(valid)} of {len(group)} levels are valid."
    if not rates:
        return count
    rate, highest, summary = max(rates, key=lambda candidate: candidate[0])
    return (
        f"{count} {summary.engine} has the highest throughput of these, {notation.significant(rate)} requests/s with "
        f"{highest.under_way} under way."
    )


def _notes(group: Sequence[Measured]) -> Iterator[Note]:
    for summary, _ in group:
        label = f"{summary.engine}, {level(summary).under_way} under way"
        for cause in summary.causes:
            yield Note(label, f"{summary.verdict}: {cause}")


def _curves(groups: Mapping[str, Sequence[Measured]], styles: "Mapping[str, Style]") -> "Figure":
    from matplotlib.ticker import NullLocator

    from harness.report import plots

    figure, panels = plots.panels(groups)
    shown: dict[str, Style] = {}
    for axes, group in zip(panels, groups.values(), strict=True):
        for engine in dict.fromkeys(summary.engine for summary, _ in group):
            levels = [(summary, quality) for summary, quality in group if summary.engine == engine]
            quality = next((quality for _, quality in levels if quality is not None), None)
            label = engine if quality is None else f"{engine}, nDCG@10 {notation.decimal(quality['value'])}"
            shown[label] = styles[engine]
            _curve(axes, [summary for summary, _ in levels], styles[engine])
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(plots.seconds())
        axes.set_xlim(left=0)
        axes.set_xlabel("requests per second")
        axes.set_ylabel("time of a request, log scale")
    plots.legend(figure, shown)
    return figure


def _curve(axes: "Axes", summaries: Sequence[Summary], style: "Style") -> None:
    from harness.report.plots import PAPER

    levels = sorted(((level(summary), summary) for summary in summaries), key=lambda pair: pair[0].under_way)
    for name, line in (("p50", style.line), ("p99", ":")):
        points = [
            (throughput, throughput.requests_per_s, summary.response[name], summary.verdict)
            for throughput, summary in levels
        ]
        drawn = [
            (throughput, rate, time, time.estimate, verdict)
            for throughput, rate, time, verdict in points
            if rate is not None and time.estimate
        ]
        xs, ys = [rate for _, rate, *_ in drawn], [p for *_, p, _ in drawn]
        axes.plot(xs, ys, color=style.colour, linestyle=line, linewidth=1.2)
        for throughput, x, time, y, verdict in drawn:
            reach = None if time.lo is None or time.hi is None else [[y - time.lo], [time.hi - y]]
            fill = style.colour if verdict == "VALID" else PAPER
            axes.errorbar(x, y, yerr=reach, fmt=style.marker, color=style.colour, markersize=5, markerfacecolor=fill)
            if name == "p50":
                label = str(throughput.under_way)
                axes.annotate(label, (x, y), (4, -9), textcoords="offset points", fontsize=7, color=style.colour)
