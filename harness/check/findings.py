"""The frozen records of a check, from the recorded folders to the report. A leaf beside `harness.outcome`."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from harness.outcome import Outcome, worst

Unit = Literal["nDCG", "s", "pairs/s"]

FORMAT = 1  # 1: first version, 2026-11


class Change(NamedTuple):
    """Current against baseline: a difference of nDCG, or a share of the baseline's time or throughput."""

    value: float
    lo: float | None  # None: too few launches for an interval
    hi: float | None
    level: float | None  # of each end on its own


@dataclass(frozen=True)
class CheckRow:
    """One figure of both sides. `outcome` is None where there is nothing to judge; the reason says why."""

    subject: str  # a benchmark, an average of benchmarks, or a scenario
    metric: str
    unit: Unit
    baseline: float | None = None
    current: float | None = None
    change: Change | None = None
    margin: float | None = None  # the change that is just accepted, signed as the change is
    p: float | None = None  # of a time: one-sided, of the hypothesis that the true change is the margin or less
    p_holm: float | None = None  # adjusted over all times that were tested
    outcome: Outcome | None = None
    reason: str = ""
    recorded: bool = True  # by both sides


@dataclass(frozen=True)
class CheckPart:
    """All that is said about quality, or about latency. `outcome` is None where nothing could be judged."""

    name: Literal["quality", "latency"]
    rows: tuple[CheckRow, ...]
    outcome: Outcome | None
    reason: str = ""


@dataclass(frozen=True)
class CheckSubject:
    """One side of a check."""

    name: str  # as the user wrote it
    folders: tuple[str, ...]
    launches: int  # most recordings of one scenario
    saved: str | None = None  # of a stored baseline
    commit: str | None = None


@dataclass(frozen=True)
class CheckResult:
    """Whether what is recorded now is worse than what was recorded before."""

    baseline: CheckSubject
    current: CheckSubject
    quality: CheckPart
    latency: CheckPart
    notes: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """The worst of the parts; nothing in common is not comparable."""
        return worst(part.outcome for part in (self.quality, self.latency)) or Outcome.NOT_COMPARABLE

    def document(self) -> dict[str, Any]:
        """What `--json` prints and check.json holds."""
        return {"format": FORMAT, "outcome": self.outcome, "exit": self.outcome.exit_code, **_plain(asdict(self))}


def _plain(value: Any) -> Any:
    """Named tuples as objects: json would write them as lists."""
    if isinstance(value, Change):
        return value._asdict()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
