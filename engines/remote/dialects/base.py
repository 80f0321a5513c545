"""The contract of a dialect: how to request scores from one server, and how to read its answer. Nothing here does I/O.

A dialect is a small file with two pure functions, `request(batch)` and `scores(document)`, and a `Dialect` with the
other differences between servers. Unknown fields of an answer are ignored; missing fields raise ScoringFailed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from reprlib import Repr
from typing import Any, Literal, NamedTuple

from engines.base import ScoreKind, ScoringFailed

# prompt: the whole prompt as text · ids: the whole prompt as token ids · halves: the prompt's text, cut before the
# document, for servers that concatenate query and document · pair: query and document as they are
Form = Literal["prompt", "ids", "halves", "pair"]
# A plain number is the score of the pair. A dictionary has a score for every label that the server names; OTHER is the
# name of a label that it left unnamed.
Value = float | dict[str, float]
OTHER = ""


class Batch(NamedTuple):
    """The inputs of one request for scores."""

    inputs: Sequence[str] | Sequence[list[int]]  # prompts, or documents (their halves of the prompt)
    query: str = ""  # query of all inputs; empty if an input is a whole prompt
    model: str = ""  # the name under which the server serves it


class DialectRequest(NamedTuple):
    path: str  # relative to the engine's url
    body: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    request: Callable[[Batch], DialectRequest]
    scores: Callable[[Any], list[Value]]  # one score per input, in the order of the inputs
    form: Form
    # The server's numbers: LOG_ODDS (raw logits), PROBABILITY (a softmax or sigmoid) or OPAQUE (in [0, 1]). A config
    # can say otherwise by `score_kind`, because servers with equal routes send different numbers.
    score_kind: ScoreKind
    batch_size: int  # inputs per request, unless the config sets another number
    # GET route -> fields of its answer to record. A route with the field `id` lists the models that the server serves.
    info: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    longest: str = ""  # field of `info` with the longest prompt in tokens that the server takes; empty: not stated
    most: str = ""  # field of `info` with the most inputs of a request
    url_ending: str = ""  # ending of every url of such a server; empty: any
    auth: str = "Bearer"  # scheme of the Authorization header
    needs_model: bool = False
    strips: bool = False  # the server deletes white space around a prompt
    counts_tokens: bool = True  # `usage` in the answer counts tokens
    cuts: bool = False  # the server cuts texts that are too long; False: it refuses them


def take(document: Any, name: str, kind: type) -> Any:
    """The field of a JSON object. Raises ScoringFailed, which names the field and shows the answer."""
    value = document.get(name) if isinstance(document, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):  # in Python, True is an integer
        raise ScoringFailed(f"the answer has no {name!r} ({_JSON_NAMES[kind]}), it is {short(document)}")
    return value


def items(document: Any) -> list[Any]:
    if not isinstance(document, list):
        raise ScoringFailed(f"the answer is {short(document)}, expected a list")
    return document


def number(value: Any, name: str) -> float:
    """A finite number; raises ScoringFailed for null, NaN, infinity, text and booleans."""
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer beyond the range of float
        pass
    raise ScoringFailed(f"{name} is {short(value)}, expected a finite number")


def labelled(answer: Any) -> Value:
    """Scores by label from [{"score": 0.98, "label": "1"}, ...] in any order."""
    values: dict[str, float] = {}
    for entry in items(answer):
        label = take(entry, "label", str)
        if label in values:
            raise ScoringFailed(f"label {label!r} occurs twice in {short(answer)}")
        values[label] = number(entry.get("score"), "score")
    if not values:
        raise ScoringFailed("an answer without labels, expected a score for each label")
    return values


def indexed(entries: list[Any], read: Callable[[dict[str, Any]], Value]) -> list[Value]:
    """Values in the order of their `index`. Every index from 0 to n - 1 must occur once."""
    values: dict[int, Value] = {}
    for entry in entries:
        index = take(entry, "index", int)
        if index in values or not 0 <= index < len(entries):
            raise ScoringFailed(
                f"index {index} among {len(entries)} scores: expected 0 to {len(entries) - 1}, each once"
            )
        values[index] = read(entry)
    return [values[index] for index in range(len(entries))]


def ranked(entries: list[Any], name: str) -> list[Value]:
    """Plain scores from a list of {"index": 1, name: 0.5} in any order."""
    return indexed(entries, lambda entry: number(entry.get(name), name))


def short(value: Any) -> str:
    """The beginning of a value of any size and depth: `repr` would recurse and write the whole value first."""
    text = _SHORT.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_JSON_NAMES = {list: "a list", str: "a string", int: "an integer"}
