"""Engines of a run that differ only in the template: what the prompt is worth, as a paired difference."""

from collections.abc import Iterator, Sequence
from itertools import combinations

from harness.figures.measures import HEADLINE
from harness.figures.statistics import paired_difference
from harness.records import Row
from harness.report import notation
from harness.report.content import Note
from harness.run.page.table import contenders

TEMPLATE_KEYS = {"template", "template_sha256", "option template"}  # keys of Row.description


def ablations(rows: Sequence[Row]) -> Iterator[Note]:
    """A note for each such pair among the rows of one benchmark: the later engine minus the earlier one."""
    for earlier, later in combinations(contenders(rows), 2):
        if _only_the_template_differs(earlier, later) and len(later.per_query) > 1:
            difference = paired_difference(later.per_query, earlier.per_query)
            interval = notation.signed_interval(difference.lo, difference.hi)
            figures = f"{notation.signed(difference.value)} {interval}".rstrip()
            templates = f"{later.description['template']} minus {earlier.description['template']}"
            yield Note(
                f"{earlier.engine}, {later.engine}",
                f"only the template differs: {templates} is {figures} {HEADLINE} over {difference.queries:,} queries",
            )


def _only_the_template_differs(a: Row, b: Row) -> bool:
    if a.kind != b.kind or a.description.get("template") == b.description.get("template"):
        return False
    if not (a.description.get("template") and b.description.get("template")):
        return False
    return _without_template(a) == _without_template(b)


def _without_template(row: Row) -> dict[str, str]:
    return {key: value for key, value in row.description.items() if key not in TEMPLATE_KEYS}
