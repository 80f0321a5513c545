"""The counted work of a forward against torch's count and by hand; the ceiling against known clocks."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel

from engines.torch import ceiling, work
from engines.torch.work import Shape

SHAPES = Path(__file__).parents[2] / "configs" / "shapes"
TINY = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def shape_of(config: Any) -> Shape:
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    shape = ceiling.shape_of(model, config, weight_bytes=2, activation_bytes=2)
    assert shape is not None
    return shape


@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_operations_equal_torchs_count_except_for_masked_keys(tokens: int) -> None:
    config = transformers.Qwen2Config(**TINY, attn_implementation="eager")
    model: Any = AutoModel.from_config(config)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, tokens, dtype=torch.long))
    counted = {str(name): flops for name, flops in counter.get_flop_counts()["Global"].items()}
    attention = counted.pop("aten.bmm")  # every query with every key, half of which are masked afterwards
    matrices = sum(counted.values())
    shape = shape_of(config)
    assert shape.flops(tokens, 0) == matrices
    assert shape.flops(0, tokens * tokens) == attention
    assert shape.flops(tokens, work.causal_keys(tokens)) == matrices + attention * (tokens + 1) / (2 * tokens)


@pytest.mark.parametrize(("name", "gflop_per_token"), [("base", 0.716), ("large", 2.62)])
def test_the_shipped_shapes_have_the_work_of_qwen2_5(name: str, gflop_per_token: float) -> None:
    shape = shape_of(AutoConfig.from_pretrained(SHAPES / name))
    assert shape.flops(1, 0) / 1e9 == pytest.approx(gflop_per_token, rel=1e-3)
    by_hand = {  # layers x (q and o, k and v, gate with up and down)
        "base": 24 * (2 * 896 * 896 + 2 * 128 * 896 + 3 * 4864 * 896),
        "large": 28 * (2 * 1536 * 1536 + 2 * 256 * 1536 + 3 * 8960 * 1536),
    }
    assert sum(outputs * inputs for outputs, inputs in shape.matrices) == by_hand[name]
    assert shape.attention == {"base": 24 * 14 * 64, "large": 28 * 12 * 128}[name]


def test_a_model_that_uses_a_block_several_times_has_no_shape() -> None:
    config = transformers.AlbertConfig(vocab_size=50, hidden_size=32, num_attention_heads=4, intermediate_size=48)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    assert ceiling.shape_of(model, config, weight_bytes=2, activation_bytes=2) is None


SMALL = Shape(((3, 5), (7, 2)), attention=11, weight_bytes=1, activation_bytes=4)


def test_flops_and_bytes_match_a_computation_by_hand() -> None:
    assert SMALL.flops(10, 100) == 2 * (15 + 14) * 10 + 4 * 11 * 100
    assert SMALL.moved_bytes(10, 2) == 2 * 29 * 1 + 10 * (8 + 9) * 4


@given(
    prefix=st.integers(1, 20),
    packs=st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=4), min_size=1, max_size=4),
)
def test_packed_counts_equal_a_sum_over_every_token(prefix: int, packs: list[list[int]]) -> None:
    computed = keys = 0
    for tails in packs:
        computed += prefix + sum(tails)
        keys += sum(range(1, prefix + 1)) + sum(sum(range(prefix + 1, prefix + tail + 1)) for tail in tails)
    tails = [tail for pack in packs for tail in pack]
    counts = work.packed(SMALL, prefix, tails, computed, ends_only=False)
    alone = [range(1, prefix + tail + 1) for tail in tails]
    assert counts.document() == {
        "tokens": sum(map(len, alone)),
        "computed_tokens": computed,
        "padded_tokens": 0,
        "flops": SMALL.flops(sum(map(len, alone)), sum(map(sum, alone))),
        "computed_flops": SMALL.flops(computed, keys),
        "computed_bytes": SMALL.moved_bytes(computed, len(packs)),
    }


def test_a_last_block_for_ends_only_saves_matrices_and_attention_of_other_tokens() -> None:
    """Prefix 2 and tails 1 and 3 in one pack: 6 tokens, 2 ends; keys 1 + 2, 3, 3 + 4 + 5; the ends use 3 + 5."""
    shape = SMALL._replace(attention=12, blocks=3, at_ends=((7, 2),))
    whole = work.packed(shape, 2, [1, 3], 6, ends_only=False)
    ends = work.packed(shape, 2, [1, 3], 6, ends_only=True)
    assert whole.computed_flops - ends.computed_flops == 2 * 14 * (6 - 2) + 4 * (12 // 3) * (18 - 8)
    assert whole.computed_bytes - ends.computed_bytes == (6 - 2) * 9 * 4
    assert whole.flops == ends.flops


def test_the_matrices_at_ends_are_those_of_the_last_block_without_keys_and_values() -> None:
    shape = shape_of(transformers.Qwen2Config(**TINY))
    assert shape.blocks == 3
    assert sorted(shape.at_ends) == [(32, 32), (32, 32), (32, 48), (48, 32), (48, 32)]


def test_without_a_shape_only_tokens_are_counted() -> None:
    assert work.packed(None, 4, [2, 3], 9, ends_only=True).document() == {
        "tokens": 13,
        "computed_tokens": 9,
        "padded_tokens": 0,
    }
    assert work.padded(None, [2, 3], 3, causal=True).document() == {
        "tokens": 5,
        "computed_tokens": 6,
        "padded_tokens": 1,
    }


@pytest.mark.parametrize(("causal", "useful", "computed"), [(False, 4 + 9, 2 * 9), (True, 3 + 6, 2 * 6)])
def test_padded_rows_count_with_the_length_of_the_longest(causal: bool, useful: int, computed: int) -> None:
    counts = work.padded(SMALL, [2, 3], 3, causal=causal)
    assert (counts.flops, counts.computed_flops) == (SMALL.flops(5, useful), SMALL.flops(6, computed))
    assert counts.computed_bytes == SMALL.moved_bytes(6, 1)


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "dtype", "factors"),
    [
        ("fp32", torch.float32, "float32"),
        ("bf16", torch.bfloat16, "bfloat16"),
        ("int8", torch.float32, "int8"),
        ("fp8-sim", torch.bfloat16, "float32"),
    ],
)
def test_every_precision_of_a_cpu_has_a_ceiling(
    monkeypatch: pytest.MonkeyPatch, one_thread: None, precision: str, dtype: torch.dtype, factors: str
) -> None:
    monkeypatch.setattr(ceiling, "SECONDS", 0.0)
    monkeypatch.setattr(ceiling, "COPY_BYTES", 1 << 16)
    measured = ceiling.measure(Shape(((64, 32), (32, 64)), 1, 2, 2), precision=precision, dtype=dtype, device=CPU)
    assert measured is not None
    assert math.isfinite(measured.flops_per_s) and measured.flops_per_s > 0 and measured.bytes_per_s > 0
    assert measured.dtype == factors
    assert measured.how.startswith("cpu, threads 1;")


def test_every_matrix_counts_with_its_best_time_and_its_number_of_occurrences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """64 x 32 occurs three times at 100 FLOP/s and 16 x 32 once at 50 FLOP/s; the slow one adds its own time."""
    sizes: list[tuple[int, int, int]] = []

    def products(outputs: int, inputs: int, tokens: int, *_: object) -> list[Any]:
        sizes.append((outputs, inputs, tokens))
        seconds = 2.0 * outputs * inputs * tokens / {64: 100.0, 16: 50.0}[outputs]
        return [lambda: seconds * 3, lambda: seconds if tokens == 1024 else seconds * 2]

    monkeypatch.setattr(ceiling, "_products", products)
    monkeypatch.setattr(ceiling, "_seconds", lambda product, share_s, device: product())
    monkeypatch.setattr(ceiling, "_copied_bytes_per_s", lambda device: 7.0)
    shape = Shape(((64, 32), (16, 32), (64, 32), (64, 32)), 1, 2, 2)
    measured = ceiling.measure(shape, precision="fp32", dtype=torch.float32, device=CPU)
    assert measured is not None
    flops = 2 * 32 * (3 * 64 + 16)
    assert measured.flops_per_s == pytest.approx(flops / (2 * 32 * 3 * 64 / 100 + 2 * 32 * 16 / 50))
    assert measured.bytes_per_s == 7.0
    assert sorted(sizes) == [(16, 32, 256), (16, 32, 1024), (64, 32, 256), (64, 32, 1024)]


def test_a_clock_takes_the_fastest_call_and_a_copy_counts_reads_and_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 1.0, 4.0, 5.0, 7.0, 99.0])  # start; a call of 3 s; a call of 2 s; the time is up
    monkeypatch.setattr(ceiling.time, "perf_counter", lambda: next(ticks))
    calls: list[int] = []
    assert ceiling._seconds(lambda: calls.append(1), 0.0, CPU) == 2.0
    assert len(calls) == 1 + ceiling.REPEATS
    monkeypatch.setattr(ceiling, "COPY_BYTES", 1000)
    monkeypatch.setattr(ceiling, "_seconds", lambda product, share_s, device: 0.5)
    assert ceiling._copied_bytes_per_s(CPU) == 4000.0


def test_a_device_without_a_clock_has_no_ceiling() -> None:
    assert ceiling.measure(SMALL, precision="fp16", dtype=torch.float16, device=torch.device("mps")) is None
