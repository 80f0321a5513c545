"""vLLM, POST /classify with token ids: raw logits, and the only remote route on which the server tokenises no text."""

from typing import Any

from engines.base import ScoreKind, ScoringFailed
from engines.remote.dialects.base import OTHER, Batch, Dialect, DialectRequest, Value, indexed, number, short, take

INFO = {"/version": ("version",), "/v1/models": ("id", "root", "max_model_len")}


def request(batch: Batch) -> DialectRequest:
    body = {
        "model": batch.model,
        "input": list(batch.inputs),
        "add_special_tokens": False,
        "use_activation": False,  # `probs` then holds logits
    }
    return DialectRequest("/classify", body)


def scores(document: Any) -> list[Value]:
    return indexed(take(document, "data", list), _logits)


def _logits(entry: dict[str, Any]) -> Value:
    """One or two logits. `label` names the larger one, so both are known in either order."""
    logits, label = [number(value, "probs") for value in take(entry, "probs", list)], take(entry, "label", str)
    classes = entry.get("num_classes", len(logits))
    if classes != len(logits) or classes not in (1, 2):
        raise ScoringFailed(f"probs is {short(logits)} of {short(classes)} classes, expected all of one or two")
    if len(logits) == 1:
        return {label: logits[0]}
    return {label or "unnamed": max(logits), OTHER: min(logits)}


DIALECT = Dialect(
    request=request,
    scores=scores,
    form="ids",
    score_kind=ScoreKind.LOG_ODDS,
    batch_size=32,
    info=INFO,
    longest="max_model_len",
    needs_model=True,
)
