"""The errors that are raised on purpose; engine authors import them from engines.base. A leaf."""

from collections.abc import Sequence


class CrispbenchError(Exception):
    """Base of every error that is raised on purpose; the message is one line for the user."""


class EngineError(CrispbenchError):
    """Base of every error that an engine raises on purpose."""


class BadOptions(EngineError):
    """An option is unknown or has a wrong value."""

    def __init__(self, message: str, location: Sequence[str | int] = ()) -> None:
        super().__init__(message)
        self.location = tuple(location)  # keys and positions that lead to the value in its document

    def within(self, *parents: str | int) -> "BadOptions":
        """The same error in the document that has the value's own document below these keys."""
        return BadOptions(str(self), (*parents, *self.location))


class EngineUnavailable(EngineError):
    """A package, a device, a file or a server is missing."""


class ScoringFailed(EngineError):
    """These pairs have no score."""


class EngineFailed(ScoringFailed):
    """These pairs have no score for a reason that is not in them, such as a dead server: others would fail as well.

    A caller with many queries gives up after a few of these in a row.
    """
