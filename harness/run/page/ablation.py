"""Engines of a run that differ only in the template: the effect of the prompt, as a paired difference."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from engines.base import Description
from harness.figures.measures import HEADLINE
from harness.figures.statistics import paired_difference
from harness.records import Row
from harness.report import notation
from harness.report.content import Note
from harness.run.page.table import contenders


def ablations(rows: Sequence[Row]) -> Iterator[Note]:
    """A note for every such pair of rows of one benchmark: the later engine minus the earlier engine."""
    for earlier, later in combinations(contenders(rows), 2):
        if _only_the_template_differs(earlier, later) and len(later.per_query) > 1:
            difference = paired_difference(later.per_query, earlier.per_query)
            interval = notation.signed_interval(difference.lo, difference.hi)
            figures = f"{notation.signed(difference.value)} {interval}".rstrip()
            templates = f"{later.description.template} minus {earlier.description.template}"
            yield Note(
                f"{earlier.engine}, {later.engine}",
                f"only the template differs: {templates} is {figures} {HEADLINE} over {difference.queries:,} queries",
            )


def _only_the_template_differs(a: Row, b: Row) -> bool:
    templates = (a.description.template, b.description.template)
    same_kind = a.kind == b.kind
    return same_kind and all(templates) and len(set(templates)) == 2 and _without_template(a) == _without_template(b)


def _without_template(row: Row) -> tuple[Description, dict[str, Any]]:
    """Description and options of the row's engine, without the template."""
    described = replace(row.description, template="", template_sha256="")
    return described, {name: value for name, value in row.options.items() if name != "template"}
