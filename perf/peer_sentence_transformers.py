"""sentence-transformers' CrossEncoder over the causal checkpoint as a peer's process, in an environment of its own.

It renders the prompt with a chat template and tokenises it as a whole.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from perf.peer_protocol import Loaded, serve


@contextmanager
def loaded(spec: Mapping[str, Any]) -> Iterator[Loaded]:
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    dtype = {"fp32": "float32", "bf16": "bfloat16"}[spec["precision"]]
    transformer = Transformer(
        spec["causal"],
        transformer_task="text-generation",
        model_kwargs={"dtype": dtype},
        processor_kwargs={"chat_template": spec["chat_template"], "padding_side": "left"},
    )
    # by hand, because the class itself looks for "yes" and "no"
    positive, negative = (transformer.tokenizer.convert_tokens_to_ids(label) for label in spec["labels"])
    model = CrossEncoder(modules=[transformer, LogitScore(positive, negative)], device="cpu")

    def score(pairs: Sequence[Sequence[str]]) -> list[float]:
        logits = model.predict([tuple(pair) for pair in pairs], activation_fn=torch.nn.Identity())
        scores: list[float] = logits.tolist()
        return scores

    packages = ("sentence-transformers", "transformers", "torch")
    about = {"dtype": str(transformer.model.dtype), **{name: version(name) for name in packages}}
    yield Loaded(score, about, os.getpid())


if __name__ == "__main__":
    serve(loaded)
