"""The outcome of a verb, and its exit code. This is the only table of exit codes in the project.

Every verb has the same form, which `harness.cli` relies on and mypy checks there:

    VERB(subject, VerbOptions(...), *, out=..., say=...) -> VerbResult

The function has the name of the verb. Its subject comes first, then one frozen record of options with their defaults.
`out` is the folder or file to write, and `say` takes one line of progress; a verb has them only if it needs them.
The result is a frozen record with the properties of `VerbResult`. The result of a verb with a page also has `report()`,
the page's content, and `page`, the file.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Literal, Protocol


class Outcome(StrEnum):
    """A verdict as reports and JSON write it. The members are in order of precedence: the first one decides a whole.

    A regression comes first, because no other outcome changes the fact.
    """

    REGRESSION = "regression"  # worse than the margin allows
    FAIL = "fail"  # an objective or a check was not met
    INVALID = "invalid"  # the figures cannot be trusted
    INCOMPLETE = "incomplete"  # some of the requested results are missing
    NOT_COMPARABLE = "not comparable"  # the sides differ in something that decides their figures
    INCONCLUSIVE = "inconclusive"  # the data are not sufficient for a decision
    PASS = "pass"

    @property
    def exit_code(self) -> int:
        return _EXIT_CODES[self]

    @property
    def tone(self) -> Literal["good", "bad", "muted"]:
        """The colour of the verdict in a report, as `harness.report.table.Tone` names it."""
        if self is Outcome.PASS:
            return "good"
        return "muted" if self is Outcome.INCONCLUSIVE else "bad"


_EXIT_CODES = {
    Outcome.PASS: 0,
    Outcome.REGRESSION: 1,
    Outcome.FAIL: 1,
    Outcome.INCONCLUSIVE: 3,
    Outcome.NOT_COMPARABLE: 4,
    Outcome.INVALID: 5,
    Outcome.INCOMPLETE: 5,
}
USAGE_EXIT_CODE = 2  # the command line or a config is wrong
INTERRUPTED_EXIT_CODE = 130  # 128 + SIGINT, as shells count
CLOSED_PIPE_EXIT_CODE = 141  # 128 + SIGPIPE: the reader of the output has left, as after `| head -1`


def worst(outcomes: Iterable[Outcome | None]) -> Outcome | None:
    """The outcome that decides a whole; None if every part is None."""
    present = set(outcomes)
    return next((outcome for outcome in Outcome if outcome in present), None)


class VerbResult(Protocol):
    """The result of a verb."""

    @property
    def outcome(self) -> Outcome:
        """The verdict on the whole, whose exit code the command returns."""

    def document(self) -> dict[str, Any]:
        """The JSON data that `--json` prints, in the documented format of the verb."""
