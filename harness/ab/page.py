"""The report of `crispbench ab`: one line per metric, notes on the figures, and the verdict."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from harness.ab.records import ARMS, Arm
from harness.ab.result import AbRecord, MetricResult, MetricResults
from harness.figures.shifts import ALPHA
from harness.outcome import Outcome
from harness.report import notation, press
from harness.report.content import EngineLine, Note, Report, Section, Term
from harness.report.table import Cell, Table, Tone

NAME = "ab"
FILES = ("index.html", "ab.md", "table.tex", "ratios.svg", "ratios.png")
COLUMNS = ("metric", "B slower by", "interval", "margin", "p (Holm)", "verdict")
NOT_MEASURED = "not measured"
TONES: Mapping[Outcome | None, Tone] = {
    Outcome.PASS: "good",
    Outcome.REGRESSION: "bad",
    Outcome.INCONCLUSIVE: "muted",
    None: "muted",
}
LEGEND = (
    Term(
        "B slower by", "Hodges-Lehmann estimate over the launch pairs, as a share of A's time; below 0 if B is faster"
    ),
    Term("throughput", "time per (query, document) pair, so that a positive share means that B is slower there too"),
    Term("interval", "exact signed-rank interval over the launch pairs"),
    Term("margin", "share by which B may be slower"),
    Term(
        "p (Holm)",
        "one-sided p against a slowdown of at most the margin, adjusted over the measured metrics",
    ),
    Term(
        "pass, regression, inconclusive",
        "the interval lies below the margin; B is slower than the margin after Holm's adjustment; neither is shown",
    ),
    Term(notation.MISSING, "unknown; never zero"),
)


def build(result: AbRecord) -> Report:
    arms = result.setup.arms
    sections = [_section(anchor, title, metrics) for anchor, title, metrics in _sets(result)]
    general = tuple(Note("", note) for note in result.notes)
    sections[-1] = replace(sections[-1], notes=(*sections[-1].notes, *general), plots=("ratios",))
    against_itself = (f"A against A: {floor(result.metrics)}",) if result.setup.canary else ()
    return Report(
        title=f"{result.setup.name}: A {arms['A'].engine}, B {arms['B'].engine}",
        sections=tuple(sections),
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
        f"launch pairs {plan.launch_pairs}, rounds {plan.rounds}, queries per round {plan.queries}"
    )


def conclusion(result: AbRecord) -> str:
    """The verdict in one sentence: `REGRESSION: B is slower than the margin allows (p50), in both sets of launches`."""
    verdict, second = result.outcome.upper(), result.confirmation
    measured = {name: metric for name, metric in result.metrics.items() if metric.outcome is not None}
    if result.outcome is Outcome.REGRESSION and second is not None:
        names = [name for name, metric in second.items() if metric.outcome is Outcome.REGRESSION]
        return f"{verdict}: B is slower than the margin allows ({', '.join(names)}), in both sets of launches"
    if second is not None:
        return f"{verdict}: the first set of launches showed a regression ({', '.join(second)}), but the second did not"
    if result.outcome is Outcome.PASS:
        return f"{verdict}: B is not slower than the margins allow ({', '.join(measured)})"
    undecided = [name for name, metric in measured.items() if metric.outcome is not Outcome.PASS]
    return f"{verdict}: no decision on {', '.join(undecided)}" if measured else f"{verdict}: no metric was measured"


def floor(metrics: MetricResults) -> str:
    """`p50 ratio 1.002 [0.990, 1.010], ...`, for the metrics that were measured."""
    return ", ".join(
        f"{name} ratio {metric.slowdown:.3f} [{_ratio(metric.lo)}, {_ratio(metric.hi)}]"
        for name, metric in metrics.items()
        if metric.slowdown is not None
    )


def _sets(result: AbRecord) -> Iterator[tuple[str, str, MetricResults]]:
    """Anchor, title and metrics of each set of launches."""
    if result.confirmation is None:
        yield "metrics", "B against A", result.metrics
    else:
        yield "metrics", "First set of launches", result.metrics
        yield "confirmation", "Second set, to confirm", result.confirmation


def _section(anchor: str, title: str, metrics: MetricResults) -> Section:
    names: dict[str, list[str]] = {}
    for name, metric in metrics.items():
        if metric.reason:
            names.setdefault(metric.reason, []).append(name)
    return Section(
        anchor=anchor,
        title=title,
        table=Table(COLUMNS, tuple(tuple(_cells(name, metric)) for name, metric in metrics.items())),
        notes=tuple(Note(", ".join(affected), reason) for reason, affected in names.items()),
    )


def _cells(name: str, metric: MetricResult) -> Iterator[Cell]:
    is_measured = metric.slowdown is not None
    places = _places(metric)
    yield Cell(name)
    yield Cell(_share(metric.slowdown, places))
    yield Cell(f"[{_share(metric.lo, places)}, {_share(metric.hi, places)}]" if is_measured else notation.MISSING)
    yield Cell(f"{metric.margin:.{places}%}")
    yield Cell(notation.MISSING if metric.p_holm is None else notation.beside(metric.p_holm, ALPHA, 4))
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
