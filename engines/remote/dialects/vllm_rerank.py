"""vLLM, POST /rerank, for models with one label and a server without a chat template; see vllm_score."""

from dataclasses import replace
from typing import Any

from engines.remote.dialects import vllm_score
from engines.remote.dialects.base import Batch, DialectRequest, Value, ranked, take


def request(batch: Batch) -> DialectRequest:
    body = {
        "model": batch.model,
        "query": batch.query,
        "documents": list(batch.inputs),
        "top_n": len(batch.inputs),
        "use_activation": False,
    }
    return DialectRequest("/rerank", body)


def scores(document: Any) -> list[Value]:
    return ranked(take(document, "results", list), "relevance_score")


DIALECT = replace(vllm_score.DIALECT, request=request, scores=scores)
