"""Speed of a model's matrix products and of a memory copy on this machine, measured with torch in a few seconds.

Each matrix of the model's own shape is multiplied with as many tokens as a forward has, in the engine's arithmetic.
Imports torch; engines import this module only for their ceiling or their shape.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.base import Ceiling
from engines.torch import quantized
from engines.torch.forward import cpu
from engines.torch.work import Shape

# Tokens of one product; the quicker size counts for each matrix. Large products use a GPU better, small ones stay in a
# CPU's cache.
TOKENS = {"cpu": (256, 1024), "cuda": (4096, 16384)}
SECONDS = 1.0  # time for all products together, if each is quick enough to be timed in its share
KEYS_AND_VALUES = ("k_proj", "v_proj")  # in Qwen2, Qwen3 and Llama
COPY_SECONDS = 0.15
COPY_BYTES = 1 << 28  # larger than every cache
CALLS = 20  # calls between two waits for a GPU; a wait takes about 20 microseconds
REPEATS = 2  # smallest number of repeats
SPREAD = 0.05  # standard deviation of the factors: for zeros a GPU draws less power and clocks higher

Product = Callable[[], object]


def shape_of(model: nn.Module, config: Any, *, weight_bytes: int, activation_bytes: int) -> Shape | None:
    """Shape of a transformer's blocks; None if the model does not hold the blocks that its config names.

    `config` is the model's config of transformers. Call this before 8-bit layers replace the linear ones.
    """
    linear = [(name.split("."), layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    layers: int = getattr(config, "num_hidden_layers", 0)
    heads: int = getattr(config, "num_attention_heads", 0)
    if not heads or {_block(name) for name, _ in linear} - {None} != set(range(layers)):
        return None  # ALBERT uses one block 12 times
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    sides = [(name, (layer.out_features, layer.in_features)) for name, layer in linear if _block(name) is not None]
    return Shape(
        matrices=tuple(side for _, side in sides),
        attention=layers * heads * head_dim,
        weight_bytes=weight_bytes,
        activation_bytes=activation_bytes,
        blocks=layers,
        at_ends=tuple(side for name, side in sides if _block(name) == layers - 1 and name[-1] not in KEYS_AND_VALUES),
    )


def _block(name: Sequence[str]) -> int | None:
    """Number of the block to which a layer of this name belongs."""
    return next((int(part) for part in name if part.isdigit()), None)


@torch.inference_mode()
def measure(shape: Shape, *, precision: str, dtype: torch.dtype, device: torch.device) -> Ceiling | None:
    """The ceiling of these matrices, each as often as the model has it; None on a device that cannot be timed here.

    `precision` is a name in quantized.ARITHMETIC; for any other name `dtype` decides. Each product is repeated and the
    quickest repeat counts: on a machine with other load the result is still a little low.
    """
    sizes = TOKENS.get(device.type)
    if sizes is None:
        return None
    matrices = Counter(shape.matrices)
    share_s = SECONDS / (len(matrices) * len(sizes))
    spent_s = operations = 0.0
    for (outputs, inputs), times in matrices.items():
        flops = 2.0 * outputs * inputs
        per_s = max(
            flops * tokens / _best_s(products, share_s, device)
            for tokens in sizes
            for products in [list(_products(outputs, inputs, tokens, precision, dtype, device))]
        )
        spent_s += times * flops / per_s
        operations += times * flops
    threads = f", threads {torch.get_num_threads()}" if device.type == "cpu" else ""
    tokens_measured = " and ".join(map(str, sizes))
    return Ceiling(
        flops_per_s=operations / spent_s,
        bytes_per_s=_copied_bytes_per_s(device),
        dtype=_factors(precision, dtype),
        how=f"{device.type}{threads}; best of products with {tokens_measured} tokens and of memory copies",
    )


def _products(
    outputs: int, inputs: int, tokens: int, precision: str, dtype: torch.dtype, device: torch.device
) -> Iterator[Product]:
    """The candidate products: the layer as the engine runs it, and the bare product of values or codes."""
    generator = torch.Generator(device).manual_seed(0)

    def random(rows: int, columns: int) -> Tensor:
        return torch.empty(rows, columns, device=device, dtype=dtype).normal_(std=SPREAD, generator=generator)

    activations, weight = random(tokens, inputs), random(outputs, inputs)
    if precision not in quantized.ARITHMETIC:
        yield lambda: F.linear(activations, weight)
    layer = nn.Linear(inputs, outputs, bias=False, device="meta", dtype=dtype)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    converted = nn.Sequential(layer)
    quantized.convert(converted, precision, {})
    cpu.prepack(converted)
    yield lambda: converted(activations)
    if precision == "int8":
        a, b = _codes(activations), _codes(weight).T
        yield lambda: torch._int_mm(a, b)
        eight_bit = converted[0]
        if isinstance(eight_bit, quantized.QuantizedLinear) and eight_bit.is_prepacked:
            encoded = quantized.encode_around_zero(activations.clone())
            yield lambda: eight_bit.multiply_codes(encoded)
    elif precision == "fp8":
        one = torch.ones((), device=device)
        a, b = activations.to(torch.float8_e4m3fn), weight.to(torch.float8_e4m3fn).T
        yield lambda: torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=dtype, use_fast_accum=True)
    elif precision == "fp8-sim":  # products of E4M3 codes as float32 numbers
        a, b = activations.float(), weight.float()
        yield lambda: F.linear(a, b)


def _codes(values: Tensor) -> Tensor:
    return (values / SPREAD * 32).clamp(-127, 127).to(torch.int8)


def _factors(precision: str, dtype: torch.dtype) -> str:
    """Type of the factors: fp8-sim has 8-bit codes and multiplies them as float32."""
    names = {"int8": "int8", "fp8": "float8_e4m3fn", "fp8-sim": "float32"}
    return names.get(precision, str(dtype).removeprefix("torch."))


def _best_s(products: Sequence[Product], share_s: float, device: torch.device) -> float:
    return min(_seconds(product, share_s / len(products), device) for product in products)


def _seconds(work: Product, share_s: float, device: torch.device) -> float:
    """Seconds of the quickest call within `share_s` seconds: at least two calls, after one that does not count.

    torch.utils.benchmark would not do: its blocks are means, and other load on a machine delays one call in many.
    """
    wait: Callable[[], object] = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    calls = CALLS if device.type == "cuda" else 1
    work()
    best, repeats, began_s = math.inf, 0, time.perf_counter()
    while repeats < REPEATS or time.perf_counter() - began_s < share_s:
        wait()
        started_s = time.perf_counter()
        for _ in range(calls):
            work()
        wait()
        best, repeats = min(best, (time.perf_counter() - started_s) / calls), repeats + 1
    return best


def _copied_bytes_per_s(device: torch.device) -> float:
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / _seconds(lambda: target.copy_(source), COPY_SECONDS, device)
