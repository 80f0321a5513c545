"""The help index of Python as queries with graded answers: the text that `help("for")` shows, and related texts.

pydoc keeps three tables of names, which all point to the texts of `pydoc_data.topics`. The main text of a name has
grade 2, and a text under "Related help topics" has grade 1. People do not type names as the index spells them, so

- a keyword is followed by its kind: `for statement`, `and operator` (a third of the bare keywords are stop words);
- the name of a topic is split into words: `augmented assignment` for AUGMENTEDASSIGNMENT;
- symbols with the same entry are one query, because 12 assignments would count 12 times. The query has the symbols and
  their names, because `**` alone has no word that a lexical first stage could find. Its answers are only those that the
  entry names: with the related texts of the table of operators, every operator would have all 18 of them.
"""

import pydoc
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pydoc_data.topics import topics as texts
from typing import NamedTuple

KEYWORD_KINDS = {
    "and": "operator", "in": "operator", "is": "operator", "not": "operator", "or": "operator",
    "as": "clause", "elif": "clause", "else": "clause", "except": "clause", "finally": "clause", "from": "clause",
    "await": "expression", "lambda": "expression", "yield": "expression",
}  # fmt: skip
GLUED_WORD = re.compile(
    r"(?<=[A-Z]{3})(?=(?:ASSIGNMENT|ATTRIBUTES|FEATURES|IDENTIFIERS|LITERALS|MANAGERS|METHODS|NAMES|OBJECTS|VALUE)$)"
)
SPOKEN = {
    "%": "percent sign", "*": "asterisk", ",": "comma", ".": "dot", ":": "colon", "@": "at sign", "\\": "backslash",
    "_": "underscore", "(": "parenthesis", ")": "parenthesis", "[": "square bracket", "]": "square bracket",
    "'": "single quote", '"': "double quote", "+": "plus sign", "-": "minus sign", "/": "slash", "<": "less than",
    ">": "greater than", "&": "ampersand", "|": "vertical bar", "^": "caret", "~": "tilde", "=": "equals sign",
    "!": "exclamation mark", "`": "backquote",
}  # fmt: skip


__all__ = ["TopicEntry", "entries", "texts"]


class TopicEntry(NamedTuple):
    """A query with its graded answers."""

    query_id: str  # keyword:for
    query: str
    grades: Mapping[str, int]  # doc_id -> 2 for the main text, 1 for a related one


def entries() -> Iterator[TopicEntry]:
    """One entry per keyword, topic and group of symbols whose main text exists."""
    for name in pydoc.Helper.keywords:
        yield from _entry(f"keyword:{name}", f"{name} {KEYWORD_KINDS.get(name, 'statement')}", _answers(name))
    for name in pydoc.Helper.topics:
        yield from _entry(f"topic:{name}", GLUED_WORD.sub(" ", name).lower(), _answers(name))
    groups: dict[str, list[str]] = {}
    for symbol, names in pydoc.Helper.symbols.items():
        groups.setdefault(names, []).append(symbol)
    for names, symbols in groups.items():
        yield from _entry(f"symbol:{symbols[0]}", _spoken(symbols), [_label(name) for name in names.split()])


def _entry(query_id: str, query: str, answers: Iterable[str | None]) -> Iterator[TopicEntry]:
    main, *related = answers
    if main is not None:
        yield TopicEntry(query_id, query, {**{label: 1 for label in related if label is not None}, main: 2})


def _answers(name: str) -> list[str | None]:
    """The label of the main text, then those of related texts; None for a name without a text."""
    target = _target(name)
    return [_label(name), *(_label(related) for related in target[1].split())]


def _label(name: str) -> str | None:
    label = _target(name)[0]
    return label if label in texts else None


def _target(name: str) -> tuple[str, str]:
    """Label and related names, through aliases, looked up as in pydoc's `showtopic`."""
    seen: set[str] = set()
    target: str | tuple[str, ...] = name
    while isinstance(target, str):
        if target in seen:
            return "", ""
        seen.add(target)
        target = pydoc.Helper.topics.get(target) or pydoc.Helper.keywords.get(target) or ("", "")
    return target[0], target[1]


def _spoken(symbols: Iterable[str]) -> str:
    characters = dict.fromkeys("".join(symbols))
    words = [SPOKEN.get(character) or _name(character) for character in characters]
    return f"{' '.join(symbols)} ({', '.join(dict.fromkeys(words))})"


def _name(character: str) -> str:
    return character if character.isalnum() else unicodedata.name(character, character).lower()
