"""The report of `crispbench ab`: one line per metric, notes on the figures, and the verdict."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.ab.records import ARMS, Arm, Metric, Stop
from harness.ab.result import AbRecord, MetricResult, MetricResults
from harness.outcome import Outcome
from harness.report import notation, press
from harness.report.content import EngineLine, Note, Report, Section, Term
from harness.report.table import Cell, Table, Tone

NAME = "ab"
FILES = ("index.html", "ab.md", "table.tex", "ratios.svg", "ratios.png")
COLUMNS = ("metric", "B slower by", "interval", "margin", "launch pairs vary by", "verdict")
NOT_MEASURED = "not measured"
TONES: Mapping[Outcome | None, Tone] = {
    Outcome.PASS: "good",
    Outcome.REGRESSION: "bad",
    Outcome.INCONCLUSIVE: "muted",
    None: "muted",
}
ENDINGS: Mapping[Stop, str] = {
    Stop.DECIDED: "",
    Stop.MOST_PAIRS: "",
    Stop.TIME: ", as many as the time allows",
    Stop.FUTILE: ", and more would not help",
}
LEGEND = (
    Term(
        "B slower by", "Hodges-Lehmann estimate over the launch pairs, as a share of A's time; below 0 if B is faster"
    ),
    Term("throughput", "time per (query, document) pair, so that a positive share means that B is slower there too"),
    Term("interval", "signed-rank interval over the launch pairs, which holds at every look together"),
    Term("margin", "share by which B may be slower"),
    Term("launch pairs vary by", "robust standard deviation of one launch pair"),
    Term(
        "pass, regression, inconclusive",
        "the interval lies below the margin; it lies above the margin; it contains the margin",
    ),
    Term(notation.MISSING, "unknown; never zero"),
)


def build(result: AbRecord) -> Report:
    arms = result.setup.arms
    against_itself = (f"A against A: {floor(result.metrics)}",) if result.setup.canary else ()
    return Report(
        title=f"{result.setup.name}: A {arms['A'].engine}, B {arms['B'].engine}",
        sections=(_section(result),),
        lead=(heading(result), *against_itself),
        conclusion=conclusion(result),
        engines=tuple(_engine(result, arm) for arm in ARMS),
        legend=LEGEND,
    )


def write(result: AbRecord) -> list[Path]:
    """Write index.html, ab.md, table.tex and the plot into the folder of the run; return their paths."""
    from harness.ab import plot

    return press.write(build(result), result.folder, name=NAME, plots=[plot.draw(result)])


def heading(result: AbRecord) -> str:
    arms, plan = result.setup.arms, result.setup.plan
    return (
        f"A {arms['A'].engine}, B {arms['B'].engine} on {result.setup.benchmark['name']}: "
        f"launch pairs {result.launch_pairs} of at most {result.most}, rounds {plan.rounds}, "
        f"queries per round {plan.queries}"
    )


def conclusion(result: AbRecord) -> str:
    """The verdict in one sentence: `REGRESSION: B is slower than the margin allows (p50), after 12 launch pairs`."""
    verdict, after = result.outcome.upper(), f"after {result.launch_pairs} launch pairs"
    measured = {name: metric.outcome for name, metric in result.metrics.items() if metric.outcome is not None}
    if not measured:
        return f"{verdict}: no metric was measured"
    if result.outcome is Outcome.REGRESSION:
        names = [name for name, outcome in measured.items() if outcome is Outcome.REGRESSION]
        return f"{verdict}: B is slower than the margin allows ({', '.join(names)}), {after}"
    if result.outcome is Outcome.PASS:
        return f"{verdict}: B is not slower than the margins allow ({', '.join(measured)}), {after}"
    undecided = [name for name, outcome in measured.items() if outcome is not Outcome.PASS]
    return f"{verdict}: no decision on {', '.join(undecided)} {after}{ENDINGS[result.stop]}"


def floor(metrics: MetricResults) -> str:
    """`p50 ratio 1.002 [0.990, 1.010], ...`, for the metrics that were measured."""
    return ", ".join(
        f"{name} ratio {metric.slowdown:.3f} [{_ratio(metric.lo)}, {_ratio(metric.hi)}]"
        for name, metric in metrics.items()
        if metric.slowdown is not None
    )


def _section(result: AbRecord) -> Section:
    names: dict[str, list[str]] = {}
    for name, metric in result.metrics.items():
        if metric.reason:
            names.setdefault(metric.reason, []).append(name)
    reasons = tuple(Note(", ".join(affected), reason) for reason, affected in names.items())
    return Section(
        anchor="metrics",
        title="B against A",
        table=Table(COLUMNS, tuple(tuple(_cells(name, result)) for name in result.metrics)),
        notes=(*reasons, *(Note("", note) for note in result.notes)),
        plots=("ratios",),
    )


def _cells(name: Metric, result: AbRecord) -> Iterator[Cell]:
    metric, forecast = result.metrics[name], result.forecast.get(name)
    is_measured = metric.slowdown is not None
    places = _places(metric)
    yield Cell(name)
    yield Cell(_share(metric.slowdown, places))
    yield Cell(f"[{_share(metric.lo, places)}, {_share(metric.hi, places)}]" if is_measured else notation.MISSING)
    yield Cell(f"{metric.margin:.{places}%}")
    yield Cell(notation.MISSING if forecast is None else f"{math.expm1(forecast.spread):.1%}")
    yield Cell(metric.outcome or NOT_MEASURED, tone=TONES.get(metric.outcome, "plain"))


def _places(metric: MetricResult) -> int:
    """Decimals with which the slowdown and its interval print on their own sides of the margin."""
    ends = (None if ratio is None else (ratio - 1) * 100 for ratio in (metric.slowdown, metric.lo, metric.hi))
    return notation.places(ends, [metric.margin * 100], 1)


def _share(ratio: float | None, places: int) -> str:
    return notation.MISSING if ratio is None else f"{ratio - 1:+.{places}%}"


def _ratio(ratio: float | None) -> str:
    return notation.MISSING if ratio is None else f"{ratio:.3f}"


def _engine(result: AbRecord, arm: Arm) -> EngineLine:
    engine, record = result.setup.arms[arm], result.records[arm]
    model = {**engine.options, **record.description.document()}
    return EngineLine(f"{arm} {engine.engine}", engine.kind, _facts(model), _facts(record.machine))


def _facts(fields: Mapping[str, object]) -> str:
    """The fields in alphabetical order, as in ab.json."""
    return ", ".join(f"{name} {value}" for name, value in sorted(fields.items())) or notation.MISSING
