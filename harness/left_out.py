"""Engines that a verb cannot use. Each has its reason, and the others go on."""

import logging
from collections.abc import Callable, Mapping

from engines.base import EngineError

log = logging.getLogger("crispbench")


class LeftOut:
    """The engines that failed, in the order in which they did. Equal reasons are said in one line."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._waiting: dict[str, str] = {}
        self.errors: dict[str, EngineError] = {}  # engine -> why it was left out

    def add(self, engine: str, error: EngineError) -> None:
        """Leave an engine out. The traceback goes to the log at level DEBUG."""
        log.debug("engine %s", engine, exc_info=error)
        self.errors[engine], self._waiting[engine] = error, str(error)

    @property
    def reasons(self) -> dict[str, str]:
        """Engine -> why it was left out, in one line."""
        return {engine: str(error) for engine, error in self.errors.items()}

    def announce(self) -> None:
        """Say what was not said yet: when another engine was used, and at the end."""
        for line in grouped(self._waiting):
            self._say(f"crispbench: engine {line}")
        self._waiting = {}

    def __str__(self) -> str:
        return "; ".join(grouped(self.reasons))


def grouped(reasons: Mapping[str, str]) -> list[str]:
    """One text per reason, after the names that have it: `a, b: the server does not answer`."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return [f"{', '.join(sharing)}: {reason}" for reason, sharing in names.items()]
