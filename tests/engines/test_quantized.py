"""8-bit layers against E4M3 and int8 written out by hand, against each other and against the layers they replace."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from engines import EngineUnavailable
from engines.torch import quantized
from engines.torch.checkpoint import size_bytes
from engines.torch.quantized import ARITHMETIC, QuantizedLinear, encode, encode_by_row

ONE = torch.tensor(1.0)


def e4m3(code: int) -> Fraction:
    """The value of a code from 0 to 126 as the format defines it: 4 bits of exponent with bias 7, 3 of mantissa."""
    exponent, mantissa = divmod(code, 8)
    return (
        Fraction(mantissa, 8) / 2**6 if exponent == 0 else (1 + Fraction(mantissa, 8)) * Fraction(2) ** (exponent - 7)
    )


MAGNITUDES = [e4m3(code) for code in range(127)]  # code 127 is NaN; the format has no infinities


def nearest_e4m3(value: float) -> float:
    """The nearest value; ties go to the even code, and values over 448 saturate at 448."""
    code = min(range(127), key=lambda code: (abs(MAGNITUDES[code] - abs(Fraction(value))), code % 2))
    return float(MAGNITUDES[code]) * (-1 if value < 0 else 1)


def coded(values: list[float], precision: str) -> list[float]:
    codes: list[float] = encode(torch.tensor(values), ONE, ARITHMETIC[precision]).codes.float().tolist()
    return codes


def test_the_table_of_e4m3_equals_torchs() -> None:
    assert [float(value) for value in (*MAGNITUDES[:3], *MAGNITUDES[-3:])] == [0, 2**-9, 2**-8, 384, 416, 448]
    bits = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn)
    assert bits.float().tolist() == [float(value) for value in MAGNITUDES]


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (448.0, 448),
        (449.0, 448),
        (1e9, 448),
        (-1e9, -448),
        (17.0, 16),
        (19.0, 20),
        (-0.3, -0.3125),
        (0.001, 2**-9),
        (2**-10, 0),
        (3 * 2**-10, 2**-8),
        (0.0, 0),
    ],
)
def test_a_number_becomes_the_nearest_e4m3_number(value: float, stored: float) -> None:
    assert coded([value], "fp8-sim") == coded([value], "fp8") == [stored]


@given(st.lists(st.floats(-600, 600, width=32) | st.floats(-1, 1, width=32), min_size=1, max_size=20))
def test_encoding_rounds_to_the_nearest_value_of_the_table(values: list[float]) -> None:
    assert coded(values, "fp8-sim") == [nearest_e4m3(value) for value in values]


@pytest.mark.parametrize(
    ("value", "stored"), [(0.5, 0), (1.5, 2), (-2.6, -3), (127.4, 127), (900.0, 127), (-900.0, -127)]
)
def test_an_integer_code_rounds_half_to_even_and_saturates(value: float, stored: int) -> None:
    assert coded([value], "int8") == [stored]


def test_every_row_has_the_scale_of_its_largest_value() -> None:
    rows = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [300.0, 100.0, -1.0]])
    codes = encode_by_row(rows, ARITHMETIC["int8"])
    assert codes.scale.flatten().tolist() == pytest.approx([2 / 127, 2**-24 / 127, 300 / 127])
    assert codes.codes.tolist() == [[64, -127, 32], [0, 0, 0], [127, 42, 0]]


# Layers


def layer(precision: str, *, rows: int = 48, columns: int = 32, static: bool = False, bias: bool = True) -> Any:
    """A linear layer and its 8-bit form."""
    torch.manual_seed(0)
    plain = nn.Linear(columns, rows, bias=bias)
    arithmetic = ARITHMETIC[precision]
    if not static:
        return plain, QuantizedLinear(encode_by_row(plain.weight.detach(), arithmetic), plain.bias, arithmetic)
    weight = encode(plain.weight.detach(), plain.weight.detach().abs().amax() / 448, arithmetic)
    return plain, QuantizedLinear(weight, plain.bias, arithmetic, input_scale=torch.tensor(4 / 448))


def tokens(count: int = 20, columns: int = 32) -> Tensor:
    return torch.randn(1, count, columns, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("static", [False, True])
@torch.no_grad()
def test_the_simulation_gives_the_results_of_the_kernel(static: bool) -> None:
    _, kernel = layer("fp8", static=static)
    _, simulated = layer("fp8-sim", static=static)
    exact, same = kernel(tokens()), simulated(tokens())
    torch.testing.assert_close(same, exact, rtol=1e-5, atol=1e-5)  # the sums run in another order
    for module in (kernel, simulated):
        module.bias.data = module.bias.data.bfloat16()
    left, right = kernel(tokens().bfloat16()), simulated(tokens().bfloat16())
    assert left.dtype == right.dtype == torch.bfloat16
    torch.testing.assert_close(left, right, rtol=2**-7, atol=2**-7)  # one step of bf16


@pytest.mark.parametrize(("precision", "static"), [("fp8-sim", False), ("fp8-sim", True), ("int8", False)])
@torch.no_grad()
def test_a_layer_computes_the_product_of_its_stored_codes(precision: str, static: bool) -> None:
    _, module = layer(precision, static=static)
    rows = tokens()[0]
    inputs = encode(rows, module.input_scale, module.arithmetic) if static else encode_by_row(rows, module.arithmetic)
    left = inputs.codes.double() * inputs.scale
    right = module.codes.double() * module.scale
    expected = (left @ right.T + module.bias).float()
    torch.testing.assert_close(module(tokens())[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("precision", "error"), [("fp8-sim", 0.05), ("int8", 0.015)])
@torch.no_grad()
def test_a_layer_stays_close_to_the_one_it_replaces(precision: str, error: float) -> None:
    plain, module = layer(precision)
    exact, outputs = plain(tokens()), module(tokens())
    assert outputs.shape == exact.shape
    difference = float((outputs - exact).norm() / exact.norm())
    assert 0.0005 < difference < error


@pytest.mark.parametrize("precision", ["fp8-sim", "int8"])
@torch.no_grad()
def test_the_size_of_row_blocks_changes_no_result(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, module = layer(precision)
    at_once = module(tokens(33))
    monkeypatch.setattr(quantized, "ROWS", 8)
    torch.testing.assert_close(module(tokens(33)), at_once, rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp8", "fp8-sim", "int8"])
@torch.no_grad()
def test_a_row_of_zeros_gives_the_bias_and_one_with_nan_gives_nan(precision: str) -> None:
    _, module = layer(precision)
    rows = tokens()
    rows[0, 3], rows[0, 5, 7] = 0, torch.nan
    outputs = module(rows)[0]
    assert torch.equal(outputs[3], module.bias)
    assert outputs[5].isnan().all()
    assert outputs[[0, 1, 2, 4, 6]].isfinite().all()


# Bytes, as oneDNN multiplies them


@pytest.fixture
def has_bytes() -> None:
    if not quantized.has_integer_products():
        pytest.skip("this CPU has no exact products of bytes in oneDNN")


def values_of(stored: quantized.Bytes) -> torch.Tensor:
    lowest = -quantized.MIDDLE * stored.scale if stored.lowest is None else stored.lowest
    return stored.codes.double() * stored.scale + lowest


def test_bytes_span_the_range_of_a_row() -> None:
    rows = torch.tensor(
        [[0.0, 25.5, 5.0], [-12.75, 12.75, 0.12], [-25.5, -5.0, -0.04], [3.0, 3.0, 3.0], [0.0, 0.0, 0.0]]
    )
    encoded = quantized.encode_by_range(rows)
    assert encoded.lowest is not None
    assert encoded.scale.flatten().tolist() == pytest.approx([0.1, 0.1, 0.09984314, 0, 0], rel=1e-5)
    assert encoded.lowest.flatten().tolist() == [0, -12.75, -25.5, 3, 0]
    assert encoded.codes.tolist() == [[0, 255, 50], [0, 255, 129], [0, 205, 255], [0, 0, 0], [0, 0, 0]]


def test_bytes_around_zero_put_zero_in_the_middle() -> None:
    rows = torch.tensor([[0.0, 12.7, 5.0], [-12.7, 6.35, 0.1], [0.0, 0.0, 0.0]])
    encoded = quantized.encode_around_zero(rows)
    assert encoded.lowest is None
    assert encoded.scale[:2].flatten().tolist() == pytest.approx([0.1] * 2, rel=1e-5)
    assert encoded.codes.tolist() == [[128, 255, 178], [1, 128 + 64, 129], [128, 128, 128]]  # 63.5 rounds to even


rows_of_three = st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=4)


@pytest.mark.parametrize("encode", [quantized.encode_by_range, quantized.encode_around_zero])
@given(values=rows_of_three)
def test_a_byte_is_within_half_a_step_of_its_value(
    encode: Callable[[Tensor], quantized.Bytes], values: list[list[float]]
) -> None:
    rows = torch.tensor(values)
    encoded = encode(rows.clone())
    stored = values_of(encoded)
    # float32 rounds, and fbgemm adds 1e-8 to the range
    rounding = 1e-6 * rows.abs().amax(-1, keepdim=True) + 1e-7
    assert ((stored - rows).abs() <= 0.5 * encoded.scale + rounding).all()
    if encoded.lowest is None:
        assert (stored[rows == 0] == 0).all()


@torch.no_grad()
def test_a_prepacked_layer_computes_the_product_of_its_stored_codes(has_bytes: None) -> None:
    for bias in (True, False):
        _, module = layer("int8", bias=bias)
        weight = module.codes.double() * module.scale
        module.prepack()
        for around_zero in (True, False):
            inputs = module.encode(tokens()[0], around_zero=around_zero)
            expected = (values_of(inputs) @ weight.T + (module.bias if bias else 0)).float()
            torch.testing.assert_close(module(inputs), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(module(module.encode(tokens()[0])), module(tokens())[0])
        assert (module.out_features, module.codes.nbytes >= 48 * 32) == (48, True)


@torch.no_grad()
def test_bytes_are_more_accurate_than_symmetric_codes_if_one_dimension_is_large(has_bytes: None) -> None:
    plain, module = layer("int8")
    rows = tokens()
    rows[..., 5] = 20
    exact, symmetric = plain(rows), module(rows)
    module.prepack()
    assert (module(rows) - exact).norm() < 0.75 * (symmetric - exact).norm()


@torch.no_grad()
def test_a_prepacked_layer_keeps_zeros_nan_and_infinity_and_can_be_freed(has_bytes: None) -> None:
    _, module = layer("int8")
    module.prepack()
    description = quantized.describe(module)
    assert (description["kernel"], description["activation_scales"]) == (
        "onednn qlinear",
        "by token, as they come; from the smallest to the largest value, before gate and up around 0",
    )
    rows = tokens()
    rows[0, 3], rows[0, 5, 7], rows[0, 6, 0] = 0, torch.nan, torch.inf
    outputs = module(rows)[0]
    assert torch.equal(outputs[3], module.bias)
    assert not outputs[[5, 6]].isfinite().any()
    assert outputs[[0, 1, 2, 4, 7]].isfinite().all()
    module.to("meta")
    assert module.codes.numel() == 0


@pytest.mark.parametrize("available", [False, True])
def test_a_layer_is_prepacked_only_on_a_cpu_with_exact_products_of_bytes(
    available: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "has_integer_products", lambda: available)
    _, module = layer("int8")
    _, simulated = layer("fp8-sim")
    for quantized_layer in (module, simulated):
        quantized_layer.prepack()
    assert (module.is_prepacked, simulated.is_prepacked) == (available, False)


# Models


class Model(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 32)
        self.first = nn.Linear(32, width)
        self.second = nn.Linear(width, 32, bias=False)


def test_every_linear_layer_of_a_full_model_is_converted_and_nothing_else() -> None:
    model = Model()
    quantized.convert(model, "fp8", {})
    assert [type(module).__name__ for module in model.children()] == ["Embedding", "QuantizedLinear", "QuantizedLinear"]
    description = quantized.describe(model)
    assert description["linear_layers"] == "2 QuantizedLinear float8_e4m3fn"
    assert (description["weight_scales"], description["activation_scales"]) == (
        "by output row",
        "by token, as they come",
    )
    assert description["kernel"] == "scaled_mm in E4M3"
    assert size_bytes(model) == 4 * 320 + 2 * 32 * 32 + 4 * (32 + 32 + 32)  # embedding; codes; row scales and a bias


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_other_precisions_leave_the_model_unchanged(precision: str) -> None:
    model = Model()
    quantized.convert(model, precision, {})
    assert type(model.first) is nn.Linear
    assert quantized.describe(model) == {}


def test_only_layers_of_an_export_with_scales_are_converted_and_keep_their_codes() -> None:
    model = Model()
    model.first.weight.data = torch.full((32, 32), 416.0)
    scales = {"first.weight_scale": torch.tensor(0.5), "first.input_scale": torch.tensor(0.25)}
    quantized.convert(model, "fp8-sim", scales)
    first: Any = model.first
    assert first.codes.float().unique().tolist() == [416]
    assert (float(first.scale), float(first.input_scale)) == (0.5, 0.25)
    description = quantized.describe(model)
    assert description["linear_layers"] == "1 QuantizedLinear float8_e4m3fn, 1 Linear float32"
    assert (description["weight_scales"], description["activation_scales"]) == ("by matrix, of the checkpoint",) * 2


@pytest.mark.parametrize("precision", ["fp8", "fp8-sim"])
def test_a_layer_that_e4m3_kernels_cannot_take_is_named_and_not_skipped(precision: str) -> None:
    with pytest.raises(EngineUnavailable, match=rf"first is 40 x 32: {precision} takes multiples of 16 only"):
        quantized.convert(Model(width=40), precision, {})


def test_int8_takes_any_width() -> None:
    model = Model(width=40)
    quantized.convert(model, "int8", {})
    assert quantized.describe(model)["linear_layers"] == "2 QuantizedLinear int8"


# Devices


def test_fp8_needs_a_recent_gpu_and_the_message_names_fp8_sim(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineUnavailable, match=r"capability 8\.9 or more, this is device cpu: use fp8-sim"):
        quantized.require_device("fp8", torch.device("cpu"))
    capability = [(8, 6)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability[0])
    with pytest.raises(EngineUnavailable, match=r"this is compute capability 8\.6: use fp8-sim"):
        quantized.require_device("fp8", torch.device("cuda"))
    for capability[0] in ((8, 9), (9, 0), (10, 0)):
        quantized.require_device("fp8", torch.device("cuda"))


@pytest.mark.parametrize(("precision", "device"), [("int8", "cuda"), ("int8", "mps"), ("fp8-sim", "mps")])
def test_a_precision_that_a_device_cannot_compute_is_refused_and_the_message_names_the_cpu(
    precision: str, device: str
) -> None:
    with pytest.raises(EngineUnavailable, match=rf"precision {precision} .*: set device cpu"):
        quantized.require_device(precision, torch.device(device))


@pytest.mark.gpu
@pytest.mark.parametrize("static", [False, True])
@torch.no_grad()
def test_the_kernel_of_a_gpu_gives_the_results_of_the_simulation(static: bool) -> None:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < quantized.CAPABILITY:
        pytest.skip("needs CUDA with E4M3")
    _, kernel = layer("fp8", rows=512, columns=1024, static=static, bias=False)
    _, simulated = layer("fp8-sim", rows=512, columns=1024, static=static, bias=False)
    rows = tokens(300, 1024).bfloat16().cuda()
    outputs, expected = kernel.cuda()(rows), simulated.cuda()(rows)
    torch.testing.assert_close(outputs, expected, rtol=2**-7, atol=2**-7 * float(expected.abs().max()))
