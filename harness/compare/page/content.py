"""A comparison as a report: effects, matrices, fidelity, the largest losses, and the fields that differ."""

import json
from collections.abc import Iterator
from pathlib import Path

from harness.compare.comparison import BenchmarkFidelity, ComparedEngine, Comparison, Comparisons, Effect, Loss, Matrix
from harness.compare.page import FOREST
from harness.figures.fidelity import Fidelity
from harness.figures.measures import HEADLINE
from harness.outcome import Outcome
from harness.report import notation, press
from harness.report.content import EngineLine, Note, Report, Section, SourceLine, Term
from harness.report.table import Cell, Table

NAME = "compare"  # stem of the Markdown and JSON files
MARK = "*"  # follows a difference whose Holm-adjusted p is below 0.05
SIGNIFICANT = 0.05
ALONE = "beyond the margin by itself, but not after Holm's adjustment over all that were tested"
EFFECTS = (
    "benchmark",
    "queries",
    "reference",
    "candidate",
    f"Δ {HEADLINE}",
    "p",
    "p Holm",
    "+ / = / −",
    "d_z",
    "verdict",
)
FIDELITY = (
    "benchmark", "pairs", "mean drift", "p99 drift", "tau-b", "RBO", "top 1", "top 10", "order", "tie rate",
    "saturation",
)  # fmt: skip
MATRIX = ("engine", HEADLINE, "group", "Δ to the best", "p Holm")
MOVES = ("document", "grade", "rank before", "rank now", "score before", "score now")
DIFFERING = ("field", "reference", "candidate")

LEGEND = (
    Term(
        f"Δ {HEADLINE}",
        "candidate minus reference on the same queries. The lower end holds with 97.5%, even if queries that were not "
        "drawn lose everything; the upper end with 97.5%, if none gains more than the largest gain or typical change",
    ),
    Term(
        "pass, regression, inconclusive",
        "the whole interval lies above minus the margin; the whole interval lies below it; the interval includes minus "
        "the margin",
    ),
    Term("p", "two-sided sign-flip test of the difference against zero"),
    Term(f"p Holm, {MARK}", f"p adjusted for the number of benchmarks or pairs; {MARK} marks a value below 0.05"),
    Term("+ / = / −", "queries on which the candidate is better, equal or worse"),
    Term("d_z", "standardised mean difference: mean of the differences over their standard deviation"),
    Term(
        "drift",
        "candidate's score minus the reference's: mean and p99 of its absolute value; bias is the signed mean",
    ),
    Term(
        "tau-b",
        "Kendall's rank correlation of a query's scores, corrected for ties: mean over queries, and the lowest",
    ),
    Term("RBO", "rank-biased overlap of a query's two orders with p = 0.9; 1 for equal orders"),
    Term(
        "top 1, top 10",
        "queries whose first document differs, and queries whose set of first ten documents differs; order also counts "
        "queries that have the same ten documents in a different order",
    ),
    Term(
        "order",
        "queries whose order changed. first: the first relevant document moved. above: it kept its rank, and documents "
        "above it moved. below: only documents below it moved. none: the query has no relevant candidate",
    ),
    Term("saturation", "share of the pairs that tie at the highest or the lowest score of the benchmark"),
    Term("group", "engines that share a letter cannot be told apart"),
    Term(notation.MISSING, "unknown or not applicable; never zero"),
)


def build(result: Comparisons, *, verdict_last: bool = False) -> Report:
    """The report of a comparison; `verdict_last` is the order for a terminal, where the last lines stay visible."""
    numbered = list(enumerate(result.comparisons, start=1))
    parts = [
        [_effects(number, comparison) for number, comparison in numbered],
        [_matrix(number, matrix) for number, matrix in enumerate(result.matrices, start=1)],
        [_fidelity(number, comparison) for number, comparison in numbered],
        [_losses(number, comparison) for number, comparison in numbered if comparison.losses],
        [_differing(number, comparison) for number, comparison in numbered],
    ]
    if verdict_last:
        parts.reverse()
    reference = result.comparisons[0].reference
    names = ", ".join(comparison.candidate.name for comparison in result.comparisons)
    engines = [reference, *(comparison.candidate for comparison in result.comparisons)]
    return Report(
        title=f"{names} against {reference.name}",
        conclusion=_conclusion(result),
        sections=tuple(section for part in parts for section in part),
        warnings=tuple(dict.fromkeys(alarm for comparison in result.comparisons for alarm in comparison.alarms)),
        engines=tuple(map(_engine, engines)),
        legend=LEGEND,
        hint=f"{MARK} Holm-adjusted p below {SIGNIFICANT:g}; [97.5% bounds]; '-' means unknown, never zero.",
    )


def write(result: Comparisons, folder: Path) -> list[Path]:
    """Write index.html, compare.md, table.tex, forest.svg, forest.png and compare.json; the paths, in that order."""
    from harness.compare.page import forest

    document = (json.dumps(result.document(), indent=1, ensure_ascii=False) + "\n").encode()
    return press.write(build(result), folder, name=NAME, plots=[forest.draw(result)], data={f"{NAME}.json": document})


def _engine(engine: ComparedEngine) -> EngineLine:
    facts = (engine.name, engine.kind, engine.model, engine.machine)
    return EngineLine(*(fact.strip() or notation.MISSING for fact in facts))


def _conclusion(result: Comparisons) -> str:
    """The verdict over all candidates: `PASS: demo-bf16 does not lose more than the margin of 0.005 against ...`."""
    reference = result.comparisons[0].reference.name
    clauses = "; ".join(f"{comparison.candidate.name} {_claim(comparison)}" for comparison in result.comparisons)
    return f"{result.outcome.upper()}: {clauses} against {reference}."


def _claim(comparison: Comparison) -> str:
    margin = notation.exact(comparison.verdict.margin)
    if comparison.verdict.outcome is Outcome.REGRESSION:
        return f"loses more than the margin of {margin}"
    if comparison.verdict.outcome is Outcome.PASS:
        return f"does not lose more than the margin of {margin}"
    reason = _undecided(comparison)
    return f"is undecided at the margin of {margin}" + (f" ({reason})" if reason else "")


def _undecided(comparison: Comparison) -> str:
    """The reason why there is no verdict, as far as the interval alone does not show it."""
    verdict = comparison.verdict
    gates = [effect for effect in comparison.effects if effect.name in verdict.gates]
    open_gates = [effect for effect in gates if effect.outcome is not Outcome.PASS]
    if any(effect.outcome is Outcome.REGRESSION for effect in open_gates):
        return "beyond it, but not after Holm's adjustment"
    if open_gates and all(effect.difference.hi < 0 for effect in open_gates):
        return "it ranks worse, but perhaps by less than that"
    few = next((effect.queries for effect in open_gates if effect.unseen_loss >= verdict.margin), None)
    return "" if few is None else f"it cannot be known from {few:,} {'query' if few == 1 else 'queries'}"


def _pair(comparison: Comparison) -> str:
    return f"{comparison.candidate.name} against {comparison.reference.name}"


def _effects(number: int, comparison: Comparison) -> Section:
    verdict = comparison.verdict
    terms = f"97.5% bounds, margin {notation.exact(verdict.margin)}, sign-flip p"
    source = f"{terms}; {MARK} Holm-adjusted p below {SIGNIFICANT:g}"
    notes = [Note(effect.name, effect.note) for effect in comparison.effects if effect.note]
    notes += [Note(effect.name, ALONE) for effect in comparison.effects if _is_alone(effect, comparison)]
    notes += [Note("left out", phrase) for phrase in comparison.left_out]
    return Section(
        anchor=f"effects-{number}",
        title=_pair(comparison),
        table=Table(EFFECTS, tuple(tuple(_effect_cells(effect, verdict.margin)) for effect in comparison.effects)),
        sentence=sentence(comparison),
        sources=(SourceLine(source),),
        notes=tuple(notes),
        plots=(FOREST,) if number == 1 else (),
    )


def _is_alone(effect: Effect, comparison: Comparison) -> bool:
    """Whether an effect is beyond the margin by itself, but not among all that were tested."""
    return effect.outcome is Outcome.REGRESSION and effect.name not in comparison.verdict.regressions


def _effect_cells(effect: Effect, margin: float) -> Iterator[Cell]:
    mark = MARK if effect.p_holm is not None and effect.p_holm < SIGNIFICANT else ""
    yield Cell(effect.name)
    yield Cell(f"{effect.queries:,}")
    yield Cell(notation.decimal(effect.reference))
    yield Cell(notation.decimal(effect.candidate))
    difference, interval = _difference(effect, margin)
    yield Cell(difference + mark, interval)
    yield Cell(_p(effect.p.value), "exact" if effect.p.exact else "")
    yield Cell(_p(effect.p_holm))
    yield Cell(f"{effect.wins:,} / {effect.ties:,} / {effect.losses:,}")
    yield Cell() if effect.standardised is None else Cell(f"{effect.standardised:+.2f}".replace("-", notation.MINUS))
    yield Cell(effect.outcome, tone=effect.outcome.tone)


def sentence(comparison: Comparison) -> str:
    """The verdict and the figures that it rests on."""
    verdict = comparison.verdict
    decisive = verdict.regressions or verdict.gates
    figures = " and ".join(_figure(effect, verdict.margin) for effect in comparison.effects if effect.name in decisive)
    adjusted = ", also after Holm's adjustment" if verdict.outcome is Outcome.REGRESSION else ""
    return f"{verdict.outcome}: {comparison.candidate.name} {_claim(comparison)}{adjusted}: {figures}."


def _figure(effect: Effect, margin: float) -> str:
    return f"{HEADLINE} {' '.join(filter(None, _difference(effect, margin)))} on {effect.name}"


def _difference(effect: Effect, margin: float) -> tuple[str, str]:
    """The difference and its interval, printed on their own sides of the margin and of zero."""
    value, lo, hi = effect.difference[:3]
    places = max(notation.places([value, lo, hi], [-margin], 4), notation.places([lo, hi], [0.0], 4))
    return notation.signed(value, places), notation.signed_interval(lo, hi, places)


def _p(value: float | None) -> str:
    if value is None:
        return notation.MISSING
    return "<0.001" if value < 0.001 else notation.beside(value, SIGNIFICANT, 3)


def _matrix(number: int, matrix: Matrix) -> Section:
    best = matrix.standings[0]
    alone = sum(standing.letters == best.letters for standing in matrix.standings) == 1 and len(best.letters) == 1
    claim = "ranks better than every other engine" if alone else "cannot be told apart from those that share its letter"
    source = (
        f"Best first; {len(matrix.duels)} pairs, sign-flip test, Holm over the pairs; engines with the same letter "
        "cannot be told apart"
    )
    return Section(
        anchor=f"matrix-{number}",
        title=f"All engines on {matrix.name}",
        table=Table(MATRIX, tuple(_matrix_lines(matrix)), judged=False),
        sentence=f"{best.engine} has the highest {HEADLINE} and {claim}.",
        sources=(SourceLine(source),),
    )


def _matrix_lines(matrix: Matrix) -> Iterator[tuple[Cell, ...]]:
    best = matrix.standings[0]
    against = {duel.worse: duel for duel in matrix.duels if duel.better == best.engine}
    for standing in matrix.standings:
        duel = against.get(standing.engine)
        behind = (Cell("best"), Cell())
        if duel is not None:
            mark = MARK if duel.p_holm < SIGNIFICANT else ""
            behind = (Cell(notation.signed(-duel.difference) + mark), Cell(_p(duel.p_holm)))
        quality = Cell(notation.decimal(standing.quality), best=standing is best)
        yield (Cell(standing.engine), quality, Cell(standing.letters), *behind)


def _fidelity(number: int, comparison: Comparison) -> Section:
    lines: list[tuple[Cell, ...]] = []
    for benchmark in comparison.fidelity:
        lines.append(tuple(_fidelity_cells(benchmark.benchmark, benchmark.candidate)))
        if benchmark.repeated is not None:
            lines.append(tuple(_fidelity_cells(f"{benchmark.benchmark}, repeated", benchmark.repeated)))
    sentences = [_noise(benchmark) for benchmark in comparison.fidelity if benchmark.noise is not None]
    if any(benchmark.candidate.drift is None for benchmark in comparison.fidelity):
        sentences.append("The two engines' scores are on different scales, so only their orders are compared.")
    return Section(
        anchor=f"fidelity-{number}",
        title=f"Scores and orders: {_pair(comparison)}",
        table=Table(FIDELITY, tuple(lines), judged=False),
        sentence=" ".join(sentences),
        printed=False,
    )


def _fidelity_cells(name: str, fidelity: Fidelity) -> Iterator[Cell]:
    drift, changes = fidelity.drift, fidelity.changes
    changed = sum(changes)
    yield Cell(name)
    yield Cell(f"{fidelity.pairs:,}")
    yield Cell() if drift is None else Cell(score(drift.mean_absolute), f"bias {score(drift.bias, '+')}")
    yield Cell() if drift is None else Cell(score(drift.p99), f"max {score(drift.maximum)}")
    for correlation in (fidelity.tau, fidelity.overlap):
        lowest = correlation.lowest
        yield Cell(notation.decimal(correlation.mean), "" if lowest is None else f"lowest {notation.decimal(lowest)}")
    yield Cell(f"{fidelity.top1:,}", f"of {fidelity.queries:,}")
    yield Cell(f"{fidelity.top10:,}", f"order {fidelity.top10_order:,}")
    where = (
        f"first {changes.first_relevant:,}, above {changes.above:,}, below {changes.below:,}, none {changes.without:,}"
    )
    yield Cell(f"{changed:,}", where if changed else "")
    for now, before in (
        (fidelity.candidate.tie_rate, fidelity.reference.tie_rate),
        (fidelity.candidate.saturation, fidelity.reference.saturation),
    ):
        yield Cell(notation.percent(now), f"was {notation.percent(before)}")


def _noise(benchmark: BenchmarkFidelity) -> str:
    noise = benchmark.noise
    assert noise is not None
    measure = "1 − RBO" if benchmark.candidate.drift is None else "mean drift"
    verb = "exceeds" if noise.exceeded else "does not exceed"
    interval = f" (difference [{score(noise.lo, '+')}, {score(noise.hi, '+')}])"
    return (
        f"On {benchmark.benchmark} the candidate's {measure} of {score(noise.candidate)} {verb} the noise of a "
        f"repeated reference run, {score(noise.repeated)}{interval}."
    )


def score(value: float, sign: str = "") -> str:
    """A score or a drift with three significant digits: drifts range from rounding errors to tens."""
    return f"{value:{sign}.3g}".replace("-", notation.MINUS, 1) if value else "0"


def _differing(number: int, comparison: Comparison) -> Section:
    lines = tuple(
        tuple(Cell(notation.MISSING if text is None else text) for text in field) for field in comparison.differing
    )
    return Section(
        anchor=f"differing-{number}",
        title=f"Fields that differ: {_pair(comparison)}",
        table=Table(DIFFERING, lines, words=len(DIFFERING), judged=False),
        sentence="" if lines else "The two manifests are equal.",
        printed=False,
    )


def _losses(number: int, comparison: Comparison) -> Section:
    """The queries with the largest losses, folded; a terminal shows only the largest loss."""
    losses = comparison.losses
    return Section(
        anchor=f"losses-{number}",
        title=f"Queries with the largest losses: {_pair(comparison)}",
        sentence=f"The largest loss of {HEADLINE} on one query is {notation.decimal(-losses[0].difference)}.",
        notes=tuple(Note("", note) for note in comparison.notes),
        details=tuple(_loss(f"loss-{number}-{rank}", loss) for rank, loss in enumerate(losses, start=1)),
    )


def _loss(anchor: str, loss: Loss) -> Section:
    lines = tuple(
        (
            Cell(move.doc_id),
            Cell("not judged" if move.grade is None else str(move.grade), best=bool(move.grade and move.grade > 0)),
            Cell(str(move.rank_reference)),
            Cell(str(move.rank_candidate)),
            Cell(score(move.score_reference)),
            Cell(score(move.score_candidate)),
        )
        for move in loss.moves
    )
    return Section(
        anchor=anchor,
        title=f"{notation.signed(loss.difference)}  {loss.query_id if loss.text is None else loss.text}",
        table=Table(MOVES, lines, judged=False),
        sentence=f"{HEADLINE} {notation.decimal(loss.reference)} before, {notation.decimal(loss.candidate)} now; "
        f"query {loss.query_id} of {loss.benchmark}",
    )
