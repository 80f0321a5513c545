"""text-embeddings-inference, POST /predict: labels with raw logits for each prompt.

TEI itself serves no Qwen2 classifier (1.9: "model type is not supported for Qwen2"); servers with its wire format do.
"""

from typing import Any

from engines.base import ScoreKind
from engines.remote.dialects.base import Batch, Dialect, DialectRequest, Value, items, labelled

INFO = (
    "model_id",
    "model_sha",
    "model_dtype",
    "version",
    "max_input_length",
    "max_client_batch_size",
    "auto_truncate",
)


def request(batch: Batch) -> DialectRequest:
    # Every text is a list of its own: ["a", "b"] would be one pair. TEI would cut the prompt's end, from which the
    # score is read; since 1.9 it does so by default.
    inputs = [[text] for text in batch.inputs]
    return DialectRequest("/predict", {"inputs": inputs, "raw_scores": True, "truncate": False})


def scores(document: Any) -> list[Value]:
    return [labelled(answer) for answer in items(document)]


DIALECT = Dialect(
    request=request,
    scores=scores,
    form="prompt",
    score_kind=ScoreKind.LOG_ODDS,
    batch_size=32,  # --max-client-batch-size; more inputs give status 422
    info={"/info": INFO},
    longest="max_input_length",
    most="max_client_batch_size",
)
