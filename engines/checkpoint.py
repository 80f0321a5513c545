"""Loading a causal reranker or its classifier conversion: backbone, score head, tokenizer, device, precision.

Imports torch and transformers; `engines.torch_engine` imports this when an engine is made.
"""

import time
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging

from engines import packed
from engines.base import BadOptions, EngineUnavailable
from engines.revision import weights_revision
from engines.template import Labels

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
        loaded = auto.from_pretrained(model, revision=revision, dtype="auto", use_safetensors=True, config=config)
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision).backend_tokenizer
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EngineUnavailable(
            f"model {model!r} cannot be loaded: {reason} Expected a folder with a checkpoint, or a name on the hub"
        ) from None
    loaded.set_attn_implementation(packed.NAME)
    if getattr(config, "use_sliding_window", False):
        raise EngineUnavailable(f"model {model!r} uses sliding-window attention, which packing does not support")
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
    score = model.get_submodule("score")
    assert isinstance(score, nn.Linear)
    weight = score.weight.detach().float()
    names = {name: int(index) for index, name in (model.config.id2label or {}).items()}
    if len(names) == 1:
        return weight[0]
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
