"""vLLM, POST /score, for models with one label and a server without a chat template.

Such a server tokenises query + document as one string, so the prompt arrives intact. A template on the server
(--chat-template, or one in the model's configuration) would put a prompt inside a prompt.
"""

from typing import Any

from engines.base import ScoreKind
from engines.remote.dialects import vllm
from engines.remote.dialects.base import Batch, Dialect, DialectRequest, Value, ranked, take


def request(batch: Batch) -> DialectRequest:
    # old versions understand text_1 and text_2, but not `queries` and `documents`
    body = {"model": batch.model, "text_1": batch.query, "text_2": list(batch.inputs), "use_activation": False}
    return DialectRequest("/score", body)


def scores(document: Any) -> list[Value]:
    return ranked(take(document, "data", list), "score")


DIALECT = Dialect(
    request=request,
    scores=scores,
    form="halves",
    score_kind=ScoreKind.LOG_ODDS,
    batch_size=32,
    info=vllm.INFO,
    longest=vllm.DIALECT.longest,
    needs_model=True,
)
