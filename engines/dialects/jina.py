"""Jina's POST /v1/rerank (https://api.jina.ai): as Cohere's, without the documents in the answer."""

from dataclasses import replace

from engines.dialects import cohere
from engines.dialects.base import Batch, Request


def request(batch: Batch) -> Request:
    return Request("/v1/rerank", {**cohere.body(batch), "return_documents": False})


DIALECT = replace(cohere.DIALECT, request=request)
