"""Loading a causal reranker or its classifier conversion: backbone, score head, tokenizer, device, precision.

Imports torch and transformers; `engines.torch_engine` imports this when an engine is made.
"""

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
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

from engines import packed
from engines.base import BadOptions, EngineUnavailable
from engines.revision import weights_revision
from engines.template import Labels

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# What would change the scores and is not computed here; None or absent in Qwen2, Qwen3 and Llama.
UNSUPPORTED = ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "logit_scale")


class Checkpoint(NamedTuple):
    architecture: str
    max_tokens: int | None  # the positions that the model knows
    backbone: nn.Module  # ids to hidden states, with packed attention
    head: Tensor | None  # float32 [hidden]: row of the positive label minus row of the negative one
    embedding: Tensor | None  # a causal checkpoint's output rows [vocabulary, hidden], until its head is read
    tokenizer: Tokenizer
    revision: str


def load(model: str, revision: str | None, labels: Labels) -> Checkpoint:
    """A checkpoint in its own dtype on the CPU, from safetensors only. Raises EngineUnavailable."""
    try:
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        config = AutoConfig.from_pretrained(model, revision=revision)
        architecture = (config.architectures or ["none"])[0]
        auto = _auto_class(architecture)
        found: Any = auto.from_pretrained(
            model, revision=revision, dtype="auto", use_safetensors=True, config=config, output_loading_info=True
        )
        loaded, report = found
        tokenizer = load_tokenizer(model, revision)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EngineUnavailable(
            f"model {model!r} cannot be loaded: {reason} Expected a folder with a checkpoint, or a name on the hub"
        ) from None
    if report["missing_keys"]:  # transformers would fill them with random numbers
        raise EngineUnavailable(f"model {model!r} lacks the weights {', '.join(sorted(report['missing_keys']))}")
    for feature in UNSUPPORTED:
        if getattr(config, feature, None) is not None:
            raise EngineUnavailable(f"model {model!r} sets {feature}, which the packed forward does not support")
    known = loaded.get_input_embeddings().num_embeddings
    if tokenizer.get_vocab_size() > known:
        raise EngineUnavailable(
            f"model {model!r} knows {known} tokens and its tokenizer has {tokenizer.get_vocab_size()}: another model's?"
        )
    loaded.set_attn_implementation(packed.NAME)
    causal = auto is AutoModelForCausalLM
    return Checkpoint(
        architecture=architecture,
        max_tokens=getattr(config, "max_position_embeddings", None),
        backbone=loaded.base_model,
        head=None if causal else classifier_head(loaded, labels),
        embedding=loaded.get_output_embeddings().weight if causal else None,
        tokenizer=tokenizer,
        revision=getattr(config, "_commit_hash", None) or weights_revision(model),
    )


def place(backbone: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The backbone on its device with its weights in `dtype`.

    Buffers keep theirs: rotary frequencies in 16 bit would turn long prompts by whole radians.
    """
    for parameter in backbone.parameters():
        parameter.data = parameter.data.to(dtype)
    return backbone.to(device).eval()


def load_tokenizer(model: str, revision: str | None) -> Tokenizer:
    """The tokenizer of tokenizer.json as it stands there.

    Not AutoTokenizer: for every checkpoint of model type qwen2 transformers 5 puts Qwen2's own normaliser and
    pre-tokeniser in the place of the file's (tokenization_auto.py, MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS).
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

    Two labels are found by name, in either order; a single label's row is the log-odds itself, as vLLM's
    from_2_way_softmax conversion makes it. Raises EngineUnavailable for any other set of labels.
    """
    score = getattr(model, "score", None)
    if not isinstance(score, nn.Linear) or score.bias is not None:
        raise EngineUnavailable("the checkpoint has no linear head `score` without a bias, as causal classifiers have")
    weight = score.weight.detach().float()
    if len(weight) == 1:
        return weight[0]
    names = {name: int(index) for index, name in (model.config.id2label or {}).items()}
    if set(names) != {labels.positive, labels.negative}:
        raise EngineUnavailable(
            f"the checkpoint's labels are {sorted(names)}, expected {labels.positive!r} and {labels.negative!r}: "
            "set id2label in its config.json, or use a template with these labels"
        )
    return weight[names[labels.positive]] - weight[names[labels.negative]]


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA, else MPS, else the CPU. Raises EngineUnavailable."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, here in available.items() if here))
    kind = name.partition(":")[0]
    if not available.get(kind, False):
        here = ", ".join(kind for kind, is_here in available.items() if is_here)
        raise EngineUnavailable(f"device {name!r} is not available here; available are {here}")
    return torch.device(name)


def pick_precision(name: Precision, device: torch.device, *, allow_slow: bool) -> str:
    """The precision to run in. `auto`: bf16 where the device computes it fast, else fp16 on a GPU, fp32 on a CPU."""
    if name == "fp16" and device.type == "cpu" and not allow_slow:
        # 21 to 45 GFLOP/s against about 600 in bf16 and 131 in fp32, on 2 AVX512-BF16 cores
        raise BadOptions("precision fp16 on a CPU is about 15 times slower than bf16: use bf16 or fp32, or allow_slow")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "mps":
        return "fp16"
    # bf16 is 0.2 to 4.5 times as fast as fp32 depending on the CPU's instructions: ask the CPU, not a table
    return "bf16" if _product_s(torch.bfloat16) * 1.5 < _product_s(torch.float32) else "fp32"


def _product_s(dtype: torch.dtype) -> float:
    """Seconds of one 512 x 512 matrix product on the CPU, the best of some that take about 25 ms together."""
    matrix = torch.ones(512, 512, dtype=dtype)
    multiply: Callable[[], Tensor] = lambda: matrix @ matrix  # noqa: E731
    multiply()
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < 0.025:
        before = time.perf_counter()
        multiply()
        best = min(best, time.perf_counter() - before)
    return best


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
