"""What an engine does under more and more requests: throughput against latency beside nDCG@10, rates within a goal.

Levels of a sweep and probes of a search are recordings as any other, and have tables of their own.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from harness.figures.percentiles import QUANTILES, Estimate
from harness.latency.search import Probe, RateFound, sentence
from harness.latency.summary import Summary
from harness.report import notation
from harness.report.content import Section, Term
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
        "so many requests under way all the time, each followed by the next as soon as it is answered; throughput is "
        "that of the answers between the first and the last, without the start and the end of the loop",
    ),
    Term(
        "search",
        "rates on a Poisson schedule, doubled until one fails, then between what passed and what failed; each judged "
        "by LoadGen's rule for servers. No rate above the largest that passed is claimed",
    ),
)


class SweepLevel(NamedTuple):
    """One level of a sweep."""

    under_way: int
    requests_per_s: float | None
    pairs_per_s: float | None


class Searched(NamedTuple):
    """The probes of one engine in their order, and what they say."""

    engine: str
    benchmark: str
    slo_ms: float
    probes: Sequence[Probe]
    found: RateFound


def is_part(summary: Summary) -> bool:
    """Whether it is one level of a sweep or one probe of a search."""
    return str(summary.header.get("name", "")).startswith(("sweep-", "search-"))


def level(summary: Summary) -> SweepLevel:
    """Throughput of a level: n answers end n - 1 gaps. None for fewer than two."""
    answers = sorted(summary.answered, key=lambda timing: timing.done_s)
    under_way = int(summary.header["settings"]["workers"])
    seconds = answers[-1].done_s - answers[0].done_s if answers else 0.0
    if seconds <= 0:
        return SweepLevel(under_way, None, None)
    return SweepLevel(under_way, (len(answers) - 1) / seconds, sum(each.pairs for each in answers[1:]) / seconds)


def sections(measured: Sequence[Measured], searched: Sequence[Searched] = ()) -> list[Section]:
    """A table of all levels and one of all probes, for each benchmark that has them."""
    found = []
    for number, (benchmark, group) in enumerate(_swept(measured).items(), 1):
        name = notation.plain(benchmark)
        lines = tuple(_level_line(summary, quality) for summary, quality in group)
        table = Table(f"{name}: requests under way", SWEEP_COLUMNS, lines)
        notes = tuple(_notes(group))
        found.append(Section(f"sweep-{number}", table, _best(group), (), notes))
    for number, each in enumerate(searched, 1):
        title = f"{notation.plain(each.benchmark)}: rates within {each.slo_ms:g} ms"
        lines = tuple(_probe_line(each.engine, probe) for probe in each.probes)
        said = f"{notation.plain(each.engine)}: {sentence(each.found, each.slo_ms)}."
        found.append(Section(f"search-{number}", Table(title, SEARCH_COLUMNS, lines), said, ()))
    return found


def draw(measured: Sequence[Measured]) -> "list[Plot]":
    """Throughput against latency, a panel for each benchmark; nothing where there was no sweep."""
    from harness.report import plots

    groups = {plots.short(name): group for name, group in _swept(measured).items()}
    if not groups:
        return []
    plot = plots.Plot(
        "load",
        "Throughput against latency",
        "Each mark is a level of the sweep with its number of requests under way; right and down is better. Line: p50 "
        "with its 95% interval; dotted: p99, where it is known. Hollow: invalid or incomplete.",
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
    here = level(summary)
    ranked = Cell() if quality is None else Cell(notation.decimal(quality["value"]))
    return (
        Cell(notation.plain(summary.engine)),
        Cell(f"{here.under_way:,}"),
        Cell(f"{len(summary.answered):,}"),
        Cell(notation.significant(here.requests_per_s)),
        Cell(notation.significant(here.pairs_per_s)),
        *(_time(summary.response[name]) for name in QUANTILES),
        ranked,
        Cell(summary.verdict),
    )


def _time(found: Estimate) -> Cell:
    if found.estimate is None:
        return Cell(notation.MISSING, f"n_eff {found.n_eff:,}")
    return Cell(notation.duration(found.estimate), f"[{notation.duration(found.lo)}, {notation.duration(found.hi)}]")


def _probe_line(engine: str, probe: Probe) -> tuple[Cell, ...]:
    reason = f"({notation.plain(probe.reason)})" if probe.reason else ""
    return (
        Cell(notation.plain(engine)),
        Cell(f"{probe.rate:.4g}"),
        Cell(f"{probe.queries:,}"),
        Cell(probe.outcome, reason),
    )


def _best(group: Sequence[Measured]) -> str:
    valid = [(level(summary), summary) for summary, _ in group if summary.verdict == "VALID"]
    known = [(here.requests_per_s, here, summary) for here, summary in valid if here.requests_per_s is not None]
    said = f"{len(valid)} of {len(group)} levels are valid."
    if not known:
        return said
    most, here, summary = max(known, key=lambda each: each[0])
    return (
        f"{said} The highest throughput of a valid one is that of {notation.plain(summary.engine)} with "
        f"{here.under_way} under way, {notation.significant(most)} requests/s."
    )


def _notes(group: Sequence[Measured]) -> Iterator[Term]:
    for summary, _ in group:
        name = f"{notation.plain(summary.engine)}, {level(summary).under_way} under way"
        for cause in summary.causes:
            yield Term(name, notation.plain(f"{summary.verdict}: {cause}"))


def _curves(groups: Mapping[str, Sequence[Measured]], styles: "Mapping[str, Style]") -> "Figure":
    from matplotlib.ticker import FuncFormatter, NullLocator

    from harness.report import plots

    figure, panels = plots._panels({name: [] for name in groups})
    shown: dict[str, Style] = {}
    for axes, group in zip(panels, groups.values(), strict=True):
        for engine in dict.fromkeys(summary.engine for summary, _ in group):
            mine = [each for each in group if each[0].engine == engine]
            quality = next((found for _, found in mine if found is not None), None)
            label = engine if quality is None else f"{engine}, nDCG@10 {notation.decimal(quality['value'])}"
            shown[label] = styles[engine]
            _curve(axes, [summary for summary, _ in mine], styles[engine])
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda s, _: f"{s:g} s" if s >= 1 else f"{s * 1e3:g} ms"))
        axes.set_xlim(left=0)
        axes.set_xlabel("requests per second")
        axes.set_ylabel("time of a request, log scale")
    plots._legend(figure, shown)
    return figure


def _curve(axes: "Axes", summaries: Sequence[Summary], style: "Style") -> None:
    from harness.report.plots import PAPER

    levels = sorted(((level(summary), summary) for summary in summaries), key=lambda each: each[0].under_way)
    for name, line in (("p50", style.line), ("p99", ":")):
        points = [
            (here, found.response[name], here.requests_per_s, found.response[name].estimate, found.verdict)
            for here, found in levels
        ]
        known = [(here, found, x, y, verdict) for here, found, x, y, verdict in points if x is not None and y]
        xs, ys = [x for _, _, x, _, _ in known], [y for _, _, _, y, _ in known]
        axes.plot(xs, ys, color=style.colour, linestyle=line, linewidth=1.2)
        for here, found, x, y, verdict in known:
            reach = None if found.lo is None or found.hi is None else [[y - found.lo], [found.hi - y]]
            fill = style.colour if verdict == "VALID" else PAPER
            axes.errorbar(x, y, yerr=reach, fmt=style.marker, color=style.colour, markersize=5, markerfacecolor=fill)
            if name == "p50":
                under_way = str(here.under_way)
                axes.annotate(under_way, (x, y), (4, -9), textcoords="offset points", fontsize=7, color=style.colour)
