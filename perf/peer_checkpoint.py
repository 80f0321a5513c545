"""Random-weight checkpoints of the true shape: a causal one, and its two-label classifier with the same weights.

The files are such as transformers 4 and 5 both read, and are written without either.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

WEIGHTS = "model.safetensors"
WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}  # bytes of one number of a layer's matrix


class PeerShape(NamedTuple):
    """Sizes of a Qwen2 decoder. Its output rows are its embeddings, as in both models."""

    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    layers: int
    vocabulary: int = 151936

    @property
    def kv(self) -> int:
        return self.hidden // self.heads * self.kv_heads

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(out, in) of every matrix product of one layer."""
        hidden, wide = self.hidden, self.intermediate
        attention = [(hidden, hidden), (self.kv, hidden), (self.kv, hidden), (hidden, hidden)]
        return [*attention, (wide, hidden), (wide, hidden), (hidden, wide)]

    @property
    def parameters(self) -> int:
        layer = sum(out * into for out, into in self.matrices) + self.hidden + 2 * self.kv + 2 * self.hidden
        return self.vocabulary * self.hidden + self.layers * layer + self.hidden


# from config.json of Qwen2.5-0.5B and Qwen2.5-1.5B, on which mxbai-rerank-base-v2 and -large-v2 are built
SHAPES = {
    "base": PeerShape(hidden=896, heads=14, kv_heads=2, intermediate=4864, layers=24),
    "large": PeerShape(hidden=1536, heads=12, kv_heads=2, intermediate=8960, layers=28),
}


def weights_bytes(shape: PeerShape, precision: str) -> int:
    """Bytes of a model's weights. In int8 everything but the layers' matrices is float32."""
    if precision != "int8":
        return shape.parameters * WEIGHT_BYTES[precision]
    matrices = shape.layers * sum(out * into for out, into in shape.matrices)
    return 4 * (shape.parameters - matrices) + matrices


class Checkpoints(NamedTuple):
    causal: Path
    classifier: Path


def build(shape: PeerShape, tokenizer: Path, folder: Path, *, seed: int) -> Checkpoints:
    """Write both checkpoints below a folder, in bfloat16 as the models are published; existing ones are kept.

    `tokenizer` is a folder with tokenizer.json that knows "0", "1" and "<|endoftext|>".
    """
    made = Checkpoints(folder / "causal", folder / "classifier")
    recipe = json.dumps([*shape, seed, (tokenizer / "tokenizer.json").stat().st_size])
    if (folder / "recipe.json").is_file() and (folder / "recipe.json").read_text() == recipe:
        return made
    from safetensors.torch import save_file
    from tokenizers import Tokenizer

    vocabulary = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    weights = random_weights(shape, seed)
    save_folder(made.causal, tokenizer, settings(shape, vocabulary, "Qwen2ForCausalLM"))
    save_file(weights, made.causal / WEIGHTS, {"format": "pt"})
    rows = [vocabulary.token_to_id(label) for label in ("0", "1")]
    weights["score.weight"] = weights["model.embed_tokens.weight"][rows].clone()
    save_folder(made.classifier, tokenizer, settings(shape, vocabulary, "Qwen2ForSequenceClassification"))
    save_file(weights, made.classifier / WEIGHTS, {"format": "pt"})
    (folder / "recipe.json").write_text(recipe)  # written last, so that an unfinished folder is built again
    return made


def random_weights(shape: PeerShape, seed: int) -> dict[str, Any]:
    """Tensors in bfloat16 by their names in a checkpoint. Matrices are normal with 0.02, Qwen2's initializer_range."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator).mul_(0.02).bfloat16()

    weights = {"model.embed_tokens.weight": normal(shape.vocabulary, shape.hidden)}
    names = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    for number in range(shape.layers):
        layer = f"model.layers.{number}"
        for name, size in zip(names, shape.matrices, strict=True):
            weights[f"{layer}.{name}.weight"] = normal(*size)
        for name, width in (("q", shape.hidden), ("k", shape.kv), ("v", shape.kv)):
            weights[f"{layer}.self_attn.{name}_proj.bias"] = normal(width)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{layer}.{name}.weight"] = torch.ones(shape.hidden, dtype=torch.bfloat16)
    weights["model.norm.weight"] = torch.ones(shape.hidden, dtype=torch.bfloat16)
    return weights


def settings(shape: PeerShape, vocabulary: Any, architecture: str) -> dict[str, Any]:
    """Content of config.json. Transformers 4 and 5 both read rope_theta at the top level."""
    return {
        "architectures": [architecture],
        "model_type": "qwen2",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "torch_dtype": "bfloat16",
        "pad_token_id": vocabulary.token_to_id("<|endoftext|>"),
        "eos_token_id": vocabulary.token_to_id("<|im_end|>"),
        "id2label": {"0": "0", "1": "1"},
        "label2id": {"0": 0, "1": 1},
    }


def save_folder(folder: Path, tokenizer: Path, config: Mapping[str, Any]) -> None:
    """Write a checkpoint's folder without its weights. Transformers 4 and 5 read the tokenizer as its file has it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    shutil.copyfile(tokenizer / "tokenizer.json", folder / "tokenizer.json")
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "padding_side": "left",
        "model_max_length": 32768,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(described, indent=1))
