"""The plan of a comparison as a report: the queries that a verdict needs, and the margins that suites can decide."""

from collections.abc import Iterator

from harness.compare.plan import ComparisonPlan, PlannedPool, PlannedSpread
from harness.figures.measures import HEADLINE
from harness.report import notation
from harness.report.content import Note, Report, Section, Term
from harness.report.table import Cell, Table

SHOWN = 5  # benchmarks that a note names
NEEDED = ("spread", "origin", "changed", "sd", "queries")
LEGEND = (
    Term("no change", "the fewest queries that can pass: fewer may miss losses that cost more than the margin"),
    Term("changed", f"share of the queries whose {HEADLINE} differs from the reference's"),
    Term("sd", f"standard deviation of a query's difference of {HEADLINE}"),
    Term("queries", "of one benchmark, with which a candidate without a loss passes with the planned power"),
    Term("weigh like", "number of queries of one benchmark as which an average counts against unseen losses"),
    Term("smallest margin", "at which a candidate without a loss passes with the planned power, for each spread"),
)


def build(plan: ComparisonPlan) -> Report:
    margin, power = notation.exact(plan.margin), f"{100 * plan.power:g}%"
    needs = ", ".join(f"{spread.needed:,} ({spread.name})" for spread in plan.spreads)
    return Report(
        title=f"Queries for a verdict on {plan.reference}",
        conclusion=f"A pass at a margin of {margin} with {power} power needs this many queries: {needs}.",
        sections=(
            Section(
                anchor="needed",
                title=f"Queries at a margin of {margin}",
                table=Table(NEEDED, tuple(tuple(_spread(spread)) for spread in plan.spreads), words=2, judged=False),
                notes=tuple(Note("", note) for note in plan.notes),
            ),
            Section(
                anchor="pools",
                title="Smallest margin that the queries of each can decide",
                table=Table(
                    ("", "queries", "weigh like", *(spread.name for spread in plan.spreads)),
                    tuple(tuple(_pool(pool, len(plan.spreads), plan.margin)) for pool in plan.pools),
                    judged=False,
                ),
                sentence=_enough(plan),
                notes=tuple(_single(plan)),
            ),
        ),
        legend=LEGEND,
        hint="A verdict at a wider margin needs fewer queries; '-' means unknown until the benchmark is loaded.",
    )


def _spread(spread: PlannedSpread) -> Iterator[Cell]:
    yield Cell(spread.name)
    yield Cell(spread.origin)
    yield Cell() if spread.changed is None else Cell(notation.percent(spread.changed))
    yield Cell(notation.decimal(spread.deviation))
    yield Cell(f"{spread.needed:,}")


def _pool(pool: PlannedPool, spreads: int, planned: float) -> Iterator[Cell]:
    """The queries of a pool, and its margins on their own sides of the planned one."""
    yield Cell(pool.name)
    yield Cell() if pool.queries is None else Cell(f"{pool.queries:,}")
    yield Cell() if pool.effective is None else Cell(f"{pool.effective:,.0f}")
    if not pool.margins:
        yield from (Cell() for _ in range(spreads))
    for margin in pool.margins:
        yield Cell(notation.beside(margin.margin, planned, 4), best=margin.enough)


def _enough(plan: ComparisonPlan) -> str:
    """The pools that have enough queries for each spread."""
    pools: dict[str, list[str]] = {spread.name: [] for spread in plan.spreads}
    for pool in plan.pools:
        for margin in pool.margins:
            if margin.enough:
                pools[margin.spread].append(pool.name)
    clauses = "; ".join(f"{spread}: {', '.join(names) or 'none'}" for spread, names in pools.items())
    return f"Enough at {notation.exact(plan.margin)}: {clauses}."


def _single(plan: ComparisonPlan) -> Iterator[Note]:
    """Per average, the benchmarks that have enough queries by themselves, for the widest spread."""
    widest = plan.spreads[-1]
    for pool in plan.pools:
        if pool.benchmarks > 1:
            names = pool.single[widest.name]
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            phrase = (", ".join(names[:SHOWN]) + more) or "none"
            yield Note(pool.name, f"benchmarks with {widest.needed:,} queries or more ({widest.name}): {phrase}")
