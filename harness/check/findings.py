"""The frozen records of a check, from the recorded folders to the report."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from harness.outcome import Outcome, worst

Unit = Literal["nDCG", "s", "pairs/s"]

FORMAT = 1  # 1: first version, 2026-11


class Change(NamedTuple):
    """Current against baseline: a difference of nDCG, or a change as a share of the baseline's time or throughput."""

    value: float
    lo: float | None  # None if there are too few launches for an interval
    hi: float | None
    level: float | None  # confidence of each end on its own


@dataclass(frozen=True)
class CheckRow:
    """One figure of both sides. `outcome` is None if there is nothing to judge, and `reason` explains it."""

    subject: str  # a benchmark, an average of benchmarks, or a scenario
    metric: str
    unit: Unit
    baseline: float | None = None
    current: float | None = None
    change: Change | None = None
    margin: float | None = None  # the largest accepted change, with the sign of `change`
    p: float | None = None  # for times only: one-sided, under the hypothesis that the slowdown is the margin or less
    p_holm: float | None = None  # adjusted over all times that were tested
    visible: float | None = None  # the slowdown, a share, that these launches show as a regression in 80% of checks
    day: float | None = None  # share by which two days of this machine may differ; the interval is wider by it
    outcome: Outcome | None = None
    reason: str = ""

    @property
    def recorded(self) -> bool:
        """Whether both sides recorded the scenario: a row without metric and verdict names the side that did not."""
        return bool(self.metric) or self.outcome is not None


@dataclass(frozen=True)
class CheckPart:
    """The verdict on quality, or on latency. `outcome` is None if nothing could be judged."""

    name: Literal["quality", "latency"]
    rows: tuple[CheckRow, ...]
    outcome: Outcome | None
    reason: str = ""
    shared: bool = True  # whether both sides recorded any of it


@dataclass(frozen=True)
class CheckSubject:
    """One side of a check."""

    name: str  # as the user wrote it
    folders: tuple[str, ...]
    launches: int  # largest number of recordings of a scenario
    saved: str | None = None  # time at which a stored baseline was saved
    commit: str | None = None


@dataclass(frozen=True)
class CheckFindings:
    """The findings of a check: whether the current recordings are worse than the baseline."""

    baseline: CheckSubject
    current: CheckSubject
    quality: CheckPart
    latency: CheckPart
    notes: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """The worst of the parts; sides that have nothing in common are not comparable."""
        parts = (self.quality, self.latency)
        outcome = worst(part.outcome for part in parts) if any(part.shared for part in parts) else None
        return outcome or Outcome.NOT_COMPARABLE

    def document(self) -> dict[str, Any]:
        """The content of check.json, which `--json` prints."""
        return {"format": FORMAT, "outcome": self.outcome, "exit": self.outcome.exit_code, **_plain(asdict(self))}


def _plain(value: Any) -> Any:
    """The value with named tuples as objects; json would write them as lists."""
    if isinstance(value, Change):
        return value._asdict()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
