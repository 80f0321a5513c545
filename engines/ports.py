"""Ports: tables of names that an installed package can extend by an entry point. A leaf, shared with the harness.

A name leads to a target `module:attribute`, which is imported when the name is used and not before.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points

from engines.base import BadOptions, EngineUnavailable
from engines.own_errors import named_line
from engines.spelling import expected


@dataclass(frozen=True)
class Port:
    group: str  # group of entry points, such as crispbench.engines
    what: str  # what a name stands for, as messages call it: "engine kind"
    shipped: Mapping[str, str]  # our own names and targets; a package cannot replace one of them

    def targets(self) -> dict[str, str]:
        """Every name with its target, our own and those of installed packages."""
        installed = {point.name: point.value for point in entry_points(group=self.group)}
        return {**installed, **self.shipped}

    def names(self) -> list[str]:
        return sorted(self.targets())

    def find(self, name: str) -> object:
        """The attribute behind a name. Raises BadOptions for an unknown name, EngineUnavailable if an import fails."""
        targets = self.targets()
        if name not in targets:
            raise BadOptions(f"{self.what} {name!r} is not known; {expected(name, sorted(targets))}")
        module, _, attribute = targets[name].partition(":")
        try:
            return getattr(importlib.import_module(module), attribute, None)
        except Exception as error:  # a package of somebody else, which can raise anything while it is imported
            reason = str(error) if isinstance(error, ImportError | ValueError) else named_line(error)
            raise EngineUnavailable(f"{self.what} {name!r} points to {targets[name]!r}: {reason}") from error

    def mismatch(self, name: str, expected: str) -> BadOptions:
        """The error for a target that is something else than the port expects."""
        return BadOptions(f"{self.what} {name!r} points to {self.targets()[name]!r}, which is not {expected}")
