"""Linear layers in 8 bit: E4M3 on a GPU (fp8), the same numbers on any device (fp8-sim), integers on a CPU (int8).

A matrix becomes codes and scales; codes are multiplied and the product is scaled. Embeddings, norms, attention and the
score head keep their precision. Scales are computed here (one per output row of weights, one per token of activations)
or come from a ModelOpt export (one per matrix, calibrated for activations).
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from engines.base import EngineUnavailable
from engines.torch.memory import give_back
from engines.torch.prepacked import free_if_moved, has_onednn

ROWS = 256  # tokens per product on a CPU: its float32 result stays in cache, 1.7 times as fast as 2,048 at once
CAPABILITY = (8, 9)  # Ada and Hopper are the first GPUs with E4M3 tensor cores
TINIEST = 2.0**-24  # activation rows below this count as zero; ModelOpt's bound (tensor_quant.py)
MIDDLE = 128  # the code of 0, if it is the same in all rows: oneDNN then subtracts it at no cost
ROUNDING = 1.5 * 2.0**23  # float32 numbers near it are integers: adding it rounds to the lowest bits, ties to even
SIXTEEN = 16  # the sides of scaled_mm's matrices must be multiples of 16


class Codes(NamedTuple):
    """A matrix in 8 bit: its values are `codes * scale`."""

    codes: Tensor  # [rows, columns], float8_e4m3fn or int8
    scale: Tensor  # float32, [rows, 1], or [] for one scale of the whole matrix

    @property
    def is_by_row(self) -> bool:
        return self.scale.ndim > 0


class Arithmetic(NamedTuple):
    """Codes and products of a precision. `multiply` gives `tokens @ weight.T` [tokens, out] in a dtype."""

    code: torch.dtype
    largest: float  # the code of the largest value
    multiply: Callable[[Codes, Codes, torch.dtype], Tensor]
    kernel: str


def encode(values: Tensor, scale: Tensor, arithmetic: Arithmetic) -> Codes:
    """The nearest codes, ties to even, saturating: a plain cast to E4M3 turns values over 448 into NaN."""
    scaled = values.float() / scale
    if not arithmetic.code.is_floating_point:
        scaled = scaled.round_()
    return Codes(scaled.clamp_(-arithmetic.largest, arithmetic.largest).to(arithmetic.code), scale)


def encode_by_row(values: Tensor, arithmetic: Arithmetic) -> Codes:
    """Codes with one scale per row: the row's largest magnitude gets the largest code. NaN stays NaN."""
    scale = values.abs().amax(-1, keepdim=True).float().clamp_(min=TINIEST).div_(arithmetic.largest)
    return encode(values, scale, arithmetic)


def _multiply_e4m3(tokens: Codes, weight: Codes, dtype: torch.dtype) -> Tensor:
    """E4M3 on tensor cores without fast accumulation, which keeps only about 14 bits; fp8-sim keeps all."""
    return scaled_mm(tokens, weight, dtype, fast=False)


def scaled_mm(tokens: Codes, weight: Codes, dtype: torch.dtype, *, fast: bool) -> Tensor:
    """Both with scales per row, or both with a single scale. torch has `_scaled_mm` since 2.5, F.scaled_mm later."""
    scale = weight.scale.T.contiguous() if weight.is_by_row else weight.scale
    return torch._scaled_mm(
        tokens.codes, weight.codes.T, scale_a=tokens.scale, scale_b=scale, out_dtype=dtype, use_fast_accum=fast
    )


def _multiply_e4m3_in_fp32(tokens: Codes, weight: Codes, dtype: torch.dtype) -> Tensor:
    """The same codes as float32 numbers: products are exact, and sums are as precise as on tensor cores."""
    product = tokens.codes.float() @ weight.codes.float().T
    return product.mul_(tokens.scale).mul_(weight.scale.reshape(1, -1)).to(dtype)


def _multiply_int8(tokens: Codes, weight: Codes, dtype: torch.dtype) -> Tensor:
    product = torch._int_mm(tokens.codes, weight.codes.T)  # int32
    return product.float().mul_(tokens.scale).mul_(weight.scale.reshape(1, -1)).to(dtype)


class Bytes(NamedTuple):
    """Rows in the form of oneDNN's int8 products: their values are `codes * scale + lowest`."""

    codes: Tensor  # uint8 [rows, columns]
    scale: Tensor  # float32 [rows, 1]
    lowest: Tensor | None  # float32 [rows, 1], the value of code 0; None: the code of 0 is MIDDLE in every row
    dtype: torch.dtype  # type of the values


def encode_by_range(values: Tensor) -> Bytes:
    """Rows with 256 codes from the smallest to the largest value of the row.

    A few dimensions of a transformer's activations are large and of one sign: half of the codes around 0 may be unused.
    Infinities show in the scale, and so does a row of NaN only; a NaN among numbers becomes a number.
    """
    # fbgemm, made for embeddings, passes once over a row in cache: 120 microseconds for 241 x 4,864, against 280 with
    # torch's operations. Scale and lowest value follow the codes of each row.
    fused: Tensor = torch.ops.quantized.embedding_bag_byte_prepack(values.float())
    columns = values.shape[1]
    ends = fused[:, columns:].clone(memory_format=torch.contiguous_format).view(torch.float32)  # the clone is aligned
    return Bytes(fused[:, :columns], ends[:, :1], ends[:, 1:], values.dtype)


def encode_around_zero(values: Tensor) -> Bytes:
    """Rows with codes symmetric around 0, whose product is quicker: oneDNN subtracts a common zero itself.

    The codes take the memory of float32 values, which are lost. NaN and infinities show in the scale.
    """
    largest = torch.maximum(values.amax(-1, keepdim=True), values.amin(-1, keepdim=True).neg_())
    scale = largest.float().clamp_(min=TINIEST).div_(MIDDLE - 1)
    rounded = values.float().mul_(scale.reciprocal()).add_(MIDDLE + ROUNDING).view(torch.int32)
    # torch casts to int8 7 times as fast as to uint8, with the same bits
    return Bytes(rounded.to(torch.int8).view(torch.uint8), scale, None, values.dtype)


def _multiply_bytes(codes: Tensor, weight: Tensor, scale: Tensor, dtype: torch.dtype, *, zero: int = 0) -> Tensor:
    """`(codes - zero) @ weight.T * scale` with a prepacked int8 weight, accumulated in int32."""
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        codes, 1.0, zero, weight, scale, _zeros(len(scale)), None, 1.0, 0, dtype, "none", [], ""
    )
    return product


@cache
def _zeros(count: int) -> Tensor:
    """Zero points of weights, which are all 0: oneDNN requires them."""
    return torch.zeros(count, dtype=torch.int32)


@cache
def has_integer_products() -> bool:
    """Whether oneDNN multiplies bytes exactly here: without VNNI its sums of two products saturate at 32,767."""
    if not has_onednn():
        return False
    codes, weight = torch.full((16, 64), 255, dtype=torch.uint8), torch.full((16, 64), 127, dtype=torch.int8)
    try:
        packed = torch.ops.onednn.qlinear_prepack(weight, list(codes.shape))
        product = _multiply_bytes(codes, packed, torch.ones(16), torch.float32)
        encode_by_range(weight)
    except (RuntimeError, AttributeError):  # this torch lacks one of the operations
        return False
    return bool((product == 255 * 127 * 64).all())


ARITHMETIC = {
    "fp8": Arithmetic(torch.float8_e4m3fn, 448.0, _multiply_e4m3, "scaled_mm in E4M3"),
    "fp8-sim": Arithmetic(torch.float8_e4m3fn, 448.0, _multiply_e4m3_in_fp32, "E4M3 codes in float32"),
    "int8": Arithmetic(torch.int8, 127.0, _multiply_int8, "_int_mm"),
}


class QuantizedLinear(nn.Module):
    """`nn.Linear` with 8-bit weights and 8-bit activations; the bias is added in the activations' own dtype."""

    codes: Tensor
    scale: Tensor
    input_scale: Tensor | None  # float32 []; None: one scale per token, computed from the token

    def __init__(
        self, weight: Codes, bias: nn.Parameter | None, arithmetic: Arithmetic, *, input_scale: Tensor | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("codes", weight.codes)
        self.register_buffer("scale", weight.scale)
        self.register_buffer("input_scale", input_scale)
        self.bias = bias
        self.arithmetic = arithmetic
        self.out_features = len(weight.codes)

    def encode(self, tokens: Tensor, *, around_zero: bool = False) -> Tensor | Bytes:
        """Input of `forward` in place of these tokens [tokens, in], so that layers with the same input share it.

        Codes around zero take the tokens' memory. Only they show a NaN among numbers; see `convert`.
        """
        if not self.is_prepacked:
            return tokens
        return encode_around_zero(tokens) if around_zero else encode_by_range(tokens)

    def forward(self, tokens: Tensor | Bytes) -> Tensor:
        if isinstance(tokens, Bytes):
            return self._multiply_prepacked(tokens)
        rows = tokens.flatten(0, -2)
        if self.is_prepacked:
            encoded = encode_by_range(rows)
            encoded.scale.add_(rows.sum(-1, keepdim=True), alpha=0)  # NaN if the row holds one
            return self._multiply_prepacked(encoded).reshape(*tokens.shape[:-1], -1)
        blocks = [self._multiply(block) for block in torch.split(rows, ROWS if rows.is_cpu else len(rows))]
        product = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        if self.bias is not None:
            product += self.bias
        return product.reshape(*tokens.shape[:-1], -1)

    def prepack(self) -> None:
        """Put the codes into oneDNN's layout, if oneDNN computes int8 here: the same products, faster."""
        if self.arithmetic.code == torch.int8 and self.codes.is_cpu and has_integer_products():
            inputs = self.codes.shape[1]
            self.codes = torch.ops.onednn.qlinear_prepack(self.codes, [ROWS, inputs])
            ones = torch.ones(1, inputs, dtype=torch.uint8)  # `codes.sum` would make a copy with 8 bytes per code
            self.scales = self.scale.flatten()
            self.sums = _multiply_bytes(ones, self.codes, self.scales, torch.float32)[0]

    @property
    def is_prepacked(self) -> bool:
        return self.codes.is_mkldnn

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        free_if_moved(self, "codes", fn)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def multiply_codes(self, tokens: Bytes) -> Tensor:
        """`tokens.codes @ weight.T` with the weight's values: the bare product, also for `ceiling`."""
        zero = MIDDLE if tokens.lowest is None else 0
        return _multiply_bytes(tokens.codes, self.codes, self.scales, tokens.dtype, zero=zero)

    def _multiply_prepacked(self, tokens: Bytes) -> Tensor:
        product = self.multiply_codes(tokens).mul_(tokens.scale)
        if tokens.lowest is not None:
            product.addcmul_(tokens.lowest, self.sums)
        return product if self.bias is None else product.add_(self.bias)

    def _multiply(self, rows: Tensor) -> Tensor:
        if self.input_scale is None:
            tokens = encode_by_row(rows, self.arithmetic)
        else:
            tokens = encode(rows, self.input_scale, self.arithmetic)
        return self.arithmetic.multiply(tokens, Codes(self.codes, self.scale), rows.dtype)


def require_device(precision: str, device: torch.device) -> None:
    """Raise EngineUnavailable for an 8-bit precision that this device cannot compute; the message names another."""
    if precision == "fp8":
        has = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
        if has is None or has < CAPABILITY:
            here = f"compute capability {has[0]}.{has[1]}" if has else f"device {device.type}"
            raise EngineUnavailable(
                f"precision fp8 needs a CUDA device of compute capability 8.9 or more, this is {here}: use fp8-sim, "
                "the same numbers on any device, without the speed"
            )
    if precision == "int8" and device.type != "cpu":
        raise EngineUnavailable(f"precision int8 is computed on a CPU only, not on {device.type}: set device cpu")
    if precision == "fp8-sim" and device.type == "mps":  # torch has no float8 there
        raise EngineUnavailable("precision fp8-sim needs E4M3, which device mps lacks: set device cpu")


def convert(backbone: nn.Module, precision: str, scales: Mapping[str, Tensor]) -> None:
    """Replace the backbone's linear layers by 8-bit layers, if `precision` is an 8-bit one.

    `scales` are those of a ModelOpt export, by their names below the backbone; its weights are already codes, and
    layers without a scale stay unchanged. If `scales` is empty the checkpoint is full, and every layer is converted.
    Raises EngineUnavailable for an export in another precision than E4M3, and in int8 for weights that are not finite.
    """
    arithmetic = ARITHMETIC.get(precision)
    if scales and (arithmetic is None or arithmetic.code != torch.float8_e4m3fn):
        raise EngineUnavailable(
            f"the checkpoint holds FP8 weights, which {precision} does not compute: use precision fp8 or fp8-sim, or "
            "the full checkpoint"
        )
    if arithmetic is None:
        return
    linear = [name for name, layer in backbone.named_modules() if isinstance(layer, nn.Linear)]
    for name in linear:  # a list of the layers would keep them all
        layer = backbone.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        if scales and f"{name}.weight_scale" not in scales:
            continue
        if arithmetic.code.is_floating_point and any(side % SIXTEEN for side in layer.weight.shape):
            sides = " x ".join(map(str, layer.weight.shape))
            raise EngineUnavailable(f"{name} is {sides}: {precision} takes multiples of 16 only: use bf16")
        backbone.set_submodule(name, _converted(name, layer, arithmetic, scales))
        give_back(layer.weight)
    if precision == "int8":
        _require_finite(backbone)


def _require_finite(backbone: nn.Module) -> None:
    """Raise EngineUnavailable for NaN, which `encode_by_range` could lose, or infinity. Scales show their matrix's."""
    scales = ((name, tensor) for name, tensor in backbone.named_buffers() if name.endswith(".scale"))
    for name, tensor in chain(backbone.named_parameters(), scales):
        if not torch.stack(torch.aminmax(tensor)).isfinite().all():  # `isfinite` of an embedding would take 136 MB
            weight = name.removesuffix(".scale")
            raise EngineUnavailable(f"{weight} has NaN or infinities; int8 needs finite weights: repair the checkpoint")


def _converted(name: str, layer: nn.Linear, arithmetic: Arithmetic, scales: Mapping[str, Tensor]) -> QuantizedLinear:
    weight = layer.weight.detach()
    if not scales:
        return QuantizedLinear(_encode_weight(weight, arithmetic), layer.bias, arithmetic)
    stored = Codes(weight.to(arithmetic.code), scales[f"{name}.weight_scale"])  # exact: codes, read as 16-bit numbers
    return QuantizedLinear(stored, layer.bias, arithmetic, input_scale=scales[f"{name}.input_scale"])


def _encode_weight(weight: Tensor, arithmetic: Arithmetic) -> Codes:
    """`encode_by_row`, some rows at a time, into preallocated codes.

    Temporary copies of whole matrices would leave holes in the heap, 1.2 GB in a 0.5B model.
    """
    codes = torch.empty_like(weight, dtype=arithmetic.code)
    scale = weight.new_empty(len(weight), 1, dtype=torch.float32)
    for into, scales, rows in zip(*(torch.split(part, ROWS) for part in (codes, scale, weight)), strict=True):
        encoded = encode_by_row(rows, arithmetic)
        into.copy_(encoded.codes)
        scales.copy_(encoded.scale)
    return Codes(codes, scale)


def describe(backbone: nn.Module) -> dict[str, str]:
    """Kinds and numbers of a backbone's 8-bit layers, counted in the model itself; empty if it has none."""
    layers = [module for module in backbone.modules() if isinstance(module, QuantizedLinear)]
    if not layers:
        return {}
    others = [module for module in backbone.modules() if isinstance(module, nn.Linear)]
    counted = Counter(
        [f"QuantizedLinear {str(layer.codes.dtype).removeprefix('torch.')}" for layer in layers]
        + [f"Linear {str(layer.weight.dtype).removeprefix('torch.')}" for layer in others]
    )
    static = layers[0].input_scale is not None
    ends = "; from the smallest to the largest value, before gate and up around 0" if layers[0].is_prepacked else ""
    by_token = f"by token, as they come{ends}"
    return {
        "linear_layers": ", ".join(f"{count} {kind}" for kind, count in counted.items()),
        "weight_scales": "by output row" if layers[0].scale.ndim else "by matrix, of the checkpoint",
        "activation_scales": "by matrix, of the checkpoint" if static else by_token,
        "kernel": "onednn qlinear" if layers[0].is_prepacked else layers[0].arithmetic.kernel,
    }
