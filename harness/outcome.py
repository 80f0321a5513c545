"""What a verb concludes, with the exit code that says so. The only table of exit codes in the project.

Every verb has the same form, which `harness.cli` relies on and mypy checks there:

    VERB(subject, VerbOptions(...), *, out=..., say=...) -> VerbResult

The function is named as the verb. Its subject comes first, then one frozen record of options, each with its default.
`out` is the folder or file to write and `say` takes one line of progress; a verb has them only where it needs them.
The result is a frozen record with the properties of `VerbResult`; a verb with a page also has `report()`, the page's
content, and `page`, the file.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Literal, Protocol


class Outcome(StrEnum):
    """A verdict as it is written in reports and JSON. The members stand in the order in which they decide a whole.

    A regression comes first, since it is a fact that nothing else takes back.
    """

    REGRESSION = "regression"  # worse than the margin allows
    FAIL = "fail"  # an objective or a check was not met
    INVALID = "invalid"  # the figures cannot be believed
    INCOMPLETE = "incomplete"  # a part of what was requested is missing
    NOT_COMPARABLE = "not comparable"  # the sides differ in what decides their figures
    INCONCLUSIVE = "inconclusive"  # the data do not decide
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


def worst(outcomes: Iterable[Outcome | None]) -> Outcome | None:
    """The outcome that decides a whole; None where every part is None."""
    known = set(outcomes)
    return next((outcome for outcome in Outcome if outcome in known), None)


class VerbResult(Protocol):
    """What every verb returns."""

    @property
    def outcome(self) -> Outcome:
        """The verdict on the whole; its exit code is the command's."""

    def document(self) -> dict[str, Any]:
        """What `--json` prints: JSON data in the documented format of the verb."""
