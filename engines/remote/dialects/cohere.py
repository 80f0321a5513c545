"""Cohere's POST /v2/rerank (https://api.cohere.com): the service decides on prompt, tokenizer and truncation."""

from typing import Any

from engines.base import ScoreKind
from engines.remote.dialects.base import Batch, Dialect, DialectRequest, Value, ranked, take


def request(batch: Batch) -> DialectRequest:
    return DialectRequest("/v2/rerank", body(batch))


def body(batch: Batch) -> dict[str, Any]:
    return {
        "model": batch.model,
        "query": batch.query,
        "documents": list(batch.inputs),
        "top_n": len(batch.inputs),
    }


def scores(document: Any) -> list[Value]:
    return ranked(take(document, "results", list), "relevance_score")


DIALECT = Dialect(
    request=request,
    scores=scores,
    form="pair",
    score_kind=ScoreKind.OPAQUE,
    batch_size=1000,  # documents per request, as Cohere advises; 10,000 are refused
    info={"/v1/models": ()},
    needs_model=True,
    cuts=True,
)
