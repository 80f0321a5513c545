"""From a server's answer to the log-odds of the positive label, and to the counts that it states."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from engines.base import Counts, EngineFailed, ScoreKind, ScoringFailed
from engines.prompts.template import Labels
from engines.remote.dialects.base import OTHER, Value
from engines.remote.transport import HttpAnswer

# Smallest positive number and largest number below 1. TEI, infinity (the transformers pipeline) and vLLM compute their
# softmax and sigmoid in float32. A service's arithmetic is unknown; its JSON numbers are read as float64. With these
# bounds a saturated score lies beyond every other score that the server can express, so the order survives.
FLOAT32 = (2.0**-149, 1 - 2.0**-24)
FLOAT64 = (2.0**-1074, 1 - 2.0**-53)


# Kinds whose numbers are scores as they are. All others are probabilities in [0, 1].
RAW = (ScoreKind.LOG_ODDS, ScoreKind.LOGIT, ScoreKind.OWN)
# Distance from 1 of the sum of two probabilities, each rounded to two digits or to bf16; and of two in float32.
ROUNDED, EXACT = 0.015, 1e-6
UNNAMED = "LABEL_0"  # what transformers calls the first label, often the only one, of a model that does not name it


class LogOdds(NamedTuple):
    value: float
    saturated: bool = False  # a probability was 0 or 1, so the value is a bound
    from_softmax: float = math.inf  # of two raw numbers in [0, 1]: the distance of their sum from 1


def log_odds(answer: Value, labels: Labels, kind: ScoreKind) -> LogOdds:
    """logit(positive) - logit(negative), log(p / (1 - p)) of one probability, or a score of its own as it is.

    Raises ScoringFailed.
    """
    if isinstance(answer, dict) and len(answer) == 1:
        ((label, value),) = answer.items()
        answer = _lone(label, value, labels, kind)
    if isinstance(answer, float):
        return LogOdds(answer) if kind in RAW else _of_probability(answer, kind)
    positive, negative = _by_name(answer, labels)
    return _of_logits(positive, negative) if kind in RAW else _of_softmax(positive, negative, kind)


def refuse_softmax(scores: Sequence[LogOdds]) -> None:
    """Raise EngineFailed if the raw scores of a whole call can only be a softmax: the server ignored the request.

    Their differences lie between -1 and 1, and strong candidates tie. Two logits may add up to 1 by chance, so a single
    pair must do so in float32, and several must do so all together.
    """
    bound = ROUNDED if len(scores) > 1 else EXACT
    if scores and all(score.from_softmax <= bound for score in scores):
        raise EngineFailed(
            "the two numbers of every pair lie in [0, 1] and add up to 1, so they are a softmax where raw logits were "
            "asked for: update the server, or set score_kind: probability"
        )


def _of_probability(probability: float, kind: ScoreKind) -> LogOdds:
    smallest, below_one = FLOAT64 if kind is ScoreKind.OPAQUE else FLOAT32
    bounded = min(max(_checked(probability), smallest), below_one)
    return LogOdds(math.log(bounded) - math.log1p(-bounded), probability in (0, 1))


def _of_logits(positive: float, negative: float) -> LogOdds:
    difference = positive - negative
    if not math.isfinite(difference):
        raise ScoringFailed(f"logits {positive} and {negative} differ by more than float64 can hold")
    both_within = 0 <= min(positive, negative) and max(positive, negative) <= 1
    return LogOdds(difference, from_softmax=abs(positive + negative - 1) if both_within else math.inf)


def _of_softmax(positive: float, negative: float, kind: ScoreKind) -> LogOdds:
    """softmax_1 / softmax_0 = exp(logit_1 - logit_0). One of them alone would keep few digits near 1."""
    smallest, _ = FLOAT64 if kind is ScoreKind.OPAQUE else FLOAT32
    if abs(_checked(positive) + _checked(negative) - 1) > ROUNDED:
        raise ScoringFailed(
            f"probabilities {positive} and {negative} do not add up to 1: expected a softmax of two labels"
        )
    odds = math.log(max(positive, smallest)) - math.log(max(negative, smallest))
    return LogOdds(odds, 0 in (positive, negative))


def _lone(label: str, value: float, labels: Labels, kind: ScoreKind) -> float:
    """The score of the positive label from the only label that the server names.

    It is the winner of several labels unless the model has one label only. The winner's probability is that of the
    positive label if it has that name; its logit alone is no log-odds. Servers whose pipeline has top_k = 1, which is
    the default of transformers, name the winner alone.
    """
    if label == labels.positive and kind in (ScoreKind.PROBABILITY, ScoreKind.LOGIT):
        return value
    if label == UNNAMED and kind in (ScoreKind.LOG_ODDS, ScoreKind.LOGIT):
        return value
    if label not in (labels.positive, labels.negative) and not re.fullmatch(r"LABEL_\d+", label):
        raise _other_labels([label], labels)
    only = "; if the model has no other label, set score_kind: logit" if kind is ScoreKind.LOG_ODDS else ""
    raise EngineFailed(
        f"the server gives a score of label {label!r} alone, expected those of {labels.positive!r} and "
        f"{labels.negative!r}: set it to return all labels (top_k: null, or return_all_scores: true){only}"
    )


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
    raise _other_labels(answer, labels)


def _other_labels(given: Iterable[str], labels: Labels) -> EngineFailed:
    return EngineFailed(
        f"the server's labels are {sorted(label for label in given if label)}, expected {labels.positive!r} and "
        f"{labels.negative!r}: set id2label in the served config.json, or use a template with these labels"
    )


def _checked(probability: float) -> float:
    if not 0 <= probability <= 1:
        raise EngineFailed(
            f"score {probability} is no probability in [0, 1]: set score_kind to logit if the server sends raw logits, "
            "to own if it sends another number"
        )
    return probability


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
