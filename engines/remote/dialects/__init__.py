"""Dialects by the name that a config gives. They import no HTTP library."""

from engines.remote.dialects import baseten, cohere, infinity, jina, tei, tei_rerank, vllm, vllm_rerank, vllm_score
from engines.remote.dialects.base import Dialect

DIALECTS: dict[str, Dialect] = {
    "baseten": baseten.DIALECT,
    "cohere": cohere.DIALECT,
    "infinity": infinity.DIALECT,
    "jina": jina.DIALECT,
    "tei": tei.DIALECT,
    "tei-rerank": tei_rerank.DIALECT,
    "vllm": vllm.DIALECT,
    "vllm-rerank": vllm_rerank.DIALECT,
    "vllm-score": vllm_score.DIALECT,
}
