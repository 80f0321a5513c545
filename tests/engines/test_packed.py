"""The packed forward against the plain forward of every prompt alone.

`engines.torch.forward.cpu` computes models built like Qwen2, Qwen3 and Llama; transformers computes all others.
"""

import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from engines import EngineUnavailable
from engines.base import Counts
from engines.prompts.encoder import Prompt
from engines.torch import prepacked, quantized
from engines.torch.faults import first_overflow
from engines.torch.forward import cpu, packed

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
# name -> model in transformers, its special settings, whether `cpu` computes it
MODELS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "qwen2": ("Qwen2", {}, True),
    "qwen2, one group": ("Qwen2", {"num_key_value_heads": 1}, True),
    "qwen3, wide heads": ("Qwen3", {"head_dim": 12}, True),
    "llama, biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}, True),
    "llama, gelu": ("Llama", {"hidden_act": "gelu"}, True),
    "gemma, other norms and embeddings": ("Gemma", {}, True),
    "granite, factors in the residual stream": ("Granite", {"residual_multiplier": 0.3}, False),
    "helium, other dimensions turn together": ("Helium", {}, False),
    "smollm3, a layer without positions": ("SmolLM3", {"no_rope_layer_interval": 2}, False),
    "phi3, products in one": ("Phi3", {}, False),
}


def make(name: str) -> Any:
    kind, settings_, _ = MODELS[name]
    torch.manual_seed(0)
    library: Any = transformers
    config = getattr(library, f"{kind}Config")(**{**SIZES, **settings_})
    backbone = getattr(library, f"{kind}Model")(config).eval()
    for parameter in backbone.parameters():  # biases and norms are 0 and 1 before training
        parameter.data += 0.1 * torch.randn_like(parameter)
    return backbone


@cache
def packing(name: str) -> Any:
    backbone = make(name)
    backbone.set_attn_implementation(packed.NAME)
    return backbone


@cache
def plain(name: str) -> Any:
    return make(name)


HEAD = torch.linspace(-1, 1, 32)


@torch.inference_mode()
def alone(name: str, prefix: tuple[int, ...], tail: tuple[int, ...]) -> float:
    """The score of one prompt by transformers' own forward and attention."""
    return float(plain(name)(torch.tensor([prefix + tail]), use_cache=False).last_hidden_state[0, -1] @ HEAD)


def prompt_of(prefix: int, tails: list[int]) -> Prompt:
    """A prompt with these numbers of tokens, in which neighbouring tokens differ."""
    numbers = iter(7 * i * i % 49 + 1 for i in range(10**6))
    return Prompt(
        [next(numbers) for _ in range(prefix)], [[next(numbers) for _ in range(tail)] for tail in tails], Counts()
    )


def expected(name: str, prompt: Prompt) -> list[float]:
    return [alone(name, tuple(prompt.prefix), tuple(tail)) for tail in prompt.tails]


lengths = st.lists(st.integers(1, 90), min_size=1, max_size=5)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None: ...


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8, deadline=None)
@given(
    prefix=st.integers(0, 80),
    tails=lengths,
    budget=st.sampled_from([1, 60, 2048]),
    block=st.sampled_from([5, 512]),
    threads=st.sampled_from([1, 3]),
)
def test_lengths_budget_and_threads_change_no_score(
    name: str, prefix: int, tails: list[int], budget: int, block: int, threads: int
) -> None:
    prompt = prompt_of(prefix, tails)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "TOKEN_BYTES", 4 * block)
        scores, computed = packed.score(packing(name), HEAD, prompt, budget=budget, threads=threads)
    assert scores.tolist() == pytest.approx(expected(name, prompt), abs=1e-4)
    assert computed >= prefix + sum(tails)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_takes_our_forward_only_if_its_scores_stay_the_same(name: str) -> None:
    computed_by_cpu = MODELS[name][2]
    assert packed.fits(packing(name)) == computed_by_cpu
    assert packed.attention_name(packing(name)) == ("products by rows" if computed_by_cpu else "sdpa per segment")


def test_some_models_have_the_parts_of_our_forward_but_other_scores() -> None:
    assert cpu.has_parts(packing("granite, factors in the residual stream"))
    assert cpu.has_parts(packing("helium, other dimensions turn together"))
    assert not cpu.has_parts(packing("phi3, products in one"))


def calls(backbone: Any, name: str, run: Callable[[], object]) -> list[int]:
    """Number of rows in every call of one module."""
    rows: list[int] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows.append(len(inputs[0]))

    hook = backbone.get_submodule(name).register_forward_pre_hook(count)
    run()
    hook.remove()
    return rows


def test_the_last_layer_computes_only_tokens_that_a_score_is_read_from() -> None:
    backbone = packing("qwen2")
    run = partial(packed.score, backbone, HEAD, prompt_of(10, [20, 30, 40]), budget=2048)
    assert packed.fits(backbone)  # called first, so that its own small pack is not counted
    assert calls(backbone, "layers.1.mlp.down_proj", run) == [100]
    assert calls(backbone, "layers.2.mlp.down_proj", run) == [3]
    assert calls(backbone, "layers.2.self_attn.q_proj", run) == [3]
    assert calls(backbone, "layers.2.self_attn.k_proj", run) == [100]


def test_tokens_go_through_the_products_in_blocks_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "TOKEN_BYTES", 4 * 32)
    backbone = packing("qwen2")
    run = partial(packed.score, backbone, HEAD, prompt_of(10, [60]), budget=2048)
    assert packed.fits(backbone)
    assert calls(backbone, "layers.1.mlp.gate_proj", run) == [24, 24, 22]
    assert calls(backbone, "layers.0.self_attn.q_proj", run) == [35, 35]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["qwen2", "qwen3, wide heads", "llama, biases"])
def test_prepacked_weights_give_the_same_scores(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepacked, "SMALLEST", 1)
    backbone = make(name)
    backbone.set_attn_implementation(packed.NAME)
    backbone.to(dtype)
    prompt = prompt_of(10, [20, 3, 1, 40])
    before, _ = packed.score(backbone, HEAD, prompt, budget=60)
    cpu.prepack(backbone)
    assert sum(isinstance(module, prepacked.PrepackedLinear) for module in backbone.modules()) == 21
    after, _ = packed.score(backbone, HEAD, prompt, budget=60)
    tolerance = 1e-4 if dtype == torch.float32 else 0.1 * float(before.std())
    assert after.tolist() == pytest.approx(before.tolist(), abs=tolerance)
    if dtype == torch.float32:
        assert after.tolist() == pytest.approx(expected(name, prompt), abs=1e-4)


def test_prepacked_weights_take_no_more_memory_and_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(256, 512)
    backbone = nn.Sequential(layer)
    before = sum(tensor.nbytes for tensor in backbone.parameters())
    cpu.prepack(backbone)
    assert type(backbone[0]) is prepacked.PrepackedLinear
    assert [tuple(parameter.shape) for parameter in backbone.parameters()] == [(512,)]
    assert before <= sum(tensor.nbytes for tensor in (*backbone.parameters(), *backbone.buffers())) <= 1.1 * before
    backbone.to("meta")
    assert sum(tensor.nbytes for tensor in backbone.buffers()) == 0


@pytest.mark.parametrize(
    "weight", [torch.zeros(8, 8), torch.zeros(256, 256).half(), torch.zeros(256, 256, device="meta")]
)
def test_small_weights_and_other_types_are_not_prepacked(weight: Tensor) -> None:
    assert not prepacked.can_prepack(weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(deadline=None)
@given(keys=st.integers(1, 300), masked=st.integers(0, 299), seed=st.integers(0, 99))
def test_the_fast_softmax_equals_torchs_and_keeps_nan(dtype: torch.dtype, keys: int, masked: int, seed: int) -> None:
    scores = 10 * torch.randn(2, 3, keys, generator=torch.Generator().manual_seed(seed))
    scores[1, 1, max(1, keys - masked) :] = -torch.inf
    scores[0, 0, -1], scores[0, 2, 0] = torch.nan, torch.inf
    scores = scores.to(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "MANY_SCORES", 0)
        fast, exact = cpu._softmax(scores).float(), scores.float().softmax(-1)
    finite = torch.tensor([[False, True, False], [True, True, True]])
    assert fast.isfinite().all(-1).equal(finite)  # a NaN in every other row makes its product with the values NaN
    assert (fast - exact)[finite].abs().max() <= (1e-6 if dtype == torch.float32 else 2**-8)
    assert (fast[1, 1, max(1, keys - masked) :] == 0).all()


@pytest.mark.parametrize("name", ["layers.1.mlp.down_proj", "layers.2.self_attn.k_proj", "norm", "layers.0.mlp.act_fn"])
@pytest.mark.parametrize("packs", [False, True])
def test_an_overflow_is_found_where_it_began(name: str, packs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepacked, "SMALLEST", 1)
    backbone = make("qwen3, wide heads")
    backbone.set_attn_implementation(packed.NAME)
    if packs:
        assert packed.fits(backbone)  # called before the hook; otherwise transformers' forward would run
        cpu.prepack(backbone)
    prompt = prompt_of(10, [20, 3])
    forward = partial(packed.score, backbone, HEAD, prompt, budget=2048)
    assert first_overflow(backbone, forward) is None
    backbone.get_submodule(name).register_forward_hook(lambda module, inputs, output: output * torch.inf)
    assert first_overflow(backbone, forward) == name


def test_a_kernel_for_attention_leaves_the_forward_to_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = packing("qwen2")
    monkeypatch.setattr(cpu, "forward", lambda *_: pytest.fail("the forward of cpu ran"))
    monkeypatch.setattr(packed, "has_kernel", lambda device, dtype: True)
    monkeypatch.setattr(packed, "_attend_by_kernel", lambda query, *_: query.transpose(1, 2))
    scores, _ = packed.score(backbone, HEAD, prompt_of(3, [4]), budget=2048)
    assert scores.isfinite().all()


def test_layers_of_an_fp8_export_take_our_forward() -> None:
    backbone = make("qwen2")
    backbone.set_attn_implementation(packed.NAME)
    scales: dict[str, Tensor] = {}
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Linear):
            scales |= {f"{name}.weight_scale": torch.tensor(0.01), f"{name}.input_scale": torch.tensor(0.02)}
            module.weight.data = (module.weight.data / 0.01).to(torch.float8_e4m3fn).float()
    quantized.convert(backbone, "fp8-sim", scales)
    assert packed.fits(backbone)


def int8_scores(*, prepack: bool) -> Tensor:
    backbone = make("qwen2")
    backbone.set_attn_implementation(packed.NAME)
    quantized.convert(backbone, "int8", {})
    if prepack:
        cpu.prepack(backbone)
    assert packed.fits(backbone)
    return packed.score(backbone, HEAD, prompt_of(10, [20, 30, 5, 60]), budget=60)[0]


def test_int8_scores_in_bytes_stay_close_to_fp32() -> None:
    if not quantized.has_integer_products():
        pytest.skip("this CPU has no exact products of bytes in oneDNN")
    exact = torch.tensor(expected("qwen2", prompt_of(10, [20, 30, 5, 60])))
    spread = float(exact.max() - exact.min())
    for prepack in (False, True):
        scores = int8_scores(prepack=prepack)
        assert scores.tolist() != pytest.approx(exact.tolist(), abs=1e-4)
        assert scores.tolist() == pytest.approx(exact.tolist(), abs=0.1 * spread)


PARAMETERS = [(model, name) for model in ("qwen2", "llama, biases") for name, _ in make(model).named_parameters()]


@pytest.mark.parametrize("wrong", [torch.nan, -torch.inf])
@pytest.mark.parametrize(("model", "name"), PARAMETERS)
def test_int8_refuses_a_weight_with_nan_or_infinity_by_its_name(model: str, name: str, wrong: float) -> None:
    backbone = make(model)
    weight = backbone.get_parameter(name).data
    weight[(3,) * weight.ndim] = wrong
    matrix_or_norm = re.escape(name.removesuffix(".weight"))
    with pytest.raises(EngineUnavailable, match=rf"^{matrix_or_norm}(\.weight)? has NaN or infinities; int8 needs"):
        quantized.convert(backbone, "int8", {})
