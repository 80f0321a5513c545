"""Cross-encoders in sentence-transformers: the raw logit of a classifier with one label, in float32."""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import PositiveInt

from engines.base import (
    BadOptions,
    Ceiling,
    Counts,
    Description,
    Engine,
    EngineUnavailable,
    Options,
    ScoreKind,
    ScoringFailed,
    first_line,
    not_utf8,
    require,
)
from engines.model_files import hub_commit, is_demonstration, weights_revision
from engines.sentence_transformers import checkpoint
from engines.sentence_transformers.checkpoint import CheckpointOptions
from engines.torch import work

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SAFE_WEIGHTS = "model.safetensors"


class CrossEncoderOptions(CheckpointOptions):
    max_tokens: PositiveInt | None = None  # limit of query and document together; None: the model's own limit


class CrossEncoder(Engine):
    """The checkpoint's own activation is not applied, and the head runs in float32.

    mxbai-rerank-base-v2 ships a sigmoid in bf16 that rounds every strong candidate to 1.0, so ties keep the first
    stage's order: MAP 0.661 against 0.742 with logits (ggozad/haiku.rag, pull request 529).
    """

    options_type: ClassVar[type[Options]] = CrossEncoderOptions
    options: CrossEncoderOptions

    @classmethod
    def preflight(cls, options: CrossEncoderOptions) -> Sequence[str]:
        return checkpoint.preflight(options)

    def __init__(self, options: CrossEncoderOptions) -> None:
        super().__init__(options)
        from engines.torch.device import described

        library, path = checkpoint.check(options)
        try:
            if not library.util.is_sentence_transformer_model(path, revision=options.revision):
                _refuse_guesses(path, options)
            self._model = library.CrossEncoder(
                path,
                revision=options.revision,
                device=None if options.device == "auto" else options.device,
                max_length=options.max_tokens,
                model_kwargs={"dtype": checkpoint.DTYPES[options.precision], "use_safetensors": True},
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineUnavailable(f"model {options.model!r} cannot be loaded: {first_line(error)}") from None
        self._check_labels()
        if not self._causal:  # a causal model's head may be its embedding
            _refuse_random_head(path, self._model.model, options)
        self._head_in_float32()
        library_of_tensors = require("torch", extra="sentence-transformers")
        self._identity = library_of_tensors.nn.Identity()
        self._measure_work(getattr(library_of_tensors, checkpoint.DTYPES[options.precision]))
        self._description = Description(
            model=options.model,
            revision=weights_revision(path) or hub_commit(self._model) or options.revision or "",
            precision=options.precision,
            max_tokens=self._model.max_seq_length,
            device=described(self._model.device),
            score_kind=ScoreKind.LOGIT,
            demonstration=is_demonstration(self._model.config),
            details={"sentence_transformers": str(library.__version__)},
        )

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        if not pairs:
            return []
        try:
            self._count_cut(pairs)
            logits: Tensor = self._model.predict(
                [(query, document) for query, document in pairs],
                batch_size=self.options.batch_size,
                activation_fn=self._identity,
                convert_to_tensor=True,
                show_progress_bar=False,
            )
        except (UnicodeEncodeError, TypeError) as error:
            raise not_utf8(error) from None
        if not logits.isfinite().all():
            raise ScoringFailed(f"the model's logits in {self.options.precision} are not finite: use bf16 or fp32")
        return [float(logit) for logit in logits.float().cpu()]

    def describe(self) -> Description:
        return self._description

    def counts(self) -> Counts:
        while self._batches:
            lengths, width = self._batches.popleft()
            self._counts += work.padded(self._shape, lengths.tolist(), width, causal=self._causal)
        return self._counts

    def ceiling(self) -> Ceiling | None:
        return None if self._shape is None else self._ceiling(self._shape)

    def close(self) -> None:
        self._model.to("meta")  # frees the weights even if someone still holds the engine

    def _measure_work(self, dtype: "torch.dtype") -> None:
        """Read the model's shape, and from now on keep the lengths of every batch that the model receives."""
        from engines.torch import ceiling

        model, size = self._model.model, dtype.itemsize
        self._shape = ceiling.shape_of(model, model.config, weight_bytes=size, activation_bytes=size)
        self._ceiling = partial(
            ceiling.measure, precision=self.options.precision, dtype=dtype, device=self._model.device
        )
        self._counts = Counts()
        self._batches: deque[tuple[Tensor, int]] = deque()  # lengths stay on the device: reading them waits for it
        self._model[0].register_forward_pre_hook(self._keep_lengths)  # the first module holds the transformer

    def _keep_lengths(self, module: "nn.Module", inputs: "tuple[Mapping[str, Tensor]]") -> None:
        mask = inputs[0].get("attention_mask")
        if mask is not None:
            self._batches.append((mask.sum(-1), mask.shape[-1]))

    def _count_cut(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Count the texts that will be cut; unknown for a causal model, which puts its own template around the pair."""
        if self._causal:
            return
        queries, documents = map(list, zip(*pairs, strict=True))
        encoded = self._model.tokenizer(queries, documents, truncation=False, verbose=False)
        cut = sum(len(ids) > self._model.max_seq_length for ids in encoded["input_ids"])
        self._counts += Counts(truncated=cut)

    def _check_labels(self) -> None:
        model, config = self.options.model, self._model.config
        self._causal = (config.architectures or [""])[0].endswith("ForCausalLM")
        if self._model.num_labels != 1:
            labels = ", ".join(str(label) for label in config.id2label.values())
            raise EngineUnavailable(
                f"model {model!r} is a classifier with {self._model.num_labels} labels ({labels}); expected one label: "
                'use `kind: torch`, which computes logit("1") - logit("0") by name'
            )
        padding = self._model.tokenizer.pad_token_id
        if hasattr(self._model.model, "score") and config.pad_token_id != padding:
            # transformers reads the score at the last token that is not config.pad_token_id
            raise EngineUnavailable(
                f"model {model!r} pads with token {padding} and its config.json has pad_token_id "
                f"{config.pad_token_id}: the score of a short pair would be read at its padding; make both equal"
            )
        if self._causal and self.options.precision != "fp32":
            raise BadOptions(
                f"precision {self.options.precision!r}: sentence-transformers subtracts the two logits of the causal "
                f"model {model!r} in 16 bit, which creates ties: use precision fp32, or `kind: torch`"
            )

    def _head_in_float32(self) -> None:
        """Near 18 the step between bf16 numbers is about 0.07, so the logits of many documents would be equal."""
        torch = require("torch", extra="sentence-transformers")
        if self.options.precision == "fp32":
            return
        for module in self._model.modules():
            if isinstance(module, torch.nn.Linear) and module.out_features == 1:
                module.float()
                module.register_forward_pre_hook(_in_float32)


def _refuse_guesses(path: str, options: CrossEncoderOptions) -> None:
    """Refuse models for which sentence-transformers would guess: labels "yes" and "no", or a random score head."""
    transformers = require("transformers", extra="sentence-transformers")
    config = transformers.AutoConfig.from_pretrained(path, revision=options.revision, trust_remote_code=False)
    architecture = (config.architectures or ["none"])[0]
    if architecture.endswith("ForCausalLM"):
        raise EngineUnavailable(
            f"model {options.model!r} is a {architecture} without modules.json, so the tokens that mean relevant and "
            "not relevant are unknown: use `kind: torch` with a template, which names them"
        )
    if not architecture.endswith("ForSequenceClassification"):
        raise EngineUnavailable(
            f"model {options.model!r} is a {architecture}, which has no trained score head: "
            "expected ...ForSequenceClassification, or use `kind: bi_encoder` for embeddings"
        )


def _refuse_random_head(path: str, model: "nn.Module", options: CrossEncoderOptions) -> None:
    """Refuse a head that the file lacks: transformers fills it with random numbers and only logs a warning."""
    stored = _stored_names(path, options.revision)
    body = f"{model.base_model_prefix}."
    missing = [name for name in model.state_dict() if not name.startswith(body) and name not in stored]
    if stored and missing:
        raise EngineUnavailable(
            f"model {options.model!r} lacks the weights of its score head ({missing[0]}), which would be random: "
            "expected a checkpoint that was trained as a classifier"
        )


def _stored_names(path: str, revision: str | None) -> set[str]:
    """Names of the weights in a checkpoint's safetensors files; empty without such files."""
    hub = require("transformers.utils.hub", extra="sentence-transformers")
    safetensors = require("safetensors", extra="sentence-transformers")
    for file in (SAFE_WEIGHTS, f"{SAFE_WEIGHTS}.index.json"):
        location = hub.cached_file(path, file, revision=revision, _raise_exceptions_for_missing_entries=False)
        if location is not None and file == SAFE_WEIGHTS:
            with safetensors.safe_open(location, "pt") as weights:
                return set(weights.keys())
        if location is not None:
            return set(json.loads(Path(location).read_text(encoding="utf-8"))["weight_map"])
    return set()


def _in_float32(module: "nn.Module", inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.float() for value in inputs)
