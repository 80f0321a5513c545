"""What differs between two configurations: in the order in which a user sets it, in the user's words, without hashes.

A consequence is left out where its cause is named: another number of queries changes the data's hash and the lists of
candidates, and another option changes what an engine says of itself.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Leaf = tuple[str, ...]

# Fields of a benchmark that follow from the others, or that describe it for a reader.
DESCRIPTIVE = {"available", "alarms", "warnings", "recall", "oracle", "random"}
ORDER = ("engine", "kind", "options", "benchmarks", "description", "machine", "machines", "versions")
HASH = re.compile(r"(.*[:@+])?[0-9a-f]{12,64}")
HASHES = {"revision": "data", "sha256": "lists of candidates", "template_sha256": "content of the template"}
QUERIES = "(--limit, or `queries` in the config; a limit can be raised in the same folder, not lowered)"


class DifferingField(NamedTuple):
    """A field in which two configurations differ."""

    path: Leaf
    before: Any
    now: Any

    @property
    def hidden(self) -> str:
        """What a hash stands for, if the field is one: its value tells a reader nothing. Empty for any other field."""
        is_hash = self.path[-1] in HASHES and _is_hash(self.before) and _is_hash(self.now)
        if not is_hash:
            return ""
        return (
            "files of the model"
            if self.path[0] == "description" and self.path[-1] == "revision"
            else HASHES[self.path[-1]]
        )


def differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """One phrase for every difference between two manifests. A benchmark in only one of them does not count."""
    return list(map(_phrase, causes(stored, current)))


def causes(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[DifferingField]:
    """The differences between two manifests, those that a user sets first, without their consequences."""
    old, new = dict(_leaves(stored, ())), dict(_leaves(current, ()))
    shared = stored["benchmarks"].keys() & current["benchmarks"].keys()
    differing = [path for path in {**old, **new} if old.get(path) != new.get(path) and _counts(path, shared)]
    kept = sorted((path for path in differing if not _follows(path, differing)), key=_position)
    return [DifferingField(path, old.get(path, "nothing"), new.get(path, "nothing")) for path in kept]


def of_benchmark(name: str, stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[DifferingField]:
    """The differences between two entries of a benchmark: other data, rules or candidates."""
    return causes({"benchmarks": {name: stored}}, {"benchmarks": {name: current}})


def _counts(path: Leaf, shared: set[str]) -> bool:
    if path[0] == "benchmarks":
        return path[1] in shared and path[-1] not in DESCRIPTIVE
    return path[0] != "format"


def _follows(path: Leaf, differing: list[Leaf]) -> bool:
    """Whether a difference is the consequence of another one."""
    if path[0] == "description":
        return any(other[0] in ("kind", "options") for other in differing)
    if path[0] != "benchmarks":
        return False
    fields = {other[2:] for other in differing if other[:2] == path[:2]}
    if path[2:] == ("revision",):
        return bool(fields & {("queries",), ("documents",), ("split",)})
    return path[2:] == ("candidates", "sha256") and len(fields) > 1


def _phrase(difference: DifferingField) -> str:
    path, before, now = difference
    if difference.hidden:
        return (
            f"{path[1]}: the {difference.hidden} changed"
            if path[0] == "benchmarks"
            else f"the {difference.hidden} changed"
        )
    hint = f" {QUERIES}" if path[0] == "benchmarks" and path[2:] == ("queries",) else ""
    return f"{'.'.join(path)} was {before!r} and is {now!r}{hint}"


def _is_hash(value: object) -> bool:
    return value in ("", "nothing") or (isinstance(value, str) and HASH.fullmatch(value) is not None)


def _position(path: Leaf) -> tuple[int, Leaf]:
    return ORDER.index(path[0]) if path[0] in ORDER else len(ORDER), path


def _leaves(value: Any, path: Leaf) -> Iterator[tuple[Leaf, Any]]:
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, item in value.items():
        yield from _leaves(item, (*path, str(key)))
