"""Linear layers in 8 bit: E4M3 on a GPU (fp8), the same numbers anywhere (fp8-sim), integers on a CPU (int8).

A matrix becomes codes and scales, a product is one of codes that is scaled afterwards. Embeddings, norms, attention
and the score head are no part of it. Scales are found here (weights by output row, activations by token as they
come) or are those of a ModelOpt export (one per matrix, activations calibrated).
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.base import EngineUnavailable

ROWS = 256  # tokens of one product on a CPU: its float32 result stays in cache, 1.7 times the speed of 2,048 at once
CAPABILITY = (8, 9)  # Ada and Hopper: the first with E4M3 tensor cores
TINIEST = 2.0**-24  # an activation row below it counts as zero; ModelOpt's bound (tensor_quant.py)
SIXTEEN = 16  # scaled_mm takes matrices whose sides are multiples of it


class Codes(NamedTuple):
    """A matrix as 8-bit numbers: its values are `codes * scale`."""

    codes: Tensor  # [rows, columns], float8_e4m3fn or int8
    scale: Tensor  # float32, [rows, 1] or [] for one of the whole matrix

    @property
    def is_by_row(self) -> bool:
        return self.scale.ndim > 0


class Arithmetic(NamedTuple):
    """What a precision computes with. `multiply` gives `tokens @ weight.T` [tokens, out] in a dtype."""

    code: torch.dtype
    largest: float  # the code of the largest value
    multiply: Callable[[Codes, Codes, torch.dtype], Tensor]
    kernel: str


def encode(values: Tensor, scale: Tensor, arithmetic: Arithmetic) -> Codes:
    """The nearest codes, ties to even, saturating: a cast to E4M3 alone would make NaN of what is over 448."""
    scaled = values.float() / scale
    if not arithmetic.code.is_floating_point:
        scaled = scaled.round_()
    return Codes(scaled.clamp_(-arithmetic.largest, arithmetic.largest).to(arithmetic.code), scale)


def encode_by_row(values: Tensor, arithmetic: Arithmetic) -> Codes:
    """Each row with the scale that makes its largest magnitude the largest code. NaN stays NaN."""
    scale = values.abs().amax(-1, keepdim=True).float().clamp_(min=TINIEST).div_(arithmetic.largest)
    return encode(values, scale, arithmetic)


def _multiply_e4m3(tokens: Codes, weight: Codes, dtype: torch.dtype) -> Tensor:
    """In E4M3 on tensor cores. Without fast accumulation, which keeps about 14 bits: fp8-sim has no such thing."""
    recipe = F.ScalingType.RowWise if weight.is_by_row else F.ScalingType.TensorWise
    weight_scale = weight.scale.T if weight.is_by_row else weight.scale
    return F.scaled_mm(
        tokens.codes,
        weight.codes.T,
        tokens.scale,
        recipe,
        weight_scale.contiguous(),
        recipe,
        output_dtype=dtype,
        use_fast_accum=False,
    )


def _multiply_e4m3_in_fp32(tokens: Codes, weight: Codes, dtype: torch.dtype) -> Tensor:
    """The same codes as float32 numbers: products of two are exact there, and sums are what the tensor cores keep."""
    product = tokens.codes.float() @ weight.codes.float().T
    return product.mul_(tokens.scale).mul_(weight.scale.reshape(1, -1)).to(dtype)


def _multiply_int8(tokens: Codes, weight: Codes, dtype: torch.dtype) -> Tensor:
    product = torch._int_mm(tokens.codes, weight.codes.T)  # int32
    return product.float().mul_(tokens.scale).mul_(weight.scale.reshape(1, -1)).to(dtype)


ARITHMETIC = {
    "fp8": Arithmetic(torch.float8_e4m3fn, 448.0, _multiply_e4m3, "scaled_mm in E4M3"),
    "fp8-sim": Arithmetic(torch.float8_e4m3fn, 448.0, _multiply_e4m3_in_fp32, "E4M3 codes in float32"),
    "int8": Arithmetic(torch.int8, 127.0, _multiply_int8, "_int_mm"),
}


class QuantizedLinear(nn.Module):
    """`nn.Linear` with 8-bit weights and 8-bit activations; the bias is added in the activations' own dtype."""

    codes: Tensor
    scale: Tensor
    input_scale: Tensor | None  # float32 []; None: by token, as they come

    def __init__(
        self, weight: Codes, bias: nn.Parameter | None, arithmetic: Arithmetic, *, input_scale: Tensor | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("codes", weight.codes)
        self.register_buffer("scale", weight.scale)
        self.register_buffer("input_scale", input_scale)
        self.bias = bias
        self.arithmetic = arithmetic

    def forward(self, tokens: Tensor) -> Tensor:
        rows = tokens.flatten(0, -2)
        blocks = [self._multiply(block) for block in torch.split(rows, ROWS if rows.is_cpu else len(rows))]
        product = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        if self.bias is not None:
            product += self.bias
        return product.reshape(*tokens.shape[:-1], -1)

    def _multiply(self, rows: Tensor) -> Tensor:
        if self.input_scale is None:
            tokens = encode_by_row(rows, self.arithmetic)
        else:
            tokens = encode(rows, self.input_scale, self.arithmetic)
        return self.arithmetic.multiply(tokens, Codes(self.codes, self.scale), rows.dtype)


def require_device(precision: str, device: torch.device) -> None:
    """Raise EngineUnavailable where an 8-bit precision cannot be computed; the line says what can."""
    if precision == "fp8":
        has = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
        if has is None or has < CAPABILITY:
            here = f"compute capability {has[0]}.{has[1]}" if has else f"device {device.type}"
            raise EngineUnavailable(
                f"precision fp8 needs a CUDA device of compute capability 8.9 or more, this is {here}: take fp8-sim, "
                "the same numbers on any device, without the speed"
            )
    if precision == "int8" and device.type != "cpu":
        raise EngineUnavailable(f"precision int8 is computed on a CPU only, not on {device.type}: set device cpu")
    if precision == "fp8-sim" and device.type == "mps":  # torch has no float8 there
        raise EngineUnavailable("precision fp8-sim needs E4M3, which device mps lacks: set device cpu")


def convert(backbone: nn.Module, precision: str, scales: Mapping[str, Tensor]) -> None:
    """Put 8-bit layers in the place of the backbone's linear ones, if that is what the precision asks for.

    `scales` are those of a ModelOpt export, by their names below the backbone, whose weights are codes already;
    a layer that it left out stays as it is. None in it: the checkpoint is full, and every layer is converted.
    Raises EngineUnavailable for an export in any other precision than E4M3.
    """
    arithmetic = ARITHMETIC.get(precision)
    if scales and (arithmetic is None or arithmetic.code != torch.float8_e4m3fn):
        raise EngineUnavailable(
            f"the checkpoint holds FP8 weights, not computed in {precision}: take precision fp8 or fp8-sim, or the "
            "checkpoint that it was made of"
        )
    if arithmetic is None:
        return
    for name, layer in list(backbone.named_modules()):
        if not isinstance(layer, nn.Linear) or (scales and f"{name}.weight_scale" not in scales):
            continue
        if arithmetic.code.is_floating_point and any(side % SIXTEEN for side in layer.weight.shape):
            sides = " x ".join(map(str, layer.weight.shape))
            raise EngineUnavailable(f"{name} is {sides}: {precision} takes multiples of 16 only, use bf16")
        backbone.set_submodule(name, _converted(name, layer, arithmetic, scales))


def _converted(name: str, layer: nn.Linear, arithmetic: Arithmetic, scales: Mapping[str, Tensor]) -> QuantizedLinear:
    weight = layer.weight.detach()
    if not scales:
        return QuantizedLinear(encode_by_row(weight, arithmetic), layer.bias, arithmetic)
    stored = Codes(weight.to(arithmetic.code), scales[f"{name}.weight_scale"])  # exact: codes, read as 16-bit numbers
    return QuantizedLinear(stored, layer.bias, arithmetic, input_scale=scales[f"{name}.input_scale"])


def describe(backbone: nn.Module) -> dict[str, str]:
    """What a backbone's 8-bit layers are, counted in the model itself; empty if it has none."""
    layers = [module for module in backbone.modules() if isinstance(module, QuantizedLinear)]
    if not layers:
        return {}
    others = [module for module in backbone.modules() if isinstance(module, nn.Linear)]
    counted = Counter(
        [f"QuantizedLinear {str(layer.codes.dtype).removeprefix('torch.')}" for layer in layers]
        + [f"Linear {str(layer.weight.dtype).removeprefix('torch.')}" for layer in others]
    )
    static = layers[0].input_scale is not None
    return {
        "linear_layers": ", ".join(f"{count} {kind}" for kind, count in counted.items()),
        "weight_scales": "by output row" if layers[0].scale.ndim else "by matrix, of the checkpoint",
        "activation_scales": "by matrix, of the checkpoint" if static else "by token, as they come",
        "kernel": layers[0].arithmetic.kernel,
    }
