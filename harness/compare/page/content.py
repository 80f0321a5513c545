"""A comparison -> the sections that every format prints."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from harness.compare.comparison import BenchmarkFidelity, Comparison, Comparisons, Effect, Loss, Matrix
from harness.figures.fidelity import Fidelity
from harness.report import notation
from harness.report.content import OriginLine, Report, Scorer, Section, Term
from harness.report.table import QUALITY, Cell, Table

MARK = "*"  # behind a difference whose Holm-adjusted p is below 0.05
SIGNIFICANT = 0.05
EFFECTS = (
    "benchmark",
    "queries",
    "reference",
    "candidate",
    f"Δ {QUALITY}",
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
MATRIX = ("engine", QUALITY, "group", "Δ to the best", "p Holm")
MOVES = ("document", "grade", "rank before", "rank now", "score before", "score now")

LEGEND = (
    Term(f"Δ {QUALITY}", "candidate minus reference on the same queries, with its 95% bootstrap interval over queries"),
    Term(
        "pass, regression, inconclusive",
        "the whole interval lies above minus the margin; all of it lies below; it holds minus the margin, or there are "
        "fewer than 50 queries",
    ),
    Term("p", "two-sided sign-flip test of the difference against zero"),
    Term(f"p Holm, {MARK}", f"p adjusted for the number of benchmarks or of pairs; {MARK} marks one below 0.05"),
    Term("+ / = / −", "queries on which the candidate is better, equal and worse"),
    Term("d_z", "standardised mean difference: mean of the differences over their standard deviation"),
    Term("drift", "candidate's score minus the reference's; mean and p99 of its size, bias is its mean with the sign"),
    Term(
        "tau-b", "Kendall's rank correlation of a query's scores, corrected for ties; mean over queries and the lowest"
    ),
    Term("RBO", "rank-biased overlap of a query's two orders with p = 0.9; 1 for equal orders"),
    Term("top 1, top 10", "queries whose first document, or whose set of ten first documents, is another one"),
    Term(
        "order",
        "queries whose order changed; of them those that move the first relevant document, that change something above "
        "it only, or below it only, and those without a relevant candidate",
    ),
    Term("saturation", "share of the pairs that have, with others, the highest or the lowest score of the benchmark"),
    Term("group", "engines that share a letter cannot be told apart"),
    Term(notation.MISSING, "not known or without meaning here; never zero"),
)


@dataclass(frozen=True)
class Losses:
    """The queries on which one candidate lost most."""

    anchor: str
    title: str
    sections: tuple[Section, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    effects: tuple[Section, ...]
    matrices: tuple[Section, ...]
    fidelity: tuple[Section, ...]
    differing: tuple[Section, ...]
    losses: tuple[Losses, ...]
    report: Report  # title, engines, legend and all sections but those of the losses


def build(contest: Comparisons) -> Page:
    numbered = list(enumerate(contest.comparisons, start=1))
    effects = tuple(_effects(number, comparison) for number, comparison in numbered)
    matrices = tuple(_matrix(number, matrix) for number, matrix in enumerate(contest.matrices, start=1))
    fidelity = tuple(_fidelity(number, comparison) for number, comparison in numbered)
    differing = tuple(_differing(number, comparison) for number, comparison in numbered)
    reference = contest.comparisons[0].reference
    names = ", ".join(notation.plain(each.candidate.name) for each in contest.comparisons)
    engines = [reference, *(each.candidate for each in contest.comparisons)]
    report = Report(
        title=f"{names} against {notation.plain(reference.name)}: {contest.outcome}",
        sections=(*effects, *matrices, *fidelity, *differing),
        scorers=tuple(
            Scorer(
                *(notation.plain(text) or notation.MISSING for text in (each.name, each.kind, each.model, each.machine))
            )
            for each in engines
        ),
        legend=LEGEND,
        remarks=(),
    )
    return Page(
        effects, matrices, fidelity, differing, tuple(_losses(number, each) for number, each in numbered), report
    )


def summary(contest: Comparisons) -> Report:
    """The report without the queries that lost most, which are many lines; the verdict comes last."""
    page = build(contest)
    sections = (*page.differing, *page.fidelity, *page.matrices, *page.effects)
    return replace(page.report, sections=sections, verdict=page.report.title)


def _pair(comparison: Comparison) -> str:
    return f"{notation.plain(comparison.candidate.name)} against {notation.plain(comparison.reference.name)}"


def _effects(number: int, comparison: Comparison) -> Section:
    lines = tuple(tuple(_effect_cells(effect)) for effect in comparison.effects)
    margin = f"{comparison.verdict.margin:g}"
    source = f"95% bootstrap intervals, margin {margin}, sign-flip p; {MARK} Holm-adjusted p below {SIGNIFICANT:g}"
    notes = [Term(notation.plain(effect.name), effect.note) for effect in comparison.effects if effect.note]
    notes += [Term("left out", notation.plain(phrase)) for phrase in comparison.left_out]
    return Section(
        anchor=f"effects-{number}",
        table=Table(_pair(comparison), EFFECTS, lines),
        sentence=sentence(comparison),
        origins=(OriginLine(source, source),),
        notes=tuple(notes),
    )


def _effect_cells(effect: Effect) -> Iterator[Cell]:
    found = effect.difference
    mark = MARK if effect.p_holm is not None and effect.p_holm < SIGNIFICANT else ""
    yield Cell(notation.plain(effect.name))
    yield Cell(f"{effect.queries:,}")
    yield Cell(notation.decimal(effect.reference))
    yield Cell(notation.decimal(effect.candidate))
    interval = "" if found.lo is None or found.hi is None else notation.signed_interval(found.lo, found.hi)
    yield Cell(notation.signed(found.value) + mark, interval)
    yield Cell(_p(effect.p.value), "exact" if effect.p.exact else "")
    yield Cell(_p(effect.p_holm))
    yield Cell(f"{effect.wins:,} / {effect.ties:,} / {effect.losses:,}")
    yield Cell() if effect.standardised is None else Cell(f"{effect.standardised:+.2f}".replace("-", notation.MINUS))
    yield Cell(effect.outcome)


def sentence(comparison: Comparison) -> str:
    """The verdict, and what it rests on."""
    verdict = comparison.verdict
    shown = verdict.regressions or verdict.gates
    figures = " and ".join(_figure(effect) for effect in comparison.effects if effect.name in shown)
    reason = {
        "regression": f"loses more than the margin of {verdict.margin:g}, also after Holm's adjustment",
        "pass": f"does not lose more than the margin of {verdict.margin:g}",
        "inconclusive": f"may or may not lose more than the margin of {verdict.margin:g}",
    }[verdict.outcome]
    return f"{verdict.outcome}: {notation.plain(comparison.candidate.name)} {reason}: {figures}."


def _figure(effect: Effect) -> str:
    found = effect.difference
    interval = "" if found.lo is None or found.hi is None else f" {notation.signed_interval(found.lo, found.hi)}"
    return f"{QUALITY} {notation.signed(found.value)}{interval} on {notation.plain(effect.name)}"


def _p(value: float | None) -> str:
    if value is None:
        return notation.MISSING
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _matrix(number: int, matrix: Matrix) -> Section:
    best = matrix.standings[0]
    against = {duel.worse: duel for duel in matrix.duels if duel.better == best.engine}
    lines = []
    for place, standing in enumerate(matrix.standings):
        duel = against.get(standing.engine)
        name, quality = Cell(notation.plain(standing.engine)), Cell(notation.decimal(standing.quality), best=not place)
        behind = (Cell("best"), Cell())
        if duel is not None:
            mark = MARK if duel.p_holm < SIGNIFICANT else ""
            behind = (Cell(notation.signed(-duel.difference) + mark), Cell(_p(duel.p_holm)))
        lines.append((name, quality, Cell(standing.letters), *behind))
    alone = sum(standing.letters == best.letters for standing in matrix.standings) == 1 and len(best.letters) == 1
    said = "ranks better than all others" if alone else "cannot be told apart from those that share its letter"
    source = (
        f"Best first; {len(matrix.duels)} pairs, sign-flip test, Holm over the pairs; equal letters: not told apart"
    )
    return Section(
        anchor=f"matrix-{number}",
        table=Table(f"All engines on {notation.plain(matrix.name)}", MATRIX, tuple(lines), judged=False),
        sentence=f"{notation.plain(best.engine)} has the highest {QUALITY} and {said}.",
        origins=(OriginLine(source, source),),
    )


def _fidelity(number: int, comparison: Comparison) -> Section:
    lines = []
    for each in comparison.fidelity:
        lines.append(tuple(_fidelity_cells(notation.plain(each.benchmark), each.candidate)))
        if each.repeated is not None:
            lines.append(tuple(_fidelity_cells(f"{notation.plain(each.benchmark)}, repeated", each.repeated)))
    said = [_noise(each) for each in comparison.fidelity if each.noise is not None]
    if any(each.candidate.drift is None for each in comparison.fidelity):
        said.append("The two engines' scores are not on one scale, so only their orders are compared.")
    return Section(
        anchor=f"fidelity-{number}",
        table=Table(f"Scores and orders: {_pair(comparison)}", FIDELITY, tuple(lines), judged=False),
        sentence=" ".join(said) or "What changed in scores and orders, whether or not the judgements see it.",
        origins=(),
    )


def _fidelity_cells(name: str, found: Fidelity) -> Iterator[Cell]:
    drift, changes = found.drift, found.changes
    changed = sum(changes)
    yield Cell(name)
    yield Cell(f"{found.pairs:,}")
    yield Cell() if drift is None else Cell(number(drift.mean_absolute), f"bias {number(drift.bias, '+')}")
    yield Cell() if drift is None else Cell(number(drift.p99), f"max {number(drift.maximum)}")
    for correlation in (found.tau, found.overlap):
        lowest = correlation.lowest
        yield Cell(notation.decimal(correlation.mean), "" if lowest is None else f"lowest {notation.decimal(lowest)}")
    yield Cell(f"{found.top1:,}", f"of {found.queries:,}")
    yield Cell(f"{found.top10:,}", f"order {found.top10_order:,}")
    where = (
        f"first {changes.first_relevant:,}, above {changes.above:,}, below {changes.below:,}, none {changes.without:,}"
    )
    yield Cell(f"{changed:,}", where if changed else "")
    for now, before in (
        (found.candidate.tie_rate, found.reference.tie_rate),
        (found.candidate.saturation, found.reference.saturation),
    ):
        yield Cell(notation.percent(now), f"was {notation.percent(before)}")


def _noise(each: BenchmarkFidelity) -> str:
    noise = each.noise
    assert noise is not None
    what = "1 − RBO" if each.candidate.drift is None else "mean drift"
    exceeds = "exceeds" if noise.exceeded else "does not exceed"
    interval = (
        ""
        if noise.lo is None or noise.hi is None
        else f", difference [{number(noise.lo, '+')}, {number(noise.hi, '+')}]"
    )
    return (
        f"On {notation.plain(each.benchmark)} the candidate's {what} of {number(noise.candidate)} {exceeds} that of "
        f"the reference repeated, {number(noise.repeated)}{interval}."
    )


def number(value: float, sign: str = "") -> str:
    """Three digits of a score: drifts reach from rounding errors to tens."""
    return f"{value:{sign}.3g}".replace("-", notation.MINUS, 1) if value else "0"


def _differing(number: int, comparison: Comparison) -> Section:
    lines = tuple(
        tuple(Cell(notation.MISSING if text is None else notation.plain(text)) for text in field)
        for field in comparison.differing
    )
    return Section(
        anchor=f"differing-{number}",
        table=Table(f"What differs: {_pair(comparison)}", ("field", "reference", "candidate"), lines, judged=False),
        sentence="Fields of the two manifests that differ." if lines else "The two manifests are equal.",
        origins=(),
    )


def _losses(number: int, comparison: Comparison) -> Losses:
    return Losses(
        anchor=f"losses-{number}",
        title=f"Queries that lost most: {_pair(comparison)}",
        sections=tuple(_loss(f"loss-{number}-{place}", loss) for place, loss in enumerate(comparison.losses, start=1)),
        notes=tuple(map(notation.plain, comparison.notes)),
    )


def _loss(anchor: str, loss: Loss) -> Section:
    lines = tuple(
        (
            Cell(notation.plain(move.doc_id)),
            Cell("not judged" if move.grade is None else str(move.grade), best=bool(move.grade and move.grade > 0)),
            Cell(str(move.rank_reference)),
            Cell(str(move.rank_candidate)),
            Cell(number(move.score_reference)),
            Cell(number(move.score_candidate)),
        )
        for move in loss.moves
    )
    figures = f"{QUALITY} {notation.decimal(loss.reference)} before, {notation.decimal(loss.candidate)} now"
    where = f"query {notation.plain(loss.query_id)} of {notation.plain(loss.benchmark)}"
    return Section(
        anchor=anchor,
        table=Table(notation.plain(loss.query_id if loss.text is None else loss.text), MOVES, lines, judged=False),
        sentence=f"{figures} ({notation.signed(loss.difference)}); {where}",
        origins=(),
    )
