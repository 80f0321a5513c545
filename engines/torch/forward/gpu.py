"""The packed forward for a GPU: few kernels per layer, nothing in it waits for the device, attention is `varlen`'s.

Products with the same input become one; what lies between products and attention is two functions that torch.compile
turns into a few kernels, the same for every layer. The last layer computes only what scores are read from. It computes
models whose parts are those of transformers' Qwen2, Qwen3 and Llama: `fuse` gives None for others.
"""

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.torch.forward import cpu, varlen
from engines.torch.quantized import ARITHMETIC, Arithmetic, Codes, QuantizedLinear, encode, encode_by_row, scaled_mm


class Product(NamedTuple):
    """One or several linear layers with the same input; 8-bit ones have scales."""

    weight: Tensor  # [outputs, inputs], numbers or codes
    bias: Tensor | None
    scale: Tensor | None  # float32 [outputs, 1]
    input_scale: Tensor | None  # float32 []; None: by token, as they come


class Layer(NamedTuple):
    before: Tensor  # weight of the norm before attention
    into: Product  # queries, keys, values
    head_norms: tuple[Tensor, Tensor] | None  # Qwen3's, of queries and keys
    out: Product
    after: Tensor  # weight of the norm before the MLP
    up: Product  # gate, up
    down: Product


class Sizes(NamedTuple):
    heads: int
    kv_heads: int
    head_dim: int
    scale: float  # of the attention's logits
    epsilon: float  # of the norms


class Rotary(NamedTuple):
    """Rotary position embedding, each [tokens, 1, head_dim]."""

    cos: Tensor
    sin: Tensor


class Place(NamedTuple):
    """One packed sequence on the device: `engines.torch.forward.packed` says what it is. All int32."""

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
    """The backbone's weights, put together in place: its own layers become views of them. None: other parts.

    With `fast_accumulation` fp8 products keep about 14 bits of a sum until it is added up.
    """
    whole: Any = backbone
    if not cpu.has_parts(backbone) or not hasattr(whole.norm, "variance_epsilon"):  # Gemma's norms are others
        return None
    eight_bit = [module for module in backbone.modules() if isinstance(module, QuantizedLinear)]
    arithmetic = eight_bit[0].arithmetic if eight_bit else None
    if arithmetic is not None and arithmetic.code != torch.float8_e4m3fn:
        return None
    joined = [_joined(layer) for layer in whole.layers]
    if not all(_share_input(layers) for one in joined for layers in one):
        return None
    if fast_accumulation and arithmetic == ARITHMETIC["fp8"]:
        arithmetic = arithmetic._replace(multiply=multiply_fast)
    attention = whole.layers[0].self_attn
    sizes = Sizes(
        heads=attention.q_proj.out_features // attention.head_dim,
        kv_heads=attention.k_proj.out_features // attention.head_dim,
        head_dim=attention.head_dim,
        scale=attention.scaling,
        epsilon=whole.norm.variance_epsilon,
    )
    layers = [_layer(layer, *map(_join, parts)) for layer, parts in zip(whole.layers, joined, strict=True)]
    return Fused(backbone, layers, sizes, enter, leave, arithmetic)


def _joined(layer: Any) -> tuple[list[Any], ...]:
    """The linear layers of a block: queries, keys and values; what is behind attention; gate and up; down."""
    attention, mlp = layer.self_attn, layer.mlp
    into = [attention.q_proj, attention.k_proj, attention.v_proj]
    return into, [attention.o_proj], [mlp.gate_proj, mlp.up_proj], [mlp.down_proj]


def _share_input(layers: Sequence[Any]) -> bool:
    """Whether all are of one kind, and have one scale of their input if they have any."""
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
    """One product of several layers, whose weights become views of its own: nothing is kept twice."""
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
    """One product of tokens [tokens, inputs]."""
    if product.scale is None:
        return F.linear(tokens, product.weight, product.bias)
    assert arithmetic is not None
    if product.input_scale is None:
        codes = encode_by_row(tokens, arithmetic)
    else:
        given = encode(tokens, product.input_scale, arithmetic)
        codes = given._replace(scale=product.input_scale.expand(len(tokens), 1).contiguous())
    found = arithmetic.multiply(codes, Codes(product.weight, product.scale), tokens.dtype)
    return found if product.bias is None else found + product.bias


def enter(
    layer: Layer, hidden: Tensor, rotary: Rotary, key_index: Tensor, sizes: Sizes, arithmetic: Arithmetic | None
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer up to its attention: queries [tokens, heads, head_dim], and keys and values of every segment."""
    tokens = F.rms_norm(hidden, hidden.shape[-1:], layer.before, sizes.epsilon)
    widths = [sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim]
    parts = torch.split(multiply(tokens, layer.into, arithmetic), widths, -1)
    query, key, value = (torch.unflatten(part, -1, (-1, sizes.head_dim)) for part in parts)
    if layer.head_norms is not None:
        query = F.rms_norm(query, query.shape[-1:], layer.head_norms[0], sizes.epsilon)
        key = F.rms_norm(key, key.shape[-1:], layer.head_norms[1], sizes.epsilon)
    return turn(query, rotary), turn(key, rotary)[key_index], value[key_index]


def turn(heads: Tensor, rotary: Rotary) -> Tensor:
    first, second = heads.chunk(2, -1)
    return heads * rotary.cos + torch.cat([-second, first], -1) * rotary.sin


def leave(layer: Layer, hidden: Tensor, asked: Tensor, sizes: Sizes, arithmetic: Arithmetic | None) -> Tensor:
    """The rest of a layer behind its attention; `asked` is [tokens, heads, head_dim]."""
    hidden = hidden + multiply(asked.flatten(1), layer.out, arithmetic)
    tokens = F.rms_norm(hidden, hidden.shape[-1:], layer.after, sizes.epsilon)
    gate, up = multiply(tokens, layer.up, arithmetic).chunk(2, -1)
    return hidden + multiply(F.silu(gate) * up, layer.down, arithmetic)


def forward(fused: Fused, place: Place) -> Tensor:
    """Hidden states of the last token of each tail, [tails, hidden]."""
    sizes, arithmetic = fused.sizes, fused.arithmetic
    hidden = fused.backbone.embed_tokens(place.ids)
    turns = fused.backbone.rotary_emb(hidden, place.positions[None])
    rotary = Rotary(*(found[0, :, None] for found in turns))
    starts, longest = (place.query_starts, place.key_starts), place.longest
    for layer in fused.layers[:-1]:
        query, key, value = fused.enter(layer, hidden, rotary, place.key_index, sizes, arithmetic)
        asked = varlen.attend(query, key, value, starts, longest, sizes.scale)
        hidden = fused.leave(layer, hidden, asked, sizes, arithmetic)
    layer = fused.layers[-1]
    query, key, value = fused.enter(layer, hidden, rotary, place.key_index, sizes, arithmetic)
    rows = torch.arange(len(place.ends) + 1, dtype=torch.int32, device=hidden.device)
    asked = varlen.attend(query[place.ends], key, value, (rows, place.key_starts[1:]), (1, longest[1]), sizes.scale)
    found = fused.leave(layer, hidden[place.ends], asked, sizes, arithmetic)
    normed: Tensor = fused.backbone.norm(found)
    return normed


def compiled(fused: Fused, *, backend: str | Callable[..., Any] = "inductor") -> Fused:
    """The same forward with its two functions compiled, once for all layers and all lengths that are over 1.

    Every number of a shape is a constant but those that `varying` names at the first call: with `dynamic=True` all were
    variables, and the kernels slower. The compiler's own guess, from what it has seen change, would take an engine of
    another shape in the same process for a reason to make variables of the weights' sides.
    """
    return fused._replace(
        enter=torch.compile(_copy(enter), fullgraph=True, dynamic=False, backend=backend),
        leave=torch.compile(_copy(leave), fullgraph=True, dynamic=False, backend=backend),
    )


def _copy(function: Any) -> Any:
    """With code of its own: the compiler keeps 8 versions of a code, and every engine in a process needs one or two."""
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)


def varying(fused: Fused) -> Fused:
    """The same forward, which tells the compiler that the first side of what is no weight varies: to warm up with."""

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
