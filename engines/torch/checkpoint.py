"""Loading a causal reranker or its classifier conversion: backbone, score head, tokenizer, device, precision.

Imports torch and transformers; `engines.torch.engine` imports this when an engine is made.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.utils import logging
from transformers.utils.hub import cached_file

from engines.base import BadOptions, EngineUnavailable, first_line
from engines.model_files import check_vocabulary, is_demonstration, label_rows, weights_revision
from engines.model_settings import check_transformer
from engines.prompts.template import Labels
from engines.torch import quantized
from engines.torch.forward import packed
from engines.torch.memory import give_back

Precision = Literal["auto", "fp32", "bf16", "fp16", "int8", "fp8", "fp8-sim"]
# Type of everything that is not 8 bit: embeddings, norms, attention, activations between the layers. On a CPU float32
# costs int8 no time: its products are converted from int32 either way.
DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.float32,
    "fp8": torch.bfloat16,
    "fp8-sim": torch.bfloat16,
}
CAST_ROWS = 8192  # rows of a weight that are cast at a time
# Settings that change the scores and are not computed here; None or absent in Qwen2, Qwen3 and Llama.
UNSUPPORTED = ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "logit_scale")


class Checkpoint(NamedTuple):
    architecture: str
    max_tokens: int | None  # number of positions that the model knows
    backbone: nn.Module  # from ids to hidden states, with packed attention
    head: Tensor | None  # float32 [hidden]: row of the positive label minus row of the negative one
    embedding: Tensor | None  # a causal checkpoint's output rows [vocabulary, hidden], until its head is read
    tokenizer: Tokenizer
    revision: str
    scales: Mapping[str, Tensor]  # for a ModelOpt export, whose weights are codes: "layers.0.mlp.up_proj.weight_scale"
    demonstration: bool = False  # config.json declares that the model only shows how the harness works


class Opened(NamedTuple):
    """A whole model as its checkpoint has it, and its tokenizer."""

    model: Any  # a PreTrainedModel in the checkpoint's own dtype on the CPU
    architecture: str
    tokenizer: Tokenizer
    revision: str
    scales: Mapping[str, Tensor]


def open_model(model: str, revision: str | None) -> Opened:
    """A checkpoint with all of its weights, from safetensors only. Raises EngineUnavailable."""
    check_transformer(model, revision)
    try:
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
        architecture = (config.architectures or ["none"])[0]
        auto = _auto_class(architecture)
        exported = _forget_export(config, model)
        with _unexpected_weights_unmentioned(exported):
            opened: Any = auto.from_pretrained(
                model, revision=revision, dtype="auto", use_safetensors=True, config=config, output_loading_info=True
            )
        loaded, report = opened
        scales = _read_scales(model, revision, f"{loaded.base_model_prefix}.") if exported else {}
        tokenizer = load_tokenizer(model, revision)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise EngineUnavailable(
            f"model {model!r} cannot be loaded: {first_line(error)} Expected a folder with a checkpoint, or a hub name"
        ) from None
    if report["missing_keys"]:  # transformers would fill them with random numbers
        raise EngineUnavailable(f"model {model!r} lacks the weights {', '.join(sorted(report['missing_keys']))}")
    check_vocabulary(model, loaded.get_input_embeddings().num_embeddings, tokenizer.get_vocab_size())
    commit = getattr(config, "_commit_hash", None) or weights_revision(model)
    return Opened(loaded, architecture, tokenizer, commit, scales)


def load(model: str, revision: str | None, labels: Labels) -> Checkpoint:
    """The parts of a checkpoint that scoring needs, in its own dtype on the CPU. Raises EngineUnavailable."""
    opened = open_model(model, revision)
    loaded, config = opened.model, opened.model.config
    refuse_unsupported(config, model)
    loaded.set_attn_implementation(packed.NAME)
    causal = opened.architecture.endswith("ForCausalLM")
    return Checkpoint(
        architecture=opened.architecture,
        max_tokens=getattr(config, "max_position_embeddings", None),
        backbone=loaded.base_model,
        head=None if causal else classifier_head(loaded, labels),
        embedding=loaded.get_output_embeddings().weight if causal else None,
        tokenizer=opened.tokenizer,
        revision=opened.revision,
        scales=opened.scales,
        demonstration=is_demonstration(config),
    )


def refuse_unsupported(config: Any, model: str) -> None:
    """Raise EngineUnavailable for a model whose scores the packed forward would change."""
    for feature in UNSUPPORTED:
        if getattr(config, feature, None) is not None:
            raise EngineUnavailable(f"model {model!r} sets {feature}, which the packed forward does not support")


def _forget_export(config: Any, model: str) -> bool:
    """Whether this is ModelOpt's FP8 export. Its entry is removed from the config: transformers reads codes as numbers.

    Raises EngineUnavailable for any other quantised checkpoint.
    """
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return False
    method, kind = settings.get("quant_method"), settings.get("quant_algo")
    if (method, kind) != ("modelopt", "FP8") or settings.get("kv_cache_scheme") is not None:
        cache = " with an 8-bit KV cache" if settings.get("kv_cache_scheme") is not None else ""
        raise EngineUnavailable(
            f"model {model!r} is quantised by {method!r} to {kind!r}{cache}: expected full weights, or FP8 of "
            "modelopt as `crispbench quantize` writes it"
        )
    del config.quantization_config
    return True


@contextmanager
def _unexpected_weights_unmentioned(exported: bool) -> Iterator[None]:
    """Keep transformers from printing a table of the scales, which it does not know."""
    before = logging.get_verbosity()
    if exported:
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _read_scales(model: str, revision: str | None, prefix: str) -> dict[str, Tensor]:
    """All scales of an export, by their names below the backbone: one of weights and one of inputs per layer."""
    index = find_file(model, revision, "model.safetensors.index.json")
    files = set(json.loads(index.read_text())["weight_map"].values()) if index else {"model.safetensors"}
    scales: dict[str, Tensor] = {}
    for name in sorted(files):
        with safe_open(str(cached_file(model, name, revision=revision)), framework="pt") as file:
            for key in file.keys():  # not a mapping: it has only this method
                if key.endswith("_scale"):
                    scales[key.removeprefix(prefix)] = file.get_tensor(key).float()
    weights = {key.removesuffix(".weight_scale") for key in scales if key.endswith(".weight_scale")}
    inputs = {key.removesuffix(".input_scale") for key in scales if key.endswith(".input_scale")}
    numbers = all(scale.ndim == 0 and 0 < scale < float("inf") for scale in scales.values())
    if not weights or weights != inputs or not numbers:
        raise EngineUnavailable(
            f"model {model!r} has {len(weights)} scales of weights and {len(inputs)} of inputs: expected one finite "
            "number over 0 of each for every quantised layer"
        )
    return scales


def find_file(model: str, revision: str | None, name: str) -> Path | None:
    """A file of a checkpoint, from its folder or the hub; None if there is no file of that name."""
    path = cached_file(model, name, revision=revision, _raise_exceptions_for_missing_entries=False)
    return Path(path) if path else None


def place(backbone: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The backbone on its device with its weights in `dtype`.

    Buffers keep their dtype: rotary frequencies in 16 bit would rotate long prompts by whole radians.
    """
    for parameter in backbone.parameters():
        if parameter.dtype != dtype:
            parameter.data = _cast(parameter.data, dtype)
    return backbone.to(device).eval()


def _cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast in parts, so that an embedding of 150,000 tokens is in memory only once."""
    cast = torch.empty_like(weight, dtype=dtype)
    for into, rows in zip(torch.split(cast, CAST_ROWS), torch.split(weight, CAST_ROWS), strict=True):
        into.copy_(rows)
        give_back(rows)
    return cast


def load_tokenizer(model: str, revision: str | None) -> Tokenizer:
    """The tokenizer exactly as tokenizer.json defines it.

    AutoTokenizer would not do: for every checkpoint of model type qwen2 transformers 5 replaces the file's normaliser
    and pre-tokeniser by Qwen2's (tokenization_auto.py, MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS).
    """
    path = cached_file(model, "tokenizer.json", revision=revision)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise EngineUnavailable(f"model {model!r}: its tokenizer.json cannot be read: {error}") from None


def _auto_class(architecture: str) -> type[AutoModelForCausalLM] | type[AutoModelForSequenceClassification]:
    if architecture.endswith("ForCausalLM"):
        return AutoModelForCausalLM
    if architecture.endswith("ForSequenceClassification"):
        return AutoModelForSequenceClassification
    raise EngineUnavailable(f"architecture {architecture!r}: expected ...ForCausalLM or ...ForSequenceClassification")


def classifier_head(model: PreTrainedModel, labels: Labels) -> Tensor:
    """The row whose product with a hidden state is the log-odds: float32 [hidden].

    Two labels are found by name, in either order. A single label's row is the log-odds itself, as vLLM's
    from_2_way_softmax conversion makes it. Raises EngineUnavailable for any other set of labels.
    """
    score = getattr(model, "score", None)
    if not isinstance(score, nn.Linear) or score.bias is not None:
        raise EngineUnavailable("the checkpoint has no linear head `score` without a bias, as causal classifiers have")
    weight = score.weight.detach().float()
    if len(weight) == 1:
        return weight[0]
    positive, negative = label_rows(model.config.id2label, labels)
    return weight[positive] - weight[negative]


def pick_precision(name: Precision, device: torch.device, *, allow_slow: bool) -> str:
    """The precision to run in. `auto`: bf16 where the device computes it fast, or else fp16 on a GPU, fp32 on a CPU."""
    if name == "fp16" and device.type == "cpu" and not allow_slow:
        # 21 to 45 GFLOP/s against about 600 in bf16 and 131 in fp32, on 2 AVX512-BF16 cores
        raise BadOptions("precision fp16 on a CPU is about 15 times slower than bf16: use bf16 or fp32, or allow_slow")
    if name != "auto":
        quantized.require_device(name, device)
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "mps":
        return "fp16"
    # bf16 is 0.2 to 4.5 times as fast as fp32, depending on the CPU's instructions: measured, not looked up
    return "bf16" if _product_s(torch.bfloat16) * 1.5 < _product_s(torch.float32) else "fp32"


def _product_s(dtype: torch.dtype) -> float:
    """Seconds of one 512 x 512 matrix product on the CPU: the best of the products that fit into 25 ms."""
    matrix = torch.ones(512, 512, dtype=dtype)
    multiply: Callable[[], Tensor] = lambda: matrix @ matrix  # noqa: E731
    multiply()
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < 0.025:
        before = time.perf_counter()
        multiply()
        best = min(best, time.perf_counter() - before)
    return best


def size_bytes(backbone: "nn.Module") -> int:
    """Bytes of the weights in memory, without the one row of the score head."""
    return sum(tensor.nbytes for tensor in (*backbone.parameters(), *backbone.buffers()))
