"""From a server's answer to the log-odds of the positive label, and to the counts that it states."""

import math
import re
from typing import NamedTuple

from engines.base import Counts, ScoreKind, ScoringFailed
from engines.prompts.template import Labels
from engines.remote.dialects.base import OTHER, Value
from engines.remote.transport import HttpAnswer

# Smallest positive number and largest number below 1. TEI, infinity (the transformers pipeline) and vLLM compute their
# softmax and sigmoid in float32. A service's arithmetic is unknown; its JSON numbers are read as float64. With these
# bounds a saturated score lies beyond every other score that the server can express, so the order survives.
FLOAT32 = (2.0**-149, 1 - 2.0**-24)
FLOAT64 = (2.0**-1074, 1 - 2.0**-53)


class LogOdds(NamedTuple):
    value: float
    saturated: bool  # a probability was 0 or 1, so the value is a bound


def log_odds(answer: Value, labels: Labels, kind: ScoreKind) -> LogOdds:
    """logit(positive) - logit(negative), or log(p / (1 - p)) of one probability. Raises ScoringFailed."""
    smallest, below_one = FLOAT64 if kind is ScoreKind.OPAQUE else FLOAT32
    if isinstance(answer, float):
        if kind is ScoreKind.LOG_ODDS:
            return LogOdds(answer, False)
        probability = min(max(_probability(answer), smallest), below_one)
        return LogOdds(math.log(probability) - math.log1p(-probability), answer in (0, 1))
    positive, negative = _by_name(answer, labels)
    if kind is ScoreKind.LOG_ODDS:
        difference = positive - negative
        if not math.isfinite(difference):
            raise ScoringFailed(f"logits {positive} and {negative} differ by more than float64 can hold")
        return LogOdds(difference, False)
    # softmax_1 / softmax_0 = exp(logit_1 - logit_0). One of them alone would keep few digits near 1.
    if abs(_probability(positive) + _probability(negative) - 1) > 0.01:
        raise ScoringFailed(
            f"probabilities {positive} and {negative} do not add up to 1: expected a softmax of two labels"
        )
    odds = math.log(max(positive, smallest)) - math.log(max(negative, smallest))
    return LogOdds(odds, 0 in (positive, negative))


def _by_name(answer: dict[str, float], labels: Labels) -> tuple[float, float]:
    """Values of the positive and the negative label; one of them may be unnamed.

    LABEL_0 and LABEL_1 are refused: a configuration without names gets them, and they do not say which row belongs to
    which token.
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
        raise ScoringFailed(f"score {value} is no probability in [0, 1]: does the server send logits?")
    return value


def usage(answer: HttpAnswer) -> Counts:
    """The tokens that the server read and its own times, as far as the answer states them."""

    def time_us(name: str) -> int | None:
        return _microseconds(answer.headers.get(f"x-{name}-time", ""))

    # TEI's headers, in milliseconds; for a batch they are means over its texts
    return Counts(
        tokens=_tokens(answer),
        server_compute_us=time_us("compute"),
        server_queue_us=time_us("queue"),
        server_tokenization_us=time_us("tokenization"),
        server_inference_us=time_us("inference"),
        server_total_us=time_us("total"),
    )


def _microseconds(milliseconds: str) -> int | None:
    return round(float(milliseconds) * 1000) if re.fullmatch(r"\d{1,12}(\.\d+)?", milliseconds) else None


def _tokens(answer: HttpAnswer) -> int | None:
    """Tokens from `usage` (infinity, vLLM, Jina), `meta.tokens` (Cohere) or TEI's header."""
    document = answer.document if isinstance(answer.document, dict) else {}
    meta = document.get("meta")
    usage_document = document.get("usage") or (meta.get("tokens") if isinstance(meta, dict) else None)
    if isinstance(usage_document, dict):
        counts = (usage_document.get(name) for name in ("prompt_tokens", "input_tokens", "total_tokens"))
        return next((count for count in counts if type(count) is int and count >= 0), None)
    header = answer.headers.get("x-compute-tokens", "")
    return int(header) if re.fullmatch(r"\d{1,12}", header) else None
