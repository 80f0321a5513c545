"""The forward for a GPU, run on a CPU: its scores, its compilation, and that it never waits for the device."""

import gc
import weakref
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from engines import EngineUnavailable, Pair, ScoringFailed, load
from engines.base import Counts
from engines.prompts.encoder import Prompt
from engines.torch import quantized
from engines.torch.engine import TorchEngine
from engines.torch.forward import gpu, graphs, launcher, packed, stream, varlen
from engines.torch.forward.gpu import Fused
from engines.torch.forward.graphs import Bucket
from engines.torch.forward.launcher import ForwardSettings
from engines.torch.forward.stream import Sheet

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
# name -> model in transformers, its special settings, the forward that computes it
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "qwen2": ("Qwen2", {}, "fused"),
    "qwen3, wide heads": ("Qwen3", {"head_dim": 32}, "fused"),
    "llama, biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}, "fused"),
    "llama, gelu": ("Llama", {"hidden_act": "gelu"}, "packed"),
    "gemma, other norms": ("Gemma", {}, "packed"),
    "granite, factors in the residual stream": ("Granite", {"residual_multiplier": 0.3}, "packed"),
    "phi3, products in one": ("Phi3", {"pad_token_id": 0}, "packed"),
}
HEAD = torch.linspace(-1, 1, 64)


def make(name: str = "qwen2", precision: str = "fp32") -> Any:
    kind, settings_, _ = MODELS[name]
    torch.manual_seed(0)
    library: Any = transformers
    backbone = getattr(library, f"{kind}Model")(getattr(library, f"{kind}Config")(**{**SIZES, **settings_})).eval()
    for parameter in backbone.parameters():  # biases and norms are 0 and 1 before training
        parameter.data += 0.1 * torch.randn_like(parameter)
    quantized.convert(backbone, precision, {})
    backbone.set_attn_implementation(packed.NAME)
    return backbone


@cache
def fusing(precision: str = "fp32") -> Fused:
    made = gpu.fuse(make("qwen2", precision))
    assert made is not None
    return made


@cache
def packing(precision: str = "fp32") -> Any:
    return make("qwen2", precision)


def prompt_of(prefix: int, tails: Sequence[int]) -> Prompt:
    """A prompt with these numbers of tokens, in which neighbouring tokens differ."""
    numbers = iter(7 * i * i % 61 + 1 for i in range(10**6))
    return Prompt([next(numbers) for _ in range(prefix)], [[next(numbers) for _ in range(n)] for n in tails], Counts())


def on_cpu(made: Fused) -> Callable[[Sheet], Tensor]:
    return lambda sheet: gpu.forward(made, stream.place(sheet, torch.device("cpu")))


def score(made: Fused, prompt: Prompt, budget: int = 2048) -> Tensor:
    return stream.score(on_cpu(made), HEAD, prompt, budget=budget)[0]


def open_engine(folder: str, template: str, **options: Any) -> TorchEngine:
    common = {"model": folder, "template": template, "precision": "fp32", "device": "cpu", "token_budget": 60}
    engine = load("torch", {**common, **options})
    assert isinstance(engine, TorchEngine)
    return engine


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None: ...


# Scores


lengths = st.lists(st.integers(1, 60), min_size=1, max_size=6)


@settings(max_examples=15, deadline=None)
@given(prefix=st.integers(0, 40), tails=lengths, budget=st.sampled_from([1, 60, 2048]))
def test_scores_and_tokens_equal_those_of_the_packed_forward(prefix: int, tails: list[int], budget: int) -> None:
    prompt = prompt_of(prefix, tails)
    expected, tokens = packed.score(packing(), HEAD, prompt, budget=budget)
    scores, computed = stream.score(on_cpu(fusing()), HEAD, prompt, budget=budget)
    assert computed == tokens
    assert torch.allclose(scores, expected, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_the_forward_is_fused_only_if_the_models_scores_stay_the_same(name: str) -> None:
    backbone, prompt = make(name), prompt_of(10, [20, 30, 5])
    expected, _ = packed.score(make(name), HEAD, prompt, budget=60)
    chosen = launcher.choose(backbone, HEAD, ForwardSettings(kernels="fused"))
    assert chosen.how["kernels"].partition(":")[0] == MODELS[name][2]
    assert torch.allclose(chosen.score(prompt, budget=60)[0], expected, atol=1e-4)


def test_fused_products_share_memory_with_the_layers_that_they_replace() -> None:
    backbone = make()
    before = sum(parameter.nbytes for parameter in backbone.parameters())
    made = gpu.fuse(backbone)
    assert made is not None
    attention, mlp = backbone.layers[1].self_attn, backbone.layers[1].mlp
    assert attention.q_proj.weight.data_ptr() == made.layers[1].into.weight.data_ptr()
    assert mlp.up_proj.weight.data_ptr() == made.layers[1].up.weight[96:].data_ptr()
    assert sum(parameter.nbytes for parameter in backbone.parameters()) == before


def test_fused_8_bit_products_use_the_codes_of_the_layers() -> None:
    prompt = prompt_of(10, [20, 30, 5])
    expected, _ = packed.score(packing("fp8-sim"), HEAD, prompt, budget=60)
    exact, _ = packed.score(packing(), HEAD, prompt, budget=60)
    scores = score(fusing("fp8-sim"), prompt, 60)
    assert (scores - expected).abs().max() < 0.1 * (exact - expected).abs().max()


def test_calibrated_scales_of_an_export_are_used_and_must_be_shared() -> None:
    backbone, prompt = make("qwen2", "fp8-sim"), prompt_of(10, [20, 30, 5])
    layers = [module for module in backbone.modules() if isinstance(module, quantized.QuantizedLinear)]
    for layer in layers:
        layer.input_scale = torch.tensor(0.05)
    expected, _ = packed.score(backbone, HEAD, prompt, budget=2048)
    made = gpu.fuse(backbone)
    assert made is not None and made.layers[0].into.input_scale == torch.tensor(0.05)
    assert torch.allclose(score(made, prompt), expected, atol=0.02 * float(expected.abs().max()))
    layers[0].input_scale = torch.tensor(0.06)  # only the layer of queries
    assert gpu.fuse(backbone) is None


def test_int8_is_left_to_the_packed_forward() -> None:
    chosen = launcher.choose(make("qwen2", "int8"), HEAD, ForwardSettings(kernels="fused"))
    assert chosen.how["kernels"].startswith("packed")


def test_a_cpu_gets_the_packed_forward() -> None:
    assert launcher.choose(make(), HEAD, ForwardSettings()).how == {"attention": "products by rows"}


@pytest.mark.parametrize("kernels", ["packed", "fused"])
def test_cuda_graphs_are_refused_on_a_cpu(kernels: launcher.Kernels) -> None:
    with pytest.raises(EngineUnavailable, match=f"cuda_graphs on device cpu with kernels {kernels}: expected a CUDA"):
        launcher.choose(make(), HEAD, ForwardSettings(kernels, cuda_graphs=True))


# The engine


PAIRS = [Pair(query, document) for query in ("cats", "where") for document in ("a cat sat", "", "dogs bark " * 9)]


@pytest.mark.parametrize("kind", ["causal", "classifier"])
def test_the_engine_scores_and_counts_the_same_with_either_forward(
    kind: str, request: pytest.FixtureRequest, tiny_template: str
) -> None:
    folder = request.getfixturevalue(kind)
    engines = [open_engine(folder, tiny_template, kernels=kernels) for kernels in ("packed", "fused")]
    expected, scores = (engine.score(PAIRS) for engine in engines)
    assert scores == pytest.approx(expected, abs=1e-4)
    assert engines[0].counts() == engines[1].counts()
    assert engines[1].describe().details["kernels"] == "fused"
    assert "kernels" not in engines[0].describe().document()


def test_every_query_is_launched_before_any_score_is_fetched(
    classifier: str, tiny_template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(classifier, tiny_template, kernels="fused")
    events: list[str] = []
    launched, fetch = engine._launcher.score, stream.fetch

    def score_(prompt: Prompt, *, budget: int) -> tuple[Tensor, int]:
        events.append("launched")
        return launched(prompt, budget=budget)

    def fetch_(scores: Sequence[Tensor]) -> list[list[float]]:
        events.append("fetched")
        return fetch(scores)

    monkeypatch.setattr(engine, "_launcher", engine._launcher._replace(score=score_))
    monkeypatch.setattr(stream, "fetch", fetch_)
    assert len(engine.score(PAIRS)) == len(PAIRS)
    assert events == ["launched", "launched", "fetched"]


def test_a_closed_engine_holds_no_weights(classifier: str, tiny_template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[Tensor]] = []
    fuse = gpu.fuse

    def watched(backbone: Any, **settings_: Any) -> Fused | None:
        made = fuse(backbone, **settings_)
        assert made is not None
        held.extend(weakref.ref(layer.into.weight) for layer in made.layers)
        return made

    monkeypatch.setattr(gpu, "fuse", watched)
    engine = open_engine(classifier, tiny_template, kernels="fused")
    assert all(weight() is not None for weight in held)
    engine.close()
    gc.collect()
    assert held and all(weight() is None for weight in held)


def test_a_nan_score_names_its_layer_with_the_fused_forward(
    make_checkpoint: Callable[..., str], tiny_template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(weights: dict[str, Any]) -> None:
        weights["model.layers.1.mlp.up_proj.weight"] = torch.full_like(
            weights["model.layers.1.mlp.up_proj.weight"], torch.nan
        )

    folder = make_checkpoint(["0", "1"], change=spoil)
    monkeypatch.setattr(launcher, "agrees", lambda *_: True)  # NaN equals nothing
    with pytest.raises(ScoringFailed, match=r"layers\.1\.mlp\.up_proj is the first"):
        open_engine(folder, tiny_template, kernels="fused").score(PAIRS)


# Compiled


def test_three_compiled_functions_serve_every_layer_and_every_length(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    made, name = launcher.compile_or_not(fusing("fp8-sim"))
    assert (name, counter.frame_count) == ("compiled", 3)  # before attention, after it, and after it for one tail
    for tails in ([20, 30, 5, 60, 1], [2, 3], [7], [100] * 3, [9] * 9):
        prompt = prompt_of(10, tails)
        assert torch.equal(score(made, prompt), score(fusing("fp8-sim"), prompt))
    assert counter.frame_count == 3


def test_an_engine_of_another_shape_is_compiled_like_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    varying: list[list[int]] = []

    def backend(graph: Any, _: object) -> Any:
        given = [node.meta["example_value"] for node in graph.graph.nodes if node.op == "placeholder"]
        tensors = [value for value in given if isinstance(value, Tensor)]
        varying[-1].append(sum(not isinstance(side, int) for tensor in tensors for side in tensor.shape))
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    library: Any = transformers
    for hidden in (64, 128, 192, 256, 320):  # torch.compile keeps 8 versions of a function
        backbone = library.Qwen2Model(library.Qwen2Config(**{**SIZES, "hidden_size": hidden}))
        backbone.set_attn_implementation(packed.NAME)
        varying.append([])
        assert launcher.choose(backbone.eval(), HEAD, ForwardSettings(kernels="compiled")).how["kernels"] == "compiled"
    # Sides that vary before attention: tokens of the hidden states and of two rotations, and keys.
    # Sides that vary after it: tokens of the hidden states and of attention.
    assert varying == [[4, 2, 0]] * 5


def test_a_machine_that_cannot_compile_still_scores_and_records_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Callable[..., object]:
        raise RuntimeError("no C compiler\nsecond line")

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=refuse))
    chosen = launcher.choose(make(), HEAD, ForwardSettings(kernels="compiled"))
    assert chosen.how["kernels"].startswith("fused, not compiled: ")
    assert "\n" not in chosen.how["kernels"]
    prompt = prompt_of(10, [20, 30])
    assert torch.equal(chosen.score(prompt, budget=60)[0], score(fusing(), prompt, 60))


# Nothing waits for the device


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_no_pack_reads_a_value_from_the_device(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors have shapes and no values: reading a value raises."""

    def kernel(*arguments: Any) -> Tensor:
        query, key, value, starts, scale = arguments
        return varlen.launch(query, key, value, starts, (30, 40), scale)

    monkeypatch.setattr(varlen, "_by_segment", kernel)
    monkeypatch.setattr(quantized, "give_back", lambda tensor: None)  # fake tensors have no memory
    prompt = prompt_of(10, [20, 30, 5])
    torch.set_default_dtype(torch.bfloat16)
    try:
        with FakeTensorMode():
            library: Any = transformers
            backbone = library.Qwen2Model(library.Qwen2Config(**SIZES)).eval()
            quantized.convert(backbone, precision, {})
            made = gpu.fuse(backbone)
            assert made is not None
            head = torch.empty(64, dtype=torch.float32)
            scores, computed = stream.score(on_cpu(made), head, prompt, budget=60)
            assert (scores.shape, computed) == ((3,), 65)
            with pytest.raises(DataDependentOutputException):
                stream.fetch([scores])
            waits = lambda sheet: on_cpu(made)(sheet) * stream.place(sheet, head.device).ids.max().item()  # noqa: E731
            with pytest.raises(DataDependentOutputException):
                stream.score(waits, head, prompt, budget=60)
    finally:
        torch.set_default_dtype(torch.float32)


def test_scores_of_several_prompts_are_fetched_together() -> None:
    assert stream.fetch([torch.tensor([1.0, 2.0]), torch.tensor([]), torch.tensor([3.0])]) == [[1.0, 2.0], [], [3.0]]
    assert stream.fetch([]) == []


# Attention


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"is_causal"}, {"is_causal": True}),  # torch 2.10
        ({"scale", "window_size"}, {"window_size": (-1, 0), "scale": 0.25}),  # 2.11
        ({"scale", "window_size", "enable_gqa"}, {"window_size": (-1, 0), "scale": 0.25, "enable_gqa": True}),  # 2.12
    ],
)
def test_the_kernel_gets_the_arguments_of_its_torch_version_for_causal_attention(
    parameters: set[str], expected: dict[str, Any]
) -> None:
    assert varlen.settings(frozenset(parameters), 0.25, 16) == expected


def test_a_kernel_without_a_scale_parameter_refuses_another_scale() -> None:
    with pytest.raises(RuntimeError, match=r"takes no scale, and 0\.3 is not 1 / sqrt"):
        varlen.settings(frozenset({"is_causal"}), 0.3, 16)


def test_heads_of_keys_are_repeated_in_the_order_of_their_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    repeated: list[Tensor] = []

    def kernel(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> Tensor:
        repeated.extend((key, value))
        return query

    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", kernel)
    monkeypatch.setattr(varlen, "PARAMETERS", frozenset({"is_causal"}))
    query, key = torch.zeros(3, 4, 16), torch.arange(2.0)[None, :, None].expand(3, 2, 16)
    starts = torch.tensor([0, 3], dtype=torch.int32)
    varlen.launch(query, key, key + 5, (starts, starts), (3, 3), 0.25)
    assert repeated[0][0, :, 0].tolist() == [0, 0, 1, 1]
    assert repeated[1][0, :, 0].tolist() == [5, 5, 6, 6]


@pytest.mark.parametrize(
    "parameters",
    [{"is_causal"}, {"scale", "window_size"}, {"scale", "window_size", "enable_gqa"}],
    ids=["2.10", "2.11", "2.12"],
)
def test_the_packed_forward_has_the_same_scores_with_every_kernel(
    parameters: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kernel(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
        query_starts, key_starts, longest_query, longest_keys = rest
        assert set(options) <= parameters
        assert options.get("enable_gqa") or key.shape[1] == query.shape[1]
        assert (longest_query, longest_keys) == (query_starts.diff().max(), key_starts.diff().max())
        return varlen._by_segment(query, key, value, (query_starts, key_starts), options.get("scale", 0.25))

    prompt = prompt_of(10, [20, 30, 5])
    expected, _ = packed.score(packing(), HEAD, prompt, budget=60)
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", kernel)
    monkeypatch.setattr(varlen, "PARAMETERS", frozenset(parameters))
    monkeypatch.setattr(packed, "has_kernel", lambda *_: True)
    scores, _ = packed.score(packing(), HEAD, prompt, budget=60)
    assert torch.allclose(scores, expected, atol=1e-4)


def test_the_installed_kernel_takes_a_window_and_a_scale() -> None:
    assert {"window_size", "scale"} <= varlen.PARAMETERS


# Graphs


@settings(max_examples=15, deadline=None)
@given(prefix=st.integers(0, 40), tails=lengths)
def test_no_score_depends_on_the_padding_of_a_bucket(prefix: int, tails: list[int]) -> None:
    prompt = prompt_of(prefix, tails)

    def padded(sheet: Sheet) -> Tensor:
        to = graphs.bucket(sheet)
        assert to is not None
        return on_cpu(fusing())(graphs.pad(sheet, to))[: sheet.tails]

    scores, _ = stream.score(padded, HEAD, prompt, budget=2048)
    assert torch.allclose(scores, score(fusing(), prompt), atol=1e-4)


@settings(max_examples=100, deadline=None)
@given(prefix=st.integers(0, 300), tails=st.lists(st.integers(1, 900), min_size=1, max_size=20))
def test_packs_of_a_bucket_have_one_shape_and_little_padding(prefix: int, tails: list[int]) -> None:
    prompt = prompt_of(prefix, tails)
    sheet = stream.lay_out(prompt.prefix, prompt.tails)
    to = graphs.bucket(sheet)
    assert (to is None) == (sheet.tokens > graphs.LARGEST)
    if to is not None:
        padded = graphs.pad(sheet, to)
        rows = [to.tokens, to.tokens, to.keys, to.segments + 1, to.segments + 1, to.segments - 1]
        assert padded.ends == [sum(rows[: i + 1]) for i in range(6)]
        assert padded.longest == (to.longest, to.keys)
        assert sheet.tokens <= to.tokens < max(sheet.tokens * 1.125, sheet.tokens + 32)


def test_a_bucket_matches_a_computation_by_hand() -> None:
    sheet = stream.lay_out(range(100), [range(300)] * 9)  # 2,800 tokens, 100 + 9 x 400 keys, 10 segments
    assert graphs.bucket(sheet) == Bucket(tokens=2816, keys=4096, segments=16, longest=512)
