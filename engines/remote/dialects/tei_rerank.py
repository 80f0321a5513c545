"""text-embeddings-inference, POST /rerank, for models with one label: the prompt as a pair of texts.

TEI gives query and text to the tokenizer as a pair and applies no template. Tokenizers that put nothing between the two
(Qwen2) give the ids of the prompt if they always split where the document's piece begins.
"""

from typing import Any

from engines.base import ScoreKind
from engines.remote.dialects import tei
from engines.remote.dialects.base import Batch, Dialect, DialectRequest, Value, items, ranked


def request(batch: Batch) -> DialectRequest:
    body = {"query": batch.query, "texts": list(batch.inputs), "raw_scores": True, "truncate": False}
    return DialectRequest("/rerank", body)


def scores(document: Any) -> list[Value]:
    return ranked(items(document), "score")


DIALECT = Dialect(
    request=request,
    scores=scores,
    form="halves",
    score_kind=ScoreKind.LOG_ODDS,
    batch_size=32,
    info={"/info": tei.INFO},
    longest=tei.DIALECT.longest,
    most=tei.DIALECT.most,
)
