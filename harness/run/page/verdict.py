"""One plain sentence per benchmark: which engine ranks best, by how much, how surely and how fast."""

from collections.abc import Sequence

from harness.figures.measures import HEADLINE
from harness.figures.statistics import paired_difference
from harness.records import Difference, Row
from harness.report import notation
from harness.run.page.table import contenders


def sentence(rows: Sequence[Row]) -> str:
    """The sentence on the rows of one benchmark, the first of which is the baseline; it names engines left out."""
    rivals = sorted(contenders(rows), key=lambda row: -row.measures[HEADLINE].value)
    ranking = _ranking(rivals, rows[0].engine)
    compared = {row.engine for row in rivals}
    left_out = [f"{row.engine} ({_reason(row)})" for row in rows if row.engine not in compared]
    return f"{ranking} Left out: {', '.join(left_out)}." if left_out else ranking


def _ranking(rivals: Sequence[Row], baseline: str) -> str:
    if not rivals:
        return "No engine has a complete run, so nothing is ranked."
    best, *rest = rivals
    quality = notation.decimal(best.measures[HEADLINE].value)
    if not rest:
        return f"{best.engine} is the only engine with a complete run ({HEADLINE} {quality}), so nothing is ranked."
    lead = f"{best.engine} has the highest {HEADLINE} ({quality})"
    if len(best.per_query) < 2:
        return f"{lead}, but one query cannot tell engines apart."
    second = rest[0]
    compared = [second, *(row for row in rest[1:] if row.engine == baseline)]
    clauses = " and ".join(_comparison(best, rival, baseline) for rival in compared)
    return f"{lead}: over {len(best.per_query)} queries it {clauses}{_speed(best, second)}."


def _comparison(best: Row, rival: Row, baseline: str) -> str:
    difference = paired_difference(best.per_query, rival.per_query)
    role = "the baseline " if rival.engine == baseline else ""
    verb = "ranks better than" if _excludes_zero(difference) else "cannot be told apart from"
    interval = notation.signed_interval(difference.lo, difference.hi)
    return f"{verb} {role}{rival.engine} ({f'{notation.signed(difference.value)} {interval}'.rstrip()})"


def _excludes_zero(difference: Difference) -> bool:
    return round(difference.lo, 4) > 0  # as printed: "[0.0000, ...]" does not exclude zero


def _speed(best: Row, second: Row) -> str:
    clauses = []
    if best.p50.value is not None:
        clauses.append(f"takes {notation.duration(best.p50.value)} per query at p50")
    if best.pairs_per_s and second.pairs_per_s:
        ratio = notation.significant(best.pairs_per_s / second.pairs_per_s)
        clauses.append(f"scores {ratio} times as many pairs/s as {second.engine}")
    return f"; it {' and '.join(clauses)}" if clauses else ""


def _reason(row: Row) -> str:
    if row.verdict == "incomplete":
        return f"incomplete, {notation.percent(row.coverage)} of the queries scored"
    if row.verdict == "invalid":
        return "invalid"
    return "different candidates or queries" if HEADLINE in row.measures else f"no {HEADLINE}"
