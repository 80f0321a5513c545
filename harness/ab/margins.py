"""Margins of `crispbench ab` and `crispbench check`: how much worse each metric may be."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from engines.base import BadOptions
from harness.ab.records import Metric

# Accepted slowdowns of `ab`. Chance decides how many of a launch's 100 queries stall, and that alone moves the
# throughput of a launch by 2% to 4%: with a margin below 5%, equal engines would stay undecided for long.
MARGINS: Mapping[Metric, float] = {"p50": 0.03, "p95": 0.05, "p99": 0.10, "throughput": 0.05}
RECORDED_MARGINS: Mapping[Metric, float] = {**MARGINS, "throughput": 0.02}  # of `check`, whose launches are longer
Name = TypeVar("Name", bound=str)


def read_margins(texts: Sequence[str], defaults: Mapping[Name, float]) -> dict[Name, float]:
    """The defaults, changed by texts such as `p50=0.02`; `p50=none` leaves a metric out. Raises BadOptions."""
    margins, names = dict(defaults), {str(name): name for name in defaults}
    for text in texts:
        written, _, value = text.partition("=")
        if written not in names:
            raise BadOptions(f"margin {text!r}: expected NAME=SHARE with a name from {', '.join(names)}")
        if value == "none":
            margins.pop(names[written], None)
        else:
            margins[names[written]] = _share(text, written, value)
    if not margins:
        raise BadOptions(f"every metric is left out: at least one of {', '.join(names)} needs a margin")
    return {name: margins[name] for name in defaults if name in margins}


def _share(text: str, name: str, value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = math.nan
    if not 0 <= share < 1:
        raise BadOptions(f"margin {text!r}: expected a share from 0 to below 1, such as {name}=0.05, or {name}=none")
    return share
