"""The reference implementation (mxbai-rerank) as a peer's process, in an environment of its own.

On a CPU it has only float32: its `TorchModule.to` converts every 16-bit type to float32.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import groupby
from typing import Any

from perf.peer_protocol import Loaded, serve


@contextmanager
def loaded(spec: Mapping[str, Any]) -> Iterator[Loaded]:
    from mxbai_rerank import MxbaiRerankV2  # type: ignore[import-not-found]

    model = MxbaiRerankV2(spec["causal"], device="cpu")

    def score(pairs: Sequence[Sequence[str]]) -> list[float]:
        scores: list[float] = []
        for query, group in groupby(pairs, key=lambda pair: pair[0]):
            documents = [document for _, document in group]
            results = model.rank(query, documents, top_k=len(documents), sort=False, return_documents=False)
            scores += [result.score for result in results]
        return scores

    packages = ("mxbai-rerank", "transformers", "torch")
    about = {"dtype": str(model.model.dtype), **{name: version(name) for name in packages}}
    yield Loaded(score, about, os.getpid())


if __name__ == "__main__":
    serve(loaded)
