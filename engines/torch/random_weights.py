"""A model of a checkpoint's shape with random weights: as fast as the real one, with scores that mean nothing.

Needs config.json and tokenizer.json, no weights. Imports torch and transformers.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoConfig, AutoModel
from transformers.initialization import no_init_weights

from engines.base import EngineUnavailable, first_line
from engines.model_files import DEMONSTRATION, TEMPLATE, check_vocabulary
from engines.model_settings import check_tokenizer, check_transformer
from engines.torch.checkpoint import Checkpoint, load_tokenizer, refuse_unsupported
from engines.torch.forward import packed

SEED = 0
_from_config: Callable[..., Any] = AutoModel.from_config  # transformers gives it no types
SPREAD = 0.02  # standard deviation of the weights, Qwen2's initializer_range: activations stay finite in 16 bit


def build(
    model: str, revision: str | None, tokenizer: str | None, *, dtype: torch.dtype, device: torch.device
) -> Checkpoint:
    """The shape of `model`, filled on the device in `dtype` without a larger copy. Raises EngineUnavailable."""
    check_transformer(model, revision)
    if tokenizer:
        check_tokenizer(tokenizer)
    try:
        config: Any = AutoConfig.from_pretrained(model, revision=revision)
        refuse_unsupported(config, model)
        demonstration = vars(config).pop(DEMONSTRATION, False) is True  # not a part of the shape
        vars(config).pop(TEMPLATE, None)
        shape = hashlib.sha256(config.to_json_string().encode()).hexdigest()
        words = load_tokenizer(tokenizer or model, None if tokenizer else revision)
        config.quantization_config = None  # the engine's option `precision` decides, not the checkpoint's
        with no_init_weights(), torch.device(device):
            backbone: Any = _from_config(config, dtype=dtype, attn_implementation=packed.NAME)
    except (OSError, ValueError, KeyError) as error:
        raise EngineUnavailable(
            f"the shape of model {model!r} cannot be read: {first_line(error)} Expected a folder with config.json and "
            "tokenizer.json, or a name on the hub; option tokenizer names another source of tokenizer.json"
        ) from None
    check_vocabulary(model, config.vocab_size, words.get_vocab_size(), next_step="Set option tokenizer")
    generator = torch.Generator(device).manual_seed(SEED)
    fill(backbone, generator)
    head = torch.empty(config.hidden_size, device=device).normal_(std=SPREAD, generator=generator)
    return Checkpoint(
        architecture=(config.architectures or [type(backbone).__name__])[0],
        max_tokens=getattr(config, "max_position_embeddings", None),
        backbone=backbone,
        head=head,
        embedding=None,
        tokenizer=words,
        revision=f"no weights; config sha256:{shape[:16]}",
        scales={},
        demonstration=demonstration,
    )


@torch.no_grad()
def fill(backbone: torch.nn.Module, generator: torch.Generator) -> None:
    """Norms become one, biases zero, all other weights normal. Buffers such as the rotary frequencies stay."""
    for name, parameter in backbone.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=SPREAD, generator=generator)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
