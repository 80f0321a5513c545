"""From what a server answers to the log-odds of the positive label."""

import math
from typing import NamedTuple

from engines.base import ScoringFailed
from engines.dialects.base import OTHER, ScoreKind, Value
from engines.template import Labels


class LogOdds(NamedTuple):
    value: float
    saturated: bool  # a probability was 0 or 1, and the value is a bound


# Smallest positive number and largest one below 1. TEI, infinity (the transformers pipeline) and vLLM compute their
# softmax and sigmoid in float32. Of a service nothing is known but JSON's numbers, which are read as float64. A
# saturated score so lies beyond every other one that the server can express, and the order survives.
FLOAT32 = (2.0**-149, 1 - 2.0**-24)
FLOAT64 = (2.0**-1074, 1 - 2.0**-53)


def log_odds(answer: Value, labels: Labels, kind: ScoreKind) -> LogOdds:
    """logit(positive) - logit(negative), or log(p / (1 - p)) of one probability. Raises ScoringFailed."""
    smallest, below_one = FLOAT64 if kind == "opaque" else FLOAT32
    if isinstance(answer, float):
        if kind == "logit_diff":
            return LogOdds(answer, False)
        probability = min(max(_probability(answer), smallest), below_one)
        return LogOdds(math.log(probability) - math.log1p(-probability), answer in (0, 1))
    positive, negative = _by_name(answer, labels)
    if kind == "logit_diff":
        difference = positive - negative
        if not math.isfinite(difference):
            raise ScoringFailed(f"logits {positive} and {negative} differ by more than a number can hold")
        return LogOdds(difference, False)
    # softmax_1 / softmax_0 = exp(logit_1 - logit_0); better than one of them alone, of which few digits are left near 1
    if abs(_probability(positive) + _probability(negative) - 1) > 0.01:
        raise ScoringFailed(
            f"probabilities {positive} and {negative} do not add up to 1: expected a softmax of two labels"
        )
    odds = math.log(max(positive, smallest)) - math.log(max(negative, smallest))
    return LogOdds(odds, 0 in (positive, negative))


def _by_name(answer: dict[str, float], labels: Labels) -> tuple[float, float]:
    """Values of the positive and the negative label; one of them may be nameless.

    LABEL_0 and LABEL_1 are refused: they are what a configuration without names is given, and say nothing of which
    row is which token.
    """
    known = {labels.positive, labels.negative}
    named = answer.keys() & known
    if len(answer) == 2 and named and answer.keys() <= known | {OTHER}:
        positive = answer.get(labels.positive, answer.get(OTHER))
        negative = answer.get(labels.negative, answer.get(OTHER))
        assert positive is not None and negative is not None
        return positive, negative
    raise ScoringFailed(
        f"the server's labels are {sorted(label for label in answer if label)}, expected {labels.positive!r} and "
        f"{labels.negative!r}: set id2label in the served config.json, or use a template with these labels"
    )


def _probability(value: float) -> float:
    if not 0 <= value <= 1:
        raise ScoringFailed(f"score {value} is no probability, expected one in [0, 1]: does the server send logits?")
    return value
