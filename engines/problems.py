"""What is wrong with the options of a config, in one line: the value, what was expected, the next step. A leaf."""

import re
from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from engines.spelling import closest, expected

KINDS = {bool: "true or false", int: "a whole number", float: "a number"}  # bool first: it is also an int


def first_problem(error: ValidationError) -> ErrorDetails:
    """The problem to report. An unknown option comes before a missing one, which it may be with a slip."""
    problems = error.errors()
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    return unknown[0] if unknown and problems[0]["type"] == "missing" else problems[0]


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a pydantic error in one line: the value, what was expected, the next step."""
    problem = first_problem(error)
    name, options = ".".join(str(part) for part in problem["loc"]), sorted(model.model_fields)
    if problem["type"] == "extra_forbidden":
        return f"unknown option {name!r}; {expected(problem['loc'][-1], options)}"
    if problem["type"] == "missing":
        return f"option {name!r} is missing; the options are {', '.join(options)}"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not name:
        return message
    if problem["input"] is None:
        return f"{name} is empty: {message}; give it a value, or leave the option out"
    return f"{name} = {_as_written(problem['input'])}: {message}{_remedy(problem)}"


def alterations(given: object, read: object) -> Iterator[str]:
    """What to write instead of a value that pydantic would silently turn into another one.

    A number in quotes is accepted if it is written as the number itself is: "5" for 5, and not "05" or "5e0".
    """
    if isinstance(given, list | tuple) and isinstance(read, list | tuple):
        for one, other in zip(given, read, strict=False):
            yield from alterations(one, other)
    elif isinstance(given, Mapping) and isinstance(read, Mapping):
        for name in given.keys() & read.keys():
            yield from alterations(given[name], read[name])
    elif isinstance(given, bool | int | float | str) and isinstance(read, bool | int | float):
        wanted = next(name for kind, name in KINDS.items() if isinstance(read, kind))
        if isinstance(given, str):
            if given not in (_as_written(read), f"{read:g}"):
                yield f"expected {wanted}: write {_as_written(read)} without quotes"
        elif isinstance(given, bool) != isinstance(read, bool):
            yield f"expected {wanted}, not {_as_written(given)}"
        elif isinstance(given, float) and isinstance(read, int):
            yield f"expected {wanted}: write {read}"


def _as_written(value: object) -> str:
    """A value as a config writes it, at most 200 characters."""
    return str(value).lower() if isinstance(value, bool) else f"{value!r:.200}"


def _remedy(problem: ErrorDetails) -> str:
    """What to write instead, where pydantic's message does not say it."""
    given = problem["input"]
    if problem["type"] == "string_type" and isinstance(given, bool):
        return "; put it in quotes (without quotes yes, no, on and off mean true and false)"
    if problem["type"] == "string_type" and isinstance(given, int | float):
        return "; put it in quotes"
    if problem["type"] in ("greater_than", "greater_than_equal") and isinstance(given, bool):
        return "; write a number (no and off mean false)"
    if problem["type"] in ("tuple_type", "list_type") and isinstance(given, str):
        return f"; write a list, such as [{given:.100}]"
    if problem["type"] == "literal_error" and isinstance(given, str):
        near = closest(given, re.findall(r"'([^']*)'", problem["ctx"]["expected"]))
        return "" if near is None else f"; did you mean {near!r}?"
    return ""
