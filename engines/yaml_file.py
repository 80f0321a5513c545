"""YAML files as people write them: plain data, every key once, and of bounded size.

Ten lines of nested aliases become a billion nodes, 5,000 brackets take 6 s to parse and end in a RecursionError, and a
megabyte takes a minute. So size, depth and nodes are bounded, and counted before nodes are built.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 200_000  # our longest file has 6,000; at the limit reading takes 4 s
MOST_NODES = 20_000  # an alias counts as often as it is used
MOST_DEPTH = 50
MOST_DIGITS = 400  # Python writes integers of at most 4,300 digits; a float has at most 309
MERGE = "tag:yaml.org,2002:merge"  # `<<: *defaults`, whose keys an entry may override


def read_yaml(path: Path) -> object:
    """The file's single document. Raises OSError, UnicodeDecodeError, and yaml.YAMLError for any other content."""
    with path.open("rb") as file:
        raw = file.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise yaml.YAMLError(f"the file is larger than {MOST_BYTES:,} bytes")
    text = raw.decode()
    try:
        _check_extent(text)
        document: object = yaml.load(text, Loader=_Loader)
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
    ) as error:  # PyYAML's own: !!int x, 2024-99-99
        raise yaml.YAMLError(f"a value does not fit its tag or its form: {error}") from None
    return document


def _check_extent(text: str) -> None:
    """Raise yaml.YAMLError for a document that is too deep, or too large with its aliases expanded."""
    sizes: dict[str, int] = {}  # anchor -> nodes of the anchored value
    open_: list[tuple[str | None, int]] = []  # anchor and first node of every collection around this event
    nodes = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise _at(event, f"alias {event.anchor!r} names nothing before it, or its own value")
            nodes += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            nodes += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, nodes))
            nodes += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor:
                sizes[anchor] = nodes - before
        if nodes > MOST_NODES or len(open_) > MOST_DEPTH:
            raise _at(event, f"more than {MOST_NODES:,} values with expanded aliases, or {MOST_DEPTH} levels")


def _at(event: yaml.Event, problem: str) -> yaml.YAMLError:
    assert event.start_mark is not None  # events of a text have a position
    return yaml.YAMLError(f"line {event.start_mark.line + 1}: {problem}")


class _Loader(yaml.SafeLoader):
    """Enforces YAML's rule that keys are unique: in PyYAML the last value would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # PyYAML raises its own error below
            if key in seen:
                line = key_node.start_mark.line + 1
                raise yaml.constructor.ConstructorError(problem=f"line {line}: key {key!r} occurs twice")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    if len(node.value) > MOST_DIGITS:
        raise yaml.constructor.ConstructorError(problem=f"a number of {len(node.value):,} digits")
    number: int = loader.construct_yaml_int(node)
    return number


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
