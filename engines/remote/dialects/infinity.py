"""infinity (michaelfeil/infinity), POST /classify: label probabilities of the transformers pipeline.

Version 0.0.78 accepts and ignores `raw_scores`, so it is sent as false and log-odds come from the probabilities.
"""

from typing import Any

from engines.base import ScoreKind
from engines.remote.dialects.base import Batch, Dialect, DialectRequest, Value, labelled, take


def request(batch: Batch) -> DialectRequest:
    return DialectRequest("/classify", {"model": batch.model, "input": list(batch.inputs), "raw_scores": False})


def scores(document: Any) -> list[Value]:
    return [labelled(answer) for answer in take(document, "data", list)]


DIALECT = Dialect(
    request=request,
    scores=scores,
    form="prompt",
    score_kind=ScoreKind.PROBABILITY,
    batch_size=32,
    info={"/models": ("id", "backend", "dtype", "device")},
    needs_model=True,
    strips=True,  # fastapi_schemas: StringConstraints(strip_whitespace=True)
    counts_tokens=False,  # without --lengths-via-tokenize it counts characters: 78,197 for 16,828 tokens
    cuts=True,  # the pipeline is called with truncation=True
)
