"""Names of measures, as ir_measures, trec_eval and mteb write them, checked before anything is computed.

A measure is accepted only if a provider of `harness/figures/providers.py` computes it.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

import ir_measures
from ir_measures import (
    AP,
    RR,
    Bpref,
    IPrec,
    Measure,
    NumQ,
    NumRel,
    NumRelRet,
    NumRet,
    P,
    R,
    Rprec,
    SetAP,
    SetF,
    SetP,
    SetR,
    SetRelP,
    Success,
    infAP,
    nDCG,
)

from engines.spelling import closest
from harness.figures.providers import COUNTS, MOST_LEVEL, provider_of

LONGEST_NAME = 200  # characters
MOST_DOCUMENTS = 1_000_000  # largest cutoff
DESCRIPTIVE = {"Judged", *COUNTS}  # they describe the data; a higher value is not a better ranking
EXAMPLES = "nDCG@10, AP(rel=2), RR@10, R@100, ndcg_cut_10, recip_rank"

# trec_eval's name without its parameter -> the measure, and the parameter that may follow
TREC_EVAL: Mapping[str, tuple[Measure, str | None]] = {
    "map": (AP, None),
    "map_cut": (AP, "cutoff"),
    "ndcg": (nDCG, None),
    "ndcg_cut": (nDCG, "cutoff"),
    "recip_rank": (RR, None),
    "p": (P, "cutoff"),
    "recall": (R, "cutoff"),
    "success": (Success, "cutoff"),
    "rprec": (Rprec, None),
    "bpref": (Bpref, None),
    "infap": (infAP, None),
    "iprec_at_recall": (IPrec, "recall"),
    "set_p": (SetP, None),
    "set_recall": (SetR, None),
    "set_map": (SetAP, None),
    "set_f": (SetF, "beta"),
    "set_relative_p": (SetRelP, None),
    "num_q": (NumQ, None),
    "num_ret": (NumRet, None),
    "num_rel": (NumRel, None),
    "num_rel_ret": (NumRelRet, None),
}
TREC_EVAL_NAME = re.compile(r"([A-Za-z_]+?)(?:[._]([0-9]+(?:\.[0-9]+)?))?")
TREC_EVAL_LIST = re.compile(r"([A-Za-z_]+?)[._]([0-9.]+(?:,[0-9.]+)+)")
MTEB_NAME = re.compile(r"([A-Za-z_]+)_at_([0-9]+)")
SYNONYMS = dict.fromkeys(("hit", "hits", "hit_rate", "hitrate"), "Success")


def parse(name: str) -> Measure:
    """The measure with this name. Raises a one-line ValueError if it is not known or cannot be computed."""
    try:
        if len(name) > LONGEST_NAME:
            raise ValueError(f"{len(name)} characters")
        with warnings.catch_warnings(action="ignore"):  # Python's parser warns of literals such as 10if
            parsed = _trec_eval(name.strip()) or ir_measures.parse_measure(_spelled(_as_cut(name.strip())))
        parsed = _with_floats(parsed)
        _check_parameters(parsed)
        provider_of(parsed)
        return parsed
    except (NameError, SyntaxError, ValueError, TypeError, KeyError, AssertionError, ArithmeticError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"measure {name!r:.{LONGEST_NAME}} cannot be computed ({reason}); write it as ir_measures or trec_eval "
            f"does: {EXAMPLES}"
        ) from None


def parse_all(names: Iterable[str | Measure]) -> list[Measure]:
    """The measures with these names, each once; `ndcg_cut.5,10` of trec_eval is two. Raises ValueError as `parse`.

    A measure of ir_measures is taken by its name, and checked like one.
    """
    return list(dict.fromkeys(parse(single) for name in names for single in _singles(str(name))))


def is_count(name: str) -> bool:
    """Whether a measure counts queries or documents, so that its summary is a sum over the queries."""
    return _kind(name) in COUNTS


def is_merit(name: str) -> bool:
    """Whether a higher value means a better ranking. The judged share and counts describe the data instead."""
    return _kind(name) not in DESCRIPTIVE


def _kind(name: str) -> str:
    return re.split(r"\W", name, maxsplit=1)[0]


def _singles(name: str) -> list[str]:
    """The name once for every parameter behind it, as trec_eval lists them."""
    match = TREC_EVAL_LIST.fullmatch(name.strip())
    return [f"{match[1]}_{value}" for value in match[2].split(",")] if match else [name]


def _trec_eval(name: str) -> Measure | None:
    """The measure that trec_eval calls by this name; None if it is not one of its names."""
    match = TREC_EVAL_NAME.fullmatch(name)
    if match is None or match[1].lower() not in TREC_EVAL:
        return None
    measure, parameter = TREC_EVAL[match[1].lower()]
    if match[2] is None and parameter == "cutoff":
        raise ValueError(f"it needs a cutoff, such as {match[1]}_10")
    if match[2] is None:
        return measure
    if parameter is None:
        cut = f", write {measure}@{match[2]}" if "cutoff" in measure.SUPPORTED_PARAMS else ""
        raise ValueError(f"trec_eval's {match[1]} has no parameter{cut}")
    parsed: Measure = measure(**{parameter: measure.SUPPORTED_PARAMS[parameter].dtype(match[2])})
    return parsed


def _as_cut(name: str) -> str:
    """mteb's `ndcg_at_10` as ndcg@10; another name as it is."""
    match = MTEB_NAME.fullmatch(name)
    return "@".join(match.groups()) if match else name


def _spelled(name: str) -> str:
    """The name with its first word as ir_measures spells it: any case is accepted."""
    word = re.match(r"\w*", name)
    assert word is not None  # it may be empty
    registry = ir_measures.measures.registry
    known = SYNONYMS | {registered.lower(): registered for registered in registry}
    spelled = word[0] if word[0] in registry else known.get(word[0].lower())
    if spelled is None:
        near = closest(word[0], (*registry, *TREC_EVAL))
        raise ValueError(f"measure not found: {word[0]}" + (f", did you mean {near!r}?" if near else ""))
    return spelled + name[word.end() :]


def _with_floats(measure: Measure) -> Measure:
    """The measure with 1 read as 1.0 where ir_measures wants a fraction."""
    wanted = {name for name, info in measure.SUPPORTED_PARAMS.items() if info.dtype is float}
    whole = {name: value for name, value in measure.params.items() if name in wanted and type(value) is int}
    converted: Measure = measure(**{name: float(value) for name, value in whole.items()})
    return converted


def _check_parameters(measure: Measure) -> None:
    """Raise for a value that a provider would misread: pytrec_eval ends the process for some of them."""
    for name, info in measure.SUPPORTED_PARAMS.items():
        value = measure.params.get(name)
        if info.required and name not in measure.params:
            raise ValueError(f"{name} is missing: {info.desc}")
        if name in measure.params and name in LIMITS:
            allowed, expected = LIMITS[name]
            if type(value) is not info.dtype or not allowed(value):
                raise ValueError(f"{name} = {value!r}, expected {expected}")


def _are_gains(gains: dict[Any, Any]) -> bool:
    """Whether these are gains by grade. pytrec_eval knows whole numbers alone, and a name prints '1' like 1."""
    numbers = chain(gains.keys(), gains.values())
    return all(type(number) is int and 0 <= number <= MOST_LEVEL for number in numbers)


LIMITS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "cutoff": (lambda value: 1 <= value <= MOST_DOCUMENTS, f"a whole number from 1 to {MOST_DOCUMENTS:,}"),
    "rel": (lambda value: 1 <= value <= MOST_LEVEL, f"a whole number from 1 to {MOST_LEVEL:,}"),
    "gains": (_are_gains, f"whole numbers from 0 to {MOST_LEVEL:,}, such as {{1: 1, 2: 3}}"),
    "recall": (lambda value: 0 <= value <= 1 and round(value, 2) == value, "0.00 to 1.00 with two decimals"),
    "beta": (lambda value: 0 < value <= MOST_LEVEL, f"a number above 0, at most {MOST_LEVEL:,}"),
    "p": (lambda value: 0 < value < 1, "a number between 0 and 1"),
}
