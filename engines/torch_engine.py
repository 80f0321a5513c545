"""Causal rerankers and their classifier conversions in PyTorch: log-odds from the rows of two labels."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import ClassVar, Literal, Self

from pydantic import PositiveInt, model_validator

from engines.base import Engine, Options, Pair, ScoringFailed, require
from engines.template import Prompt, PromptEncoder, load_template


class TorchOptions(Options):
    model: str  # a folder, or a name on the hub
    revision: str | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8", "fp8", "fp8-sim"] = "auto"
    template: str = "mxbai-v2-seq"
    instruction: str = ""
    device: str = "auto"
    max_tokens: PositiveInt = 8192  # of the whole prompt; the document is cut to fit
    token_budget: PositiveInt | None = None  # tokens of one packed forward; None: 2048 on a CPU, 16384 elsewhere
    allow_slow: bool = False  # fp16 on a CPU

    @model_validator(mode="after")
    def _template_takes_the_instruction(self) -> Self:
        load_template(self.template).instruction_line(self.instruction)
        return self


class TorchEngine(Engine):
    options_type: ClassVar[type[Options]] = TorchOptions
    options: TorchOptions

    def __init__(self, options: TorchOptions) -> None:
        super().__init__(options)
        template = load_template(options.template)
        torch = require("torch", extra="torch")
        transformers = require("transformers", extra="torch")
        from engines import checkpoint, packed, quantized

        device = checkpoint.pick_device(options.device)
        precision = checkpoint.pick_precision(options.precision, device, allow_slow=options.allow_slow)
        loaded = checkpoint.load(options.model, options.revision, template.labels)
        max_tokens = min(options.max_tokens, loaded.max_tokens or options.max_tokens)
        self._encoder = PromptEncoder(
            template, loaded.tokenizer, max_tokens=max_tokens, instruction=options.instruction
        )
        head = loaded.head
        if head is None:
            assert loaded.embedding is not None
            positive, negative = (loaded.embedding[row].float() for row in self._encoder.label_ids())
            head = positive - negative
        self._head = head.detach().to(device)
        dtype = checkpoint.DTYPES[precision]
        quantized.convert(loaded.backbone, precision, loaded.scales)
        self._backbone = checkpoint.place(loaded.backbone, device, dtype)
        self._budget = options.token_budget or (2048 if device.type == "cpu" else 16384)
        self._score = packed.score
        self._counts: Counter[str] = Counter()
        self._description = {
            "model": options.model,
            "revision": loaded.revision,
            "architecture": loaded.architecture,
            "precision": precision,
            "weights_mb": f"{checkpoint.size_bytes(self._backbone) / 1e6:.1f}",
            "device": checkpoint.device_name(device),
            "template": template.name,
            "template_sha256": template.sha256,
            "tokenizer_sha256": hashlib.sha256(loaded.tokenizer.to_str().encode()).hexdigest(),
            "max_tokens": str(max_tokens),
            "token_budget": str(self._budget),
            "attention": "varlen_attn" if packed.has_kernel(device, dtype) else "sdpa per segment",
            "torch": str(torch.__version__),
            "transformers": str(transformers.__version__),
            **quantized.describe(self._backbone),
        }

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        scores: list[float] = []
        for query, group in groupby(pairs, key=lambda pair: pair.query):
            scores += self._score_query(query, [pair.document for pair in group])
        return scores

    def describe(self) -> Mapping[str, str]:
        return self._description

    def counts(self) -> Mapping[str, int]:
        return dict(self._counts)

    def close(self) -> None:
        self._backbone.to("meta")  # frees the weights, whoever still holds the engine

    def _score_query(self, query: str, documents: Sequence[str]) -> list[float]:
        prompt = self._encoder.encode(query, documents)
        values, computed = self._score(self._backbone, self._head, prompt, budget=self._budget)
        scores: list[float] = values.tolist()
        if not values.isfinite().all():
            bad = next(score for score in scores if score - score != 0)
            raise ScoringFailed(f"the model gave {bad} for query {query[:60]!r}: {self._overflow(prompt)}")
        self._counts["tokens"] += len(prompt.prefix) * len(documents) + sum(map(len, prompt.tails))
        self._counts["computed_tokens"] += computed
        self._counts["truncated"] += prompt.truncated
        self._counts["special_text"] += prompt.special_text
        return scores

    def _overflow(self, prompt: Prompt) -> str:
        """Which layer was the first without a finite output, and what to do."""
        from engines.overflow import first_overflow

        again = partial(self._score, self._backbone, self._head, prompt, budget=self._budget)
        layer = first_overflow(self._backbone, again) or "the score head"
        precision = self._description["precision"]
        advice = "use bf16 or fp32" if precision == "fp16" else "look for NaN among the checkpoint's weights"
        return f"in {precision}, {layer} is the first to overflow or to give NaN; {advice}"
