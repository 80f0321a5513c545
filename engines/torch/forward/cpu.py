"""The packed forward on a CPU: the modules of transformers' Qwen2, Qwen3 and Llama in an order that suits caches.

Tokens go through a layer in blocks, attention goes through blocks of rows without a mask over all keys, and the last
layer computes only the tokens from which scores are read. `has_parts` says whether a model consists of these modules;
`packed` checks that it computes the same numbers with them.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from engines.torch.memory import give_back
from engines.torch.prepacked import PrepackedLinear, can_prepack, has_bf16_products
from engines.torch.quantized import QuantizedLinear

# Bytes of one number per token of a block in the MLP: 512 tokens in bf16, 256 in fp32. The widest activations of a 0.5B
# model, 4,864 numbers per token, are then 5 MB and stay in cache.
TOKEN_BYTES = 1024
ROW_BYTES = 192  # bytes of one score per row of attention: 96 rows in 16 bit, 48 in fp32, for all heads of a group
MANY_SCORES = 1 << 17  # scores of a block in the 0.5B model, with its 14 heads and 100 keys

PARTS = {"embed_tokens", "layers", "norm", "rotary_emb"}
LAYER_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION_PARTS = {"q_proj", "k_proj", "v_proj", "o_proj"}
HEAD_NORMS = {"q_norm", "k_norm"}  # Qwen3's, of both or of neither
MLP_PARTS = {"gate_proj", "up_proj", "down_proj", "act_fn"}


class Segment(NamedTuple):
    """Query rows, and the tokens behind the prefix that they attend to: the last row attends to all of them."""

    start: int
    end: int
    tail_start: int
    tail_end: int


class Rotary(NamedTuple):
    """Rotary position embedding, each [tokens, 1, head_dim]."""

    cos: Tensor
    sin: Tensor


def prepack(backbone: nn.Module) -> None:
    """Put the weights of a backbone on a CPU into oneDNN's layout, layer by layer. On other devices nothing happens."""
    for name in [name for name, _ in backbone.named_modules()]:  # a list of the layers would keep them all
        layer = backbone.get_submodule(name)
        if isinstance(layer, QuantizedLinear):
            layer.prepack()
        elif type(layer) is nn.Linear and can_prepack(layer.weight):
            backbone.set_submodule(name, PrepackedLinear(layer))
            give_back(layer.weight)


def has_parts(backbone: nn.Module) -> bool:
    """Whether the modules of the backbone are exactly those that `forward` calls."""
    return _parts(backbone) == PARTS and all(
        _parts(layer) == LAYER_PARTS
        and _parts(layer.self_attn) in (ATTENTION_PARTS, ATTENTION_PARTS | HEAD_NORMS)
        and _parts(layer.mlp) == MLP_PARTS
        for layer in backbone.get_submodule("layers").children()
    )


def _parts(module: Any) -> set[str]:
    return {name for name, _ in module.named_children()}


def forward(backbone: Any, ids: Tensor, positions: Tensor, bounds: Sequence[tuple[int, int]]) -> Tensor:
    """Hidden states of the last token of each tail, [tails, hidden].

    `ids` and `positions` are [tokens]; `bounds` are the start and end of each segment, the prefix first.
    Norms and products are called as modules, so that hooks see them.
    """
    prefix = bounds[0][1]
    hidden = backbone.embed_tokens(ids)
    rotary = Rotary(*(part[0, :, None] for part in backbone.rotary_emb(torch.empty(0), positions[None])))
    segments = [Segment(0, prefix, prefix, prefix), *(Segment(*bound, *bound) for bound in bounds[1:])]
    *layers, last = backbone.layers
    for layer in layers:
        attended = attend(*_project(layer, hidden, rotary, None), segments, prefix)
        _finish(layer, hidden, attended)
    ends = torch.tensor([end - 1 for _, end in bounds[1:]])
    segments = [Segment(row, row + 1, *bound) for row, bound in enumerate(bounds[1:])]
    attended = attend(*_project(last, hidden, rotary, ends), segments, prefix)
    hidden = hidden[ends]
    _finish(last, hidden, attended)
    normed: Tensor = backbone.norm(hidden)
    return normed


def attend(query: Tensor, key: Tensor, value: Tensor, segments: Sequence[Segment], prefix: int) -> Tensor:
    """Causal attention of each segment over the prefix and its own tail. The queries are already scaled.

    query [kv_heads, rows, group, head_dim], key and value [kv_heads, tokens, head_dim]: the heads of a group share
    their keys, so their rows form one matrix. Returns [rows, kv_heads * group * head_dim].
    """
    kv_heads, _, group, width = query.shape
    rows = max(1, ROW_BYTES // query.element_size())
    later = _later(rows, query.dtype)
    out = query.new_empty(query.shape[1], kv_heads, group, width)
    for start, end, tail_start, tail_end in segments:
        keys = torch.cat([key[:, :prefix], key[:, tail_start:tail_end]], 1).transpose(1, 2)
        values = torch.cat([value[:, :prefix], value[:, tail_start:tail_end]], 1)
        for row in range(start, end, rows):
            row_end = min(row + rows, end)
            count, seen = row_end - row, keys.shape[2] - (end - row_end)
            scores = torch.bmm(query[:, row:row_end].flatten(1, 2), keys[:, :, :seen])
            own = scores.view(kv_heads, count, group, seen)[..., seen - count :]
            own += later[:count, :, :count]
            attended = torch.bmm(_softmax(scores), values[:, :seen])
            out[row:row_end] = attended.view(kv_heads, count, group, width).transpose(0, 1)
    return out.flatten(1)


def _softmax(scores: Tensor) -> Tensor:
    """Softmax over the last dimension, by oneDNN where it is quicker: 0.4 ns an element in bf16, torch 0.5 to 0.9 ns.

    In fp32 and for few scores torch is quicker: oneDNN needs two copies, 20 microseconds, and some hundred
    microseconds of code generation for a new shape.
    """
    if scores.dtype == torch.bfloat16 and scores.numel() >= MANY_SCORES and has_bf16_products():
        shares: Tensor = scores.to_mkldnn().softmax(-1).to_dense()
        return shares
    return scores.softmax(-1)


def _later(rows: int, dtype: torch.dtype) -> Tensor:
    """The causal mask, added to the scores of rows and their own keys: minus infinity for later keys."""
    return torch.full((rows, rows), -torch.inf, dtype=dtype).triu_(1)[:, None]


def _project(layer: Any, hidden: Tensor, rotary: Rotary, rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as `attend` takes them. `rows` are the tokens that need queries; None: all tokens."""
    attention, norm = layer.self_attn, layer.input_layernorm
    dtype = attention_dtype(attention.q_proj, hidden.dtype)
    scaled = Rotary(*((part * attention.scaling).to(dtype) for part in rotary))
    plain = Rotary(*(part.to(dtype) for part in rotary))
    kv_heads = attention.k_proj.out_features // attention.head_dim
    group = attention.q_proj.out_features // attention.k_proj.out_features
    key, value = hidden.new_empty(2, kv_heads, len(hidden), attention.head_dim, dtype=dtype)
    query = key.new_empty(kv_heads, len(hidden if rows is None else rows), group, attention.head_dim)
    for block in _blocks(hidden, 2 * TOKEN_BYTES):  # activations are narrower than in the MLP
        tokens = _inputs(norm(hidden[block]), attention.q_proj)
        _rotate(_heads(attention, "k", tokens), plain, block, key[:, block, None])
        value[:, block] = _heads(attention, "v", tokens).transpose(0, 1)
        if rows is None:
            _rotate(_heads(attention, "q", tokens), scaled, block, query[:, block])
    if rows is not None:
        tokens = _inputs(norm(hidden[rows]), attention.q_proj)
        _rotate(_heads(attention, "q", tokens), scaled, rows, query)
    return query, key, value


def attention_dtype(layer: nn.Module, dtype: torch.dtype) -> torch.dtype:
    """bf16 between 8-bit products, which keep fewer bits, where this CPU multiplies in bf16; else the given dtype."""
    eight_bit = isinstance(layer, QuantizedLinear) and layer.is_prepacked
    return torch.bfloat16 if eight_bit and has_bf16_products() else dtype


def _blocks(hidden: Tensor, token_bytes: int) -> Iterator[slice]:
    """Slices of tokens that go through a layer's products together, of equal size: a short last block is slower."""
    count = -(-len(hidden) * hidden.element_size() // token_bytes)
    tokens = -(-len(hidden) // count)
    return (slice(start, start + tokens) for start in range(0, len(hidden), tokens))


def _inputs(tokens: Tensor, layer: nn.Module, *, around_zero: bool = False) -> Any:
    """Inputs for layers of this kind: 8-bit layers share the codes of the tokens, whose memory may be reused.

    Codes around zero save a pass over the product, which pays for products as wide as those of the MLP.
    """
    return layer.encode(tokens, around_zero=around_zero) if isinstance(layer, QuantizedLinear) else tokens


def _heads(attention: Any, name: str, tokens: Any) -> Tensor:
    """One projection, [tokens, heads, head_dim]."""
    projected: Tensor = attention.get_submodule(f"{name}_proj")(tokens)
    heads = projected.reshape(len(projected), -1, attention.head_dim)
    norm = getattr(attention, f"{name}_norm", None)
    return heads if norm is None else norm(heads)


def _rotate(heads: Tensor, rotary: Rotary, tokens: slice | Tensor, out: Tensor) -> None:
    """Rotary position embedding of `heads` [tokens, heads, head_dim] into `out` [kv_heads, tokens, group, head_dim]."""
    cos, sin = rotary.cos[tokens], rotary.sin[tokens]
    half = heads.shape[-1] // 2
    heads = (
        heads.to(out.dtype).view(len(cos), len(out), -1, 2 * half).transpose(0, 1)
    )  # [kv_heads, tokens, group, head_dim]
    torch.mul(heads, cos, out=out)
    out[..., :half].addcmul_(heads[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(heads[..., :half], sin[..., half:])


def _finish(layer: Any, hidden: Tensor, attended: Tensor) -> None:
    """The rest of a layer after its attention, written into `hidden`."""
    mlp, output = layer.mlp, layer.self_attn.o_proj
    for rows in _blocks(hidden, TOKEN_BYTES):
        block = hidden[rows]
        block += output(_inputs(attended[rows].to(hidden.dtype), output))
        tokens = _inputs(layer.post_attention_layernorm(block), mlp.gate_proj, around_zero=True)
        wide = mlp.act_fn(mlp.gate_proj(tokens)).mul_(mlp.up_proj(tokens))
        block += mlp.down_proj(_inputs(wide, mlp.down_proj))
