"""Jina's POST /v1/rerank (https://api.jina.ai): like Cohere's, without the documents in the answer."""

from dataclasses import replace

from engines.remote.dialects import cohere
from engines.remote.dialects.base import Batch, DialectRequest


def request(batch: Batch) -> DialectRequest:
    return DialectRequest("/v1/rerank", {**cohere.body(batch), "return_documents": False})


DIALECT = replace(cohere.DIALECT, request=request)
