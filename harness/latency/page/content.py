"""The report of `crispbench latency`: one content, printed on the terminal or written as files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.figures.percentiles import QUANTILES, Estimate, floors_of
from harness.files import replace_file
from harness.latency import validity
from harness.latency.page import cost, load_curve
from harness.latency.summary import Summary
from harness.machine import comparable
from harness.report import notation
from harness.report.content import OriginLine, Report, Scorer, Section, Term
from harness.report.table import Cell, Table

COLUMNS = ("engine", "scenario", "n", *QUANTILES, "pairs/s", "tokens/s", "nDCG@10", "verdict")
DIFFERING_SHOWN = 4

LEGEND = (
    Term(
        "single-stream",
        "one query after the other, each with all its candidates in one call; the time is that of the call",
    ),
    Term(
        "server",
        "queries arrive on a schedule, whether or not earlier ones are answered; the time counts from the schedule, "
        "so that a query that had to wait waited. Service and first byte count from the sending",
    ),
    Term("offline", "all queries in one call: how much work gets done, with no time per query"),
    Term("n", "answered requests; warm-up is not among them"),
    Term(
        "p99 [lo, hi]",
        "time that 99% stay within, as the sample at that rank, and the samples that enclose it with 95% confidence; "
        f"{notation.MISSING} for an end that so few samples cannot know. Samples that resemble the one before count "
        "less (n_eff), and below a floor there is no figure, never the largest sample in its place",
    ),
    Term("VALID, INVALID", "whether anything that can be seen speaks against the figures; each cause is listed"),
    Term("INCOMPLETE", "killed before its end; it is never resumed"),
    Term("nDCG@10", "of the same engine over the same candidates in this run; how to read it is said in its report"),
    *cost.LEGEND,
)


class MeasuredScenario(NamedTuple):
    """A measurement, and the quality that the same run found for the same engine and candidates."""

    summary: Summary
    quality: Mapping[str, float] | None = None


def write(
    measured: Sequence[MeasuredScenario], directory: Path, title: str, searched: Sequence[load_curve.Searched] = ()
) -> list[Path]:
    """Write index.html, latency.md and each plot as .svg and .png; the paths, in that order."""
    from harness.latency.page import plots
    from harness.report import html, markdown

    whole = [each.summary for each in measured if not load_curve.is_part(each.summary)]
    report, drawn = build(measured, title, searched), [*plots.draw(whole), *load_curve.draw(measured)]
    files = {
        "index.html": html.render(report, drawn).encode(),
        "latency.md": markdown.render(report, [(f"{plot.name}.png", plot.title) for plot in drawn]).encode(),
    }
    for plot in drawn:
        files |= {f"{plot.name}.svg": plot.svg, f"{plot.name}.png": plot.png}
    directory.mkdir(parents=True, exist_ok=True)
    return [replace_file(directory / name, data) for name, data in files.items()]


def build(measured: Sequence[MeasuredScenario], title: str, searched: Sequence[load_curve.Searched] = ()) -> Report:
    """The content of every format. Levels of a sweep and probes of a search have tables of their own."""
    groups: dict[str, list[MeasuredScenario]] = {}
    parts = load_curve.sections(measured, searched)
    for each in (each for each in measured if not load_curve.is_part(each.summary)):
        groups.setdefault(each.summary.benchmark, []).append(each)
    scorers = {each.summary.engine: _scorer(each.summary) for each in reversed(measured)}
    return Report(
        title=f"Latency: {notation.plain(title)}",
        sections=(
            *(
                section
                for number, (name, group) in enumerate(groups.items(), 1)
                for section in (
                    _section(number, name, group),
                    cost.section(number, name, [each.summary for each in group]),
                )
            ),
            *parts,
        ),
        scorers=tuple(scorers[name] for name in dict.fromkeys(each.summary.engine for each in measured)),
        legend=(*LEGEND, *(load_curve.LEGEND if parts else ())),
        remarks=(*(() if measured else ("There is no measurement yet.",)), *_different_machines(measured)),
    )


def _section(number: int, benchmark: str, group: Sequence[MeasuredScenario]) -> Section:
    lines = [line for each in group for line in _lines(each)]
    shared: dict[str, list[str]] = {}  # what is said of several measurements is said once
    for each in group:
        for note in _notes(each.summary):
            shared.setdefault(note, []).append(_label(each.summary))
    origins = dict.fromkeys(_origin(each.summary) for each in group)
    return Section(
        anchor=f"latency-{number}",
        table=Table(notation.plain(benchmark), COLUMNS, tuple(lines)),
        sentence=_sentence([each.summary for each in group]),
        origins=tuple(OriginLine(line, line) for line in origins),
        notes=tuple(
            Term("all" if len(labels) == len(group) > 1 else "; ".join(labels), note) for note, labels in shared.items()
        ),
    )


def _lines(measured: MeasuredScenario) -> Iterator[tuple[Cell, ...]]:
    summary, quality = measured
    name = Cell(notation.plain(summary.engine))
    yield (
        name,
        Cell(summary.scenario),
        Cell(f"{_queries(summary):,}"),
        *(_percentile(summary.response.get(name), quantile) for name, quantile in QUANTILES.items()),
        Cell(notation.significant(summary.pairs_per_s)),
        Cell(notation.significant(summary.tokens_per_s)),
        Cell(notation.MISSING, "random weights") if _random(summary) else _quality(quality),
        Cell(summary.verdict),
    )
    if summary.scenario == "server":
        yield _part(name, "of it, service", summary.service)
    if summary.first_byte:
        yield _part(name, "to the first byte", summary.first_byte)


def _part(engine: Cell, label: str, found: Mapping[str, Estimate]) -> tuple[Cell, ...]:
    """A line of percentiles below the one that they are a part of."""
    percentiles = (_percentile(found.get(name), quantile) for name, quantile in QUANTILES.items())
    return (engine, Cell(label), Cell(""), *percentiles, Cell(""), Cell(""), Cell(""), Cell(""))


def _random(summary: Summary) -> str:
    """What is random about the weights, empty for a real model: its times are real, its scores mean nothing."""
    found = str(summary.header["description"].get("weights", ""))
    return found if found.startswith("random") else ""


def _queries(summary: Summary) -> int:
    """Answered ones; of one call that holds all of them, all or none."""
    if summary.scenario != "offline":
        return len(summary.answered)
    return int(summary.header["settings"]["queries"]) if summary.answered else 0


def _percentile(found: Estimate | None, quantile: float) -> Cell:
    if found is None:
        return Cell(notation.MISSING, "all in one call")
    if found.estimate is None:
        return Cell(notation.MISSING, f"n_eff {found.n_eff:,} < {floors_of(quantile).estimate:,}")
    return Cell(notation.duration(found.estimate), f"[{notation.duration(found.lo)}, {notation.duration(found.hi)}]")


def _quality(found: Mapping[str, float] | None) -> Cell:
    if found is None:
        return Cell()
    return Cell(notation.decimal(found["value"]), notation.interval(found["lo"], found["hi"]))


def _sentence(summaries: Sequence[Summary]) -> str:
    valid = [summary for summary in summaries if summary.verdict == "VALID"]
    said = [f"{len(valid)} of {len(summaries)} measurements are valid."]
    streams = [(each.response["p50"].estimate, each) for each in valid if each.scenario == "single-stream"]
    known = [(p50_s, each) for p50_s, each in streams if p50_s is not None]
    if len(known) > 1:
        p50_s, quickest = min(known, key=lambda found: found[0])
        said.append(
            f"The lowest p50 of single-stream is that of {notation.plain(quickest.engine)}, {notation.duration(p50_s)}."
        )
    return " ".join(said)


def _notes(summary: Summary) -> Iterator[str]:
    yield from (notation.plain(f"{summary.verdict}: {cause}") for cause in summary.causes)
    if _random(summary):
        yield f"weights {notation.plain(_random(summary))}: the model's shape without its scores, speed only"
    yield from _objective(summary)
    bounds = [
        f"{name} {notation.duration(each.conservative)}"
        for name, each in summary.response.items()
        if each.conservative is not None
    ]
    if bounds:
        yield f"not above, with 99% confidence: {', '.join(bounds)}"
    settings, header = summary.header["settings"], summary.header
    if summary.scenario == "server":
        bound = f"{validity.DELAY_OF_P50:.0%} of the p50, or {validity.DELAY_FLOOR_S * 1e3:g} ms"
        at_most = f"at most {settings['workers']} under way" if header["concurrent"] else "one call at a time"
        yield f"{settings['arrivals']} arrivals, {settings['rate']:g}/s, {at_most}"
        yield f"{validity.LATE:.0%} of the requests may be sent later than {bound}"
    asked, distinct = settings["queries"], header["distinct_queries"]
    if asked > distinct:
        yield f"{distinct} queries, asked {asked} times in all: caches may have answered"
    failed = sum(timing["error"] is not None for timing in header["warmup"])
    yield f"warm-up of {len(header['warmup'])} requests, not counted" + (f"; {failed} of them failed" if failed else "")
    if summary.unchecked:
        yield f"could not be examined: {', '.join(summary.unchecked)}"
    yield from _gpus(summary)


def _objective(summary: Summary) -> Iterator[str]:
    found = summary.objective
    if found is not None:
        yield (
            f"p{found.quantile * 100:g} within {notation.duration(found.slo_s)}: {found.verdict}; {found.over:,} of "
            f"{found.n:,} took longer; {found.needed:,} effective samples with so many slow ones pass, "
            f"{found.n_eff:,} were taken"
        )


def _gpus(summary: Summary) -> Iterator[str]:
    for gpu in (summary.end or {"telemetry": {"gpus": ()}})["telemetry"]["gpus"]:
        energy = None if gpu["energy_j"] is None else gpu["energy_j"] / sum(each.pairs for each in summary.answered)
        yield (
            f"{gpu['name']}: memory peak {notation.significant(gpu['memory_peak_gib'])} GiB, "
            f"power {notation.significant(gpu['power_w'])} W, energy {notation.significant(energy)} J per pair, "
            f"highest {notation.significant(gpu['temperature_c'])} °C"
        )


def _origin(summary: Summary) -> str:
    entry = summary.header["benchmark_entry"]
    candidates = entry["candidates"]
    return (
        f"revision {entry['revision']}; candidates {candidates['source']}, k = {candidates['k']}, "
        f"sha256 {candidates['sha256'][:16]}"
    )


def _different_machines(measured: Sequence[MeasuredScenario]) -> Iterator[str]:
    for each in measured[1:]:
        first, here = measured[0].summary, each.summary
        differing = comparable(first.header["machine"], here.header["machine"])
        if differing:
            shown = "; ".join(f"{field} {one!r} and {other!r}" for field, one, other in differing[:DIFFERING_SHOWN])
            yield notation.plain(f"{_label(here)} and {_label(first)} were not measured on the same machine: {shown}")


def _label(summary: Summary) -> str:
    return f"{notation.plain(summary.engine)}, {summary.scenario}"


def _scorer(summary: Summary) -> Scorer:
    description, machine = summary.header["description"], summary.header["machine"]
    model = " ".join(description[key] for key in ("model", "weights", "precision", "template") if description.get(key))
    where = f"{machine['gpu']}; " if machine["gpu"] != "none" else ""
    where += f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
    texts = (summary.engine, summary.header["kind"], model, where)
    return Scorer(*(notation.plain(text) or notation.MISSING for text in texts))
