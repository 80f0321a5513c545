"""Two engines of a run that differ in nothing but the template: what the prompt is worth, in pairs of queries."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from harness.figures.statistics import paired_difference
from harness.records import Row
from harness.report import notation
from harness.report.table import QUALITY
from harness.run.page.table import contenders

OF_A_TEMPLATE = {"template", "template_sha256", "option template"}  # keys of Row.description


class Ablation(NamedTuple):
    engines: str
    line: str


def ablations(rows: Sequence[Row]) -> Iterator[Ablation]:
    """A line for each such pair among the rows of one benchmark, the later engine against the earlier one."""
    for earlier, later in combinations(contenders(rows), 2):
        if _only_the_template_differs(earlier, later) and len(later.per_query) > 1:
            found = paired_difference(later.per_query, earlier.per_query)
            figures = f"{notation.signed(found.value)} {notation.signed_interval(found.lo, found.hi)}".rstrip()
            names = ", ".join(notation.plain(row.engine) for row in (earlier, later))
            of, over = (notation.plain(row.description["template"]) for row in (later, earlier))
            line = f"they differ in the template only: {of} minus {over} is {figures} {QUALITY}"
            yield Ablation(names, f"{line} over {found.queries:,} queries")


def _only_the_template_differs(a: Row, b: Row) -> bool:
    if a.kind != b.kind or a.description.get("template") == b.description.get("template"):
        return False
    if not (a.description.get("template") and b.description.get("template")):
        return False
    return _rest(a) == _rest(b)


def _rest(row: Row) -> dict[str, str]:
    return {key: value for key, value in row.description.items() if key not in OF_A_TEMPLATE}
