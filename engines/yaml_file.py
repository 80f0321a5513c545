"""YAML files as people write them: plain data, every key once, and of bounded size.

Ten lines of nested aliases become a billion nodes, 5,000 brackets take 6 s to parse and end in a RecursionError, and a
megabyte takes a minute. So size, depth and nodes are bounded, and counted before nodes are built.

YAML 1.1 and 1.2 read some plain words differently: 0100 is 64 or 100, 1:40 is 100 or text, 1e3 is text or 1000. A word
that they read as different numbers is refused, and a key must be text, so that a file means the same to every reader.
"""

import math
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from engines.base import BadOptions

MOST_BYTES = 200_000  # our longest file has 6,000; at the limit reading takes 4 s
MOST_NODES = 20_000  # an alias counts as often as it is used
MOST_DEPTH = 50
MOST_DIGITS = 400  # Python writes integers of at most 4,300 digits; a float has at most 309

TAG = "tag:yaml.org,2002:"
MERGE = f"{TAG}merge"  # `<<: *defaults`, whose keys an entry may override
TEXT = f"{TAG}str"
KEY_KINDS = {f"{TAG}bool": "read as true or false", f"{TAG}null": "empty", f"{TAG}int": "read as a number"}

# PyYAML matches a pattern at the beginning of a word, so each ends in \Z.
BOOLEAN = re.compile(r"(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)\Z")
EMPTY = re.compile(r"(?:~|null|Null|NULL|)\Z")
# Every plain word that YAML 1.1 or YAML 1.2 reads as a number
NUMBER = re.compile(
    r"""(?:[-+]?(?:
      (?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?
    | 0[xob][0-9a-fA-F_]+
    | [0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?
    | \.(?:inf|Inf|INF)
    )|\.(?:nan|NaN|NAN))\Z""",
    re.VERBOSE,
)
# The numbers that both read as the same value, and 1e3, which YAML 1.1 reads as text
INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
HEXADECIMAL = re.compile(r"[-+]?0x[0-9a-fA-F]+")
DECIMAL = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")

Location = tuple[str | int, ...]  # keys and positions that lead to a value


@dataclass(frozen=True)
class YamlDocument:
    """The content of a file, and the line at which each of its values begins."""

    content: object
    lines: Mapping[Location, int] = field(repr=False)  # from 1; the line of an entry is the line of its key

    def line_of(self, location: Location) -> int:
        """The line of a value, or of the nearest value around it that the file has."""
        known = (self.lines.get(location[:end]) for end in range(len(location), -1, -1))
        return next((line for line in known if line is not None), 1)


def read_yaml(path: Path) -> YamlDocument:
    """The file's single document. Raises OSError, and BadOptions with path and line for any other content."""
    with path.open("rb") as file:
        raw = file.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise BadOptions(f"{path}: the file is larger than {MOST_BYTES:,} bytes")
    try:
        text = raw.decode()
        _check_extent(text)
        return _document(text)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadOptions(f"{path}: line {line}: byte {raw[error.start]:#04x} is not UTF-8: save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise BadOptions(f"{path}: {_explained(error)}") from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # PyYAML's own: !!bool x, !!timestamp x
        raise BadOptions(f"{path}: a value does not fit its tag: {error}") from None


def _document(text: str) -> YamlDocument:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return YamlDocument(None, {})
        content = loader.construct_document(root)  # also replaces each `<<` by the keys that it merges
        return YamlDocument(content, dict(_lines(root, (), root.start_mark.line + 1)))
    finally:
        loader.dispose()


def _lines(node: yaml.Node, location: Location, line: int) -> Iterator[tuple[Location, int]]:
    yield location, line
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _lines(value, (*location, key.value), key.start_mark.line + 1)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            yield from _lines(value, (*location, position), value.start_mark.line + 1)


def _explained(error: yaml.YAMLError) -> str:
    """The line, the problem and the probable cause. PyYAML's own message spreads over several lines."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())[:500]
    problem = str(getattr(error, "problem", "")) or "this cannot be read"
    causes = {
        "character '\\t'": "indent with spaces, not with tabs",
        "cannot start any token": "put text that begins with this character in quotes",
        "mapping values are not allowed": "put text that holds a colon in quotes, and align keys of one mapping",
        "expected <block end>": "align the entries of one list or mapping",
        "expected ',' or": "close every bracket, and put text with brackets or commas in quotes",
        "another document": "keep one document per file, without a second `---`",
        "end of stream": "close every quote",
    }
    cause = next((f"; {cause}" for start, cause in causes.items() if start in problem), "")
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem[:300]}{cause}"


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


def _at(place: yaml.Event | yaml.Node, problem: str) -> yaml.YAMLError:
    assert place.start_mark is not None  # events and nodes of a text have a position
    return yaml.YAMLError(f"line {place.start_mark.line + 1}: {problem}")


class _Loader(yaml.SafeLoader):
    """Keys are text and occur once: in PyYAML the last of two equal keys would silently win."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's table

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE:
                continue
            if key_node.tag != TEXT:
                what = KEY_KINDS.get(key_node.tag, "not text")
                key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "of a list or a mapping"
                raise _at(key_node, f"key {key:.100} is {what}: put it in quotes")
            if key_node.value in seen:
                raise _at(key_node, f"key {key_node.value!r:.100} occurs twice")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int | float:
    text = str(node.value)
    if len(text) > MOST_DIGITS:
        raise _at(node, f"a number of {len(text):,} digits")
    if INTEGER.fullmatch(text):
        return int(text)
    if HEXADECIMAL.fullmatch(text):
        return int(text, 16)
    if DECIMAL.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    raise _at(node, f"{text} {_unclear(text)}, or put it in quotes if it is text")


def _unclear(text: str) -> str:
    """Why a plain word is not a number with one meaning, and what to write instead."""
    digits = text.replace("_", "")
    if ":" in text:
        return "is a number to base 60 in YAML 1.1: write the number in decimal"
    if DECIMAL.fullmatch(text) or text.lstrip("+-.").lower() in ("inf", "nan"):
        return "is not a finite number: write one, leave the option out"
    if "_" in text and (INTEGER.fullmatch(digits) or DECIMAL.fullmatch(digits)):
        return f"is a number in YAML 1.1 and text in YAML 1.2: write {digits}"
    sign, unsigned = ("-" if text.startswith("-") else ""), digits.lstrip("+-")
    if re.fullmatch(r"0[0-9.]+(?:[eE].*)?", unsigned):
        plain = re.sub(r"^0+(?=[0-9])", "", unsigned)
        return (
            f"begins with a zero, which is octal in YAML 1.1 and decimal in YAML 1.2: write {sign}{plain} for decimal"
        )
    return "is not a number in every version of YAML: write the number in decimal"


_Loader.add_implicit_resolver(f"{TAG}bool", BOOLEAN, list("yYnNtTfFoO"))
_Loader.add_implicit_resolver(f"{TAG}null", EMPTY, ["~", "n", "N", ""])
_Loader.add_implicit_resolver(f"{TAG}int", NUMBER, list("-+.0123456789"))
_Loader.add_implicit_resolver(MERGE, re.compile(r"<<\Z"), ["<"])
_Loader.add_constructor(f"{TAG}int", _number)
_Loader.add_constructor(f"{TAG}float", _number)
