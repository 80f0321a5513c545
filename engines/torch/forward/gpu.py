"""The packed forward for a GPU: few kernels per layer, no wait for the device, attention by `varlen`.

Products with the same input become one. The operations between products and attention are two functions that
torch.compile turns into a few kernels, the same for every layer. The last layer computes only the tokens from which
scores are read. Models must consist of the modules of transformers' Qwen2, Qwen3 and Llama: `fuse` gives None
for others.
"""

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.torch.forward import cpu, varlen
from engines.torch.forward.cpu import Rotary
from engines.torch.quantized import ARITHMETIC, Arithmetic, Codes, QuantizedLinear, encode, encode_by_row, scaled_mm


class Product(NamedTuple):
    """One or several linear layers with the same input; 8-bit layers have scales."""

    weight: Tensor  # [outputs, inputs], values or codes
    bias: Tensor | None
    scale: Tensor | None  # float32 [outputs, 1]
    input_scale: Tensor | None  # float32 []; None: one scale per token, computed from the token


class Layer(NamedTuple):
    before: Tensor  # weight of the norm before attention
    into: Product  # queries, keys, values
    head_norms: tuple[Tensor, Tensor] | None  # weights of Qwen3's norms of queries and keys
    out: Product
    after: Tensor  # weight of the norm before the MLP
    up: Product  # gate, up
    down: Product


class Sizes(NamedTuple):
    heads: int
    kv_heads: int
    head_dim: int
    scale: float  # factor of the attention's logits
    epsilon: float  # of the norms


class Place(NamedTuple):
    """One packed sequence on the device, as engines.torch.forward.packed describes it. All int32."""

    ids: Tensor  # [tokens]
    positions: Tensor  # [tokens]
    key_index: Tensor  # token of each gathered key: the prefix again for every tail, then the tail itself
    query_starts: Tensor  # [segments + 1]; segment 0 is the prefix, then one per tail
    key_starts: Tensor  # [segments + 1], into key_index
    ends: Tensor  # [tails]: last token of each tail
    longest: tuple[int, int]  # queries and keys of a segment


class Fused(NamedTuple):
    """A backbone's weights in the form of this forward, and the functions that compute a layer."""

    backbone: Any
    layers: Sequence[Layer]
    sizes: Sizes
    enter: Callable[..., tuple[Tensor, Tensor, Tensor]]
    leave: Callable[..., Tensor]
    arithmetic: Arithmetic | None


def fuse(backbone: nn.Module, *, fast_accumulation: bool = False) -> Fused | None:
    """The backbone's weights, joined in place: its own layers become views of them. None for other modules.

    With `fast_accumulation` fp8 products keep about 14 bits of a partial sum.
    """
    model: Any = backbone
    if not cpu.has_parts(backbone) or not hasattr(model.norm, "variance_epsilon"):  # Gemma's norms have another formula
        return None
    eight_bit = [module for module in backbone.modules() if isinstance(module, QuantizedLinear)]
    arithmetic = eight_bit[0].arithmetic if eight_bit else None
    if arithmetic is not None and arithmetic.code != torch.float8_e4m3fn:
        return None
    joined = [_joined(layer) for layer in model.layers]
    if not all(_share_input(layers) for block in joined for layers in block):
        return None
    if fast_accumulation and arithmetic == ARITHMETIC["fp8"]:
        arithmetic = arithmetic._replace(multiply=multiply_fast)
    attention = model.layers[0].self_attn
    sizes = Sizes(
        heads=attention.q_proj.out_features // attention.head_dim,
        kv_heads=attention.k_proj.out_features // attention.head_dim,
        head_dim=attention.head_dim,
        scale=attention.scaling,
        epsilon=model.norm.variance_epsilon,
    )
    layers = [_layer(layer, *map(_join, parts)) for layer, parts in zip(model.layers, joined, strict=True)]
    return Fused(backbone, layers, sizes, enter, leave, arithmetic)


def _joined(layer: Any) -> tuple[list[Any], ...]:
    """The linear layers of a block: queries, keys and values; attention's output; gate and up; down."""
    attention, mlp = layer.self_attn, layer.mlp
    into = [attention.q_proj, attention.k_proj, attention.v_proj]
    return into, [attention.o_proj], [mlp.gate_proj, mlp.up_proj], [mlp.down_proj]


def _share_input(layers: Sequence[Any]) -> bool:
    """Whether all layers are of one kind, with the same input scale or none."""
    first = layers[0]
    if any(type(layer) is not type(first) or (layer.bias is None) != (first.bias is None) for layer in layers):
        return False
    scales = [layer.input_scale for layer in layers if isinstance(layer, QuantizedLinear)]
    known = [scale for scale in scales if scale is not None]
    return not known or (len(known) == len(layers) and all(torch.equal(known[0], scale) for scale in known))


def _layer(layer: Any, into: Product, out: Product, up: Product, down: Product) -> Layer:
    attention = layer.self_attn
    has_norms = hasattr(attention, "q_norm")
    return Layer(
        before=layer.input_layernorm.weight,
        into=into,
        head_norms=(attention.q_norm.weight, attention.k_norm.weight) if has_norms else None,
        out=out,
        after=layer.post_attention_layernorm.weight,
        up=up,
        down=down,
    )


def _join(layers: Sequence[Any]) -> Product:
    """One product of several layers, whose weights become views of the product's: memory holds them once."""
    first = layers[0]
    bias = None if first.bias is None else torch.cat([layer.bias.detach() for layer in layers])
    if not isinstance(first, QuantizedLinear):
        weight = torch.cat([layer.weight.detach() for layer in layers]) if layers[1:] else first.weight.detach()
        for layer, rows in zip(layers, torch.split(weight, [layer.out_features for layer in layers]), strict=True):
            layer.weight = nn.Parameter(rows, requires_grad=False)
        return Product(weight, bias, None, None)
    codes = torch.cat([layer.codes for layer in layers]) if layers[1:] else first.codes
    for layer, rows in zip(layers, torch.split(codes, [len(layer.codes) for layer in layers]), strict=True):
        layer.codes = rows
    scale = torch.cat([layer.scale.reshape(-1, 1).expand(len(layer.codes), 1) for layer in layers])
    return Product(codes, bias, scale.contiguous(), first.input_scale)


def multiply_fast(tokens: Codes, weight: Codes, dtype: torch.dtype) -> Tensor:
    return scaled_mm(tokens, weight, dtype, fast=True)


def multiply(tokens: Tensor, product: Product, arithmetic: Arithmetic | None) -> Tensor:
    """The product of tokens [tokens, inputs]: [tokens, outputs]."""
    if product.scale is None:
        return F.linear(tokens, product.weight, product.bias)
    assert arithmetic is not None
    if product.input_scale is None:
        codes = encode_by_row(tokens, arithmetic)
    else:
        encoded = encode(tokens, product.input_scale, arithmetic)
        codes = encoded._replace(scale=product.input_scale.expand(len(tokens), 1).contiguous())
    outputs = arithmetic.multiply(codes, Codes(product.weight, product.scale), tokens.dtype)
    return outputs if product.bias is None else outputs + product.bias


def enter(
    layer: Layer, hidden: Tensor, rotary: Rotary, key_index: Tensor, sizes: Sizes, arithmetic: Arithmetic | None
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer up to its attention: queries [tokens, heads, head_dim], keys and values gathered for every segment."""
    tokens = F.rms_norm(hidden, hidden.shape[-1:], layer.before, sizes.epsilon)
    widths = [sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim]
    parts = torch.split(multiply(tokens, layer.into, arithmetic), widths, -1)
    query, key, value = (torch.unflatten(part, -1, (-1, sizes.head_dim)) for part in parts)
    if layer.head_norms is not None:
        query = F.rms_norm(query, query.shape[-1:], layer.head_norms[0], sizes.epsilon)
        key = F.rms_norm(key, key.shape[-1:], layer.head_norms[1], sizes.epsilon)
    return rotate(query, rotary), rotate(key, rotary)[key_index], value[key_index]


def rotate(heads: Tensor, rotary: Rotary) -> Tensor:
    first, second = heads.chunk(2, -1)
    return heads * rotary.cos + torch.cat([-second, first], -1) * rotary.sin


def leave(layer: Layer, hidden: Tensor, attended: Tensor, sizes: Sizes, arithmetic: Arithmetic | None) -> Tensor:
    """The rest of a layer after its attention; `attended` is [tokens, heads, head_dim]."""
    hidden = hidden + multiply(attended.flatten(1), layer.out, arithmetic)
    tokens = F.rms_norm(hidden, hidden.shape[-1:], layer.after, sizes.epsilon)
    gate, up = multiply(tokens, layer.up, arithmetic).chunk(2, -1)
    return hidden + multiply(F.silu(gate) * up, layer.down, arithmetic)


def forward(fused: Fused, place: Place) -> Tensor:
    """Hidden states of the last token of each tail, [tails, hidden]."""
    sizes, arithmetic = fused.sizes, fused.arithmetic
    hidden = fused.backbone.embed_tokens(place.ids)
    rotary = Rotary(*(part[0, :, None] for part in fused.backbone.rotary_emb(hidden, place.positions[None])))
    starts, longest = (place.query_starts, place.key_starts), place.longest
    for layer in fused.layers[:-1]:
        query, key, value = fused.enter(layer, hidden, rotary, place.key_index, sizes, arithmetic)
        attended = varlen.attend(query, key, value, starts, longest, sizes.scale)
        hidden = fused.leave(layer, hidden, attended, sizes, arithmetic)
    layer = fused.layers[-1]
    query, key, value = fused.enter(layer, hidden, rotary, place.key_index, sizes, arithmetic)
    rows = torch.arange(len(place.ends) + 1, dtype=torch.int32, device=hidden.device)
    attended = varlen.attend(query[place.ends], key, value, (rows, place.key_starts[1:]), (1, longest[1]), sizes.scale)
    hidden = fused.leave(layer, hidden[place.ends], attended, sizes, arithmetic)
    normed: Tensor = fused.backbone.norm(hidden)
    return normed


def compiled(fused: Fused) -> Fused:
    """The same forward with its two functions compiled, once for all layers and all lengths over 1.

    Sizes are constants, except those that `varying` marks at the first call: with `dynamic=True` all sizes would be
    variables and the kernels slower. The compiler's own guess, from the sizes that it has seen change, would make the
    weights' sizes variables as soon as an engine of another shape runs in the same process.
    """
    return fused._replace(
        enter=torch.compile(_copy(enter), fullgraph=True, dynamic=False),
        leave=torch.compile(_copy(leave), fullgraph=True, dynamic=False),
    )


def _copy(function: Any) -> Any:
    """A function with its own code object: the compiler keeps 8 versions per code, and an engine needs one or two."""
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)


def varying(fused: Fused) -> Fused:
    """The same forward for the first calls: it tells the compiler that the first side of every input varies."""

    def mark(*values: object) -> None:
        for value in values:
            if isinstance(value, Tensor):
                torch._dynamo.maybe_mark_dynamic(value, 0)
            elif isinstance(value, Rotary):
                mark(*value)

    def marked(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(layer: Layer, *values: object) -> Any:
            mark(*values)
            return function(layer, *values)

        return call

    return fused._replace(enter=marked(fused.enter), leave=marked(fused.leave))
