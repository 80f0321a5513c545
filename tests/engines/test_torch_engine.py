"""The torch engine against transformers' own forward, one pair at a time, on tiny random checkpoints."""

import inspect
import json
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from engines import BadOptions, Engine, EngineUnavailable, Pair, ScoringFailed, load
from engines.prompts.encoder import Prompt, PromptEncoder
from engines.prompts.template import Labels, load_template
from engines.torch.checkpoint import Checkpoint, pick_precision
from engines.torch.checkpoint import load as load_checkpoint
from engines.torch.faults import first_overflow
from engines.torch.forward import packed

MakeCheckpoint = Callable[..., str]
Open = Callable[..., Engine]

PAIRS = [
    Pair("cats", "a cat sat"),
    Pair("cats", ""),
    Pair("", "dogs bark"),
    Pair("cats", "a search relevance expert " * 12),
    Pair("where is the document?", "the query and the document"),
    Pair("cats", "a cat sat"),
    Pair("", ""),
]


@pytest.fixture(scope="session")
def open_engine(tiny_template: str) -> Open:
    """Opens an engine on the CPU in fp32 with the small template; options override the defaults."""

    def make(model: str, **options: Any) -> Engine:
        return load(
            "torch", {"model": model, "template": tiny_template, "precision": "fp32", "device": "cpu", **options}
        )

    return make


@cache
def plain_model(folder: str) -> tuple[Any, Any]:
    causal = "causal" in Path(folder, "config.json").read_text().lower()
    auto = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
    tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    return auto.from_pretrained(folder, dtype=torch.float32).eval(), tokenizer


@cache
def plain_score(folder: str, template: str, pair: Pair) -> float:
    """logit("1") - logit("0") of the whole prompt, which is tokenised at once and alone in its batch."""
    model, tokenizer = plain_model(folder)
    ids = tokenizer.encode(load_template(template).render(*pair), add_special_tokens=False).ids
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0]
    if logits.ndim == 2:
        return float(logits[-1, tokenizer.token_to_id("1")] - logits[-1, tokenizer.token_to_id("0")])
    names = model.config.label2id
    return float(logits[names["1"]] - logits[names["0"]] if len(logits) == 2 else logits[0])


def plain_scores(folder: str, template: str, pairs: Sequence[Pair]) -> list[float]:
    return [plain_score(folder, template, pair) for pair in pairs]


# Scores


@pytest.mark.parametrize("labels", [None, ["0", "1"], ["1", "0"], ["LABEL_0"]], ids=str)
@pytest.mark.parametrize("template", ["tiny", "mxbai-v2-seq"])
def test_scores_equal_those_of_the_plain_forward(
    make_checkpoint: MakeCheckpoint, open_engine: Open, tiny_template: str, labels: list[str] | None, template: str
) -> None:
    folder = make_checkpoint(labels)
    template = tiny_template if template == "tiny" else template
    with open_engine(folder, template=template) as engine:
        scores = engine.score(PAIRS)
    expected = plain_scores(folder, template, PAIRS)
    assert max(expected) - min(expected) > 0.5  # otherwise the comparison proves nothing
    assert scores == pytest.approx(expected, abs=1e-4)


def test_an_untied_causal_checkpoint_is_scored_with_its_own_head(
    make_checkpoint: MakeCheckpoint, open_engine: Open, tiny_template: str
) -> None:
    folder = make_checkpoint(tie_word_embeddings=False)
    assert open_engine(folder).score(PAIRS) == pytest.approx(plain_scores(folder, tiny_template, PAIRS), abs=1e-4)


words = st.lists(st.sampled_from(["cat", "sat", " the", "query", ".", "\n", "猫", "0", "1"]), max_size=30).map("".join)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    queries=st.lists(words, min_size=1, max_size=3),
    documents=st.lists(words, min_size=1, max_size=5),
    order=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=10),
    budget=st.sampled_from([1, 60, 2048]),
    rows=st.sampled_from([7, 512]),
    labels=st.sampled_from(["causal", "classifier"]),
)
def test_packing_order_and_lengths_change_no_score(  # noqa: PLR0913
    request: pytest.FixtureRequest,
    tiny_template: str,
    monkeypatch: pytest.MonkeyPatch,
    queries: list[str],
    documents: list[str],
    order: list[tuple[int, int]],
    budget: int,
    rows: int,
    labels: str,
) -> None:
    folder = request.getfixturevalue(labels)
    monkeypatch.setattr(packed, "ROWS", rows)
    pairs = [Pair(queries[q % len(queries)], documents[d % len(documents)]) for q, d in order]
    scores = engine_of(folder, tiny_template, budget).score(pairs)
    assert scores == pytest.approx(plain_scores(folder, tiny_template, pairs), abs=1e-4)


@cache
def engine_of(folder: str, template: str, budget: int) -> Engine:
    options = {"model": folder, "template": template, "precision": "fp32", "device": "cpu", "token_budget": budget}
    return load("torch", options)


def test_a_document_far_over_the_token_budget_and_the_block_of_rows_keeps_its_score(
    classifier: str, tiny_template: str
) -> None:
    pairs = [Pair("cats", "a cat " * 350), Pair("cats", "dogs"), Pair("cats " * 250, "a cat")]
    engine = engine_of(classifier, tiny_template, 60)
    scores = engine.score(pairs)
    assert engine.counts().tokens > 3 * packed.ROWS
    assert scores == pytest.approx(plain_scores(classifier, tiny_template, pairs), abs=1e-4)


def test_an_empty_prefix_gives_the_same_scores(classifier: str, tmp_path: Path, tiny_template: str) -> None:
    bare = tmp_path / "bare.yaml"
    bare.write_text(Path(tiny_template).read_text().replace('"<|im_start|>", "{query}"', '"{query}"'))
    pairs = [Pair("", "cats"), Pair("", ""), Pair("", "a cat sat")]
    scores = engine_of(classifier, str(bare), 2048).score(pairs)
    assert scores == pytest.approx(plain_scores(classifier, str(bare), pairs), abs=1e-4)


def test_full_vocabulary_logits_are_never_computed(
    causal: str, tiny_template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(causal, tiny_template, 2048)
    vocabulary = plain_model(causal)[0].config.vocab_size
    widths: set[int] = set()
    linear = torch.nn.functional.linear

    def watched(*arguments: Any) -> Tensor:
        widths.add(arguments[1].shape[0])
        return linear(*arguments)

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    engine.score(PAIRS)
    assert widths
    assert vocabulary not in widths


def test_bf16_stays_close_to_fp32(classifier: str, open_engine: Open, tiny_template: str) -> None:
    with open_engine(classifier, precision="bf16") as engine:
        assert engine.describe().precision == "bf16"
        scores = engine.score(PAIRS)
    exact = plain_scores(classifier, tiny_template, PAIRS)
    assert scores != pytest.approx(exact, abs=1e-5)
    assert scores == pytest.approx(exact, abs=0.1 * (max(exact) - min(exact)))


def test_16_bit_weights_leave_the_rotary_frequencies_in_fp32(classifier: str, open_engine: Open) -> None:
    with open_engine(classifier, precision="bf16") as half, open_engine(classifier) as full:
        backbone: Any = half._backbone  # type: ignore[attr-defined]
        exact: Any = full._backbone  # type: ignore[attr-defined]
        assert {parameter.dtype for parameter in backbone.parameters()} == {torch.bfloat16}
        assert torch.equal(backbone.rotary_emb.inv_freq, exact.rotary_emb.inv_freq)


# Attention


def varlen_reference(  # noqa: PLR0913
    query: Tensor,  # [tokens, heads, head_dim]
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """varlen_attn as torch documents it: a segment attends to itself, causal from the lower right corner."""
    assert window_size == (-1, 0) and enable_gqa
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert cu_seq_q[[0, -1]].tolist() == [0, len(query)]
    assert cu_seq_k[[0, -1]].tolist() == [0, len(key)]
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    out = torch.empty_like(query)
    for (q0, q1), (k0, k1) in zip(pairwise(cu_seq_q.tolist()), pairwise(cu_seq_k.tolist()), strict=True):
        logits = torch.einsum("qhd,khd->hqk", query[q0:q1], key[k0:k1]) * (scale or query.shape[-1] ** -0.5)
        hidden = torch.ones(q1 - q0, k1 - k0).triu(k1 - k0 - (q1 - q0) + 1).bool()
        out[q0:q1] = torch.einsum("hqk,khd->qhd", logits.masked_fill(hidden, -torch.inf).softmax(-1), value[k0:k1])
    return out


def checkpoint_of(folder: str) -> Checkpoint:
    return load_checkpoint(folder, None, Labels(positive="1", negative="0"))


def checkpoint_and_prompt(folder: str, template: str) -> tuple[Checkpoint, Prompt]:
    checkpoint = checkpoint_of(folder)
    documents = ["a cat sat", "", "the query and the document " * 9, "dogs", "dogs"]
    encoder = PromptEncoder(load_template(template), checkpoint.tokenizer, max_tokens=4096)
    return checkpoint, encoder.encode("where is the cat?", documents)


@pytest.mark.parametrize("budget", [1, 70, 2048])
def test_calls_of_the_kernel_equal_attention_by_segment(
    classifier: str, tiny_template: str, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    import torch.nn.attention.varlen as varlen

    checkpoint, prompt = checkpoint_and_prompt(classifier, tiny_template)
    assert checkpoint.head is not None
    signature = inspect.signature(varlen.varlen_attn)
    calls = []

    def stand_in(*arguments: Any, **options: Any) -> Tensor:
        calls.append(signature.bind(*arguments, **options))  # raises unless torch's signature takes this call
        return varlen_reference(*arguments, **options)

    expected, computed = packed.score(checkpoint.backbone, checkpoint.head, prompt, budget=budget)
    monkeypatch.setattr(varlen, "varlen_attn", stand_in)
    assert not calls
    monkeypatch.setattr(packed, "has_kernel", lambda device, dtype: True)
    scores, same = packed.score(checkpoint.backbone, checkpoint.head, prompt, budget=budget)
    assert calls
    assert same == computed
    assert scores.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_the_kernel_is_used_neither_on_a_cpu_nor_in_fp32() -> None:
    assert not packed.has_kernel(torch.device("cpu"), torch.bfloat16)
    assert not packed.has_kernel(torch.device("cuda"), torch.float32)


def test_a_long_query_with_many_short_documents_gathers_a_bounded_number_of_keys(
    classifier: str, tiny_template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = checkpoint_of(classifier)
    encoder = PromptEncoder(load_template(tiny_template), checkpoint.tokenizer, max_tokens=4096)
    prompt = encoder.encode("where is the cat? " * 60, ["a"] * 50)
    keys: list[int] = []
    lay_out = packed.lay_out

    def watched(*arguments: Any, **options: Any) -> packed.PackLayout:
        layout = lay_out(*arguments, **options)
        keys.append(len(layout.key_index))
        return layout

    monkeypatch.setattr(packed, "lay_out", watched)
    assert checkpoint.head is not None
    budget = 256
    packed.score(checkpoint.backbone, checkpoint.head, prompt, budget=budget)
    one_document = 2 * len(prompt.prefix) + len(prompt.tails[0])
    assert sum(keys) > 50 * len(prompt.prefix)
    assert max(keys) <= packed.KEYS_PER_TOKEN * (budget + 1) + one_document


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 0.02), ("bf16", 0.6), ("fp16", 0.1)])
def test_cuda_scores_stay_close_to_the_plain_forward(
    make_checkpoint: MakeCheckpoint, open_engine: Open, tiny_template: str, precision: str, tolerance: float
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    folder = make_checkpoint(["0", "1"], hidden_size=64, initializer_range=0.1)
    documents = ["a cat " * 300, *(f"document {i} " * i for i in range(30))]
    pairs = [Pair(query, document) for query in ("cats", "where is the document? " * 20, "") for document in documents]
    expected = plain_scores(folder, tiny_template, pairs)
    for budget in (1, 500, 16384):
        with open_engine(folder, precision=precision, device="cuda", token_budget=budget) as engine:
            kernel = engine.describe().details["attention"] == "varlen_attn"
            assert kernel == packed.has_kernel(
                torch.device("cuda"), {"fp32": torch.float32}.get(precision, torch.float16)
            )
            scores = engine.score(pairs)
        assert scores == pytest.approx(expected, abs=tolerance * (max(expected) - min(expected)))


# Refusals


def test_labels_with_other_names_are_refused(make_checkpoint: MakeCheckpoint, open_engine: Open) -> None:
    with pytest.raises(EngineUnavailable, match=r"labels are \['NO', 'YES'\], expected '1' and '0': set id2label"):
        open_engine(make_checkpoint(["NO", "YES"]))


def test_missing_weights_are_refused_and_never_initialised(make_checkpoint: MakeCheckpoint, open_engine: Open) -> None:
    headless = make_checkpoint(["0", "1"], change=lambda weights: weights.pop("score.weight"))
    with pytest.raises(EngineUnavailable, match=r"lacks the weights score\.weight"):
        open_engine(headless)


def test_a_nan_score_is_an_error(make_checkpoint: MakeCheckpoint, open_engine: Open) -> None:
    def spoil(weights: dict[str, Any]) -> None:
        weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], torch.nan)

    with (
        open_engine(make_checkpoint(["0", "1"], change=spoil)) as engine,
        pytest.raises(
            ScoringFailed, match=r"gave nan for query 'cats': in fp32, norm is the first .*; look for NaN among"
        ),
    ):
        engine.score(PAIRS)


def test_an_overflow_in_fp16_names_the_layer_and_the_precisions_to_use(
    make_checkpoint: MakeCheckpoint, open_engine: Open
) -> None:
    def enlarge(weights: dict[str, Any]) -> None:
        weight = weights["model.layers.1.mlp.down_proj.weight"]
        weight *= 6e4 / weight.abs().max()  # the largest fp16 value is 65,504: the weights fit, their product overflows

    folder = make_checkpoint(["0", "1"], change=enlarge)
    with open_engine(folder) as exact:
        assert len(exact.score(PAIRS)) == len(PAIRS)
    with (
        open_engine(folder, precision="fp16", allow_slow=True) as engine,
        pytest.raises(ScoringFailed, match=r"in fp16, layers\.1\.mlp\.down_proj is the first .*; use bf16 or fp32$"),
    ):
        engine.score(PAIRS)


def test_the_search_for_an_overflow_leaves_no_hooks(classifier: str, tiny_template: str) -> None:
    checkpoint, prompt = checkpoint_and_prompt(classifier, tiny_template)
    backbone, head = checkpoint.backbone, checkpoint.head
    assert head is not None
    assert first_overflow(backbone, lambda: packed.score(backbone, head, prompt, budget=2048)) is None
    assert not any(module._forward_hooks for module in backbone.modules())


@pytest.mark.parametrize(("precision", "error"), [("int8", 0.06), ("fp8-sim", 0.12)])
def test_8_bit_scores_stay_close_to_fp32_at_any_packing(
    classifier: str, open_engine: Open, tiny_template: str, precision: str, error: float
) -> None:
    exact = plain_scores(classifier, tiny_template, PAIRS)
    spread = max(exact) - min(exact)
    for budget in (1, 2048):
        with open_engine(classifier, precision=precision, token_budget=budget) as engine:
            scores = engine.score(PAIRS)
            assert engine.describe().precision == precision
            assert engine.describe().details["linear_layers"].startswith("14 QuantizedLinear ")
        assert scores != pytest.approx(exact, abs=1e-4)
        assert scores == pytest.approx(exact, abs=error * spread)


def test_8_bit_layers_leave_the_score_head_and_the_embeddings_unchanged(classifier: str, open_engine: Open) -> None:
    with open_engine(classifier) as exact, open_engine(classifier, precision="int8") as engine:
        ours, theirs = (opened._backbone for opened in (engine, exact))  # type: ignore[attr-defined]
        assert torch.equal(engine._head, exact._head)  # type: ignore[attr-defined]
        assert torch.equal(ours.embed_tokens.weight, theirs.embed_tokens.weight)


def test_full_precisions_describe_no_8_bit_layers(classifier: str, open_engine: Open) -> None:
    for precision in ("fp32", "bf16"):
        with open_engine(classifier, precision=precision) as engine:
            assert not {"linear_layers", "kernel"} & engine.describe().document().keys()


def test_fp8_without_its_gpu_is_refused_before_loading_and_names_the_simulation(open_engine: Open) -> None:
    with pytest.raises(EngineUnavailable, match=r"this is device cpu: use fp8-sim"):
        open_engine("there is no such model", precision="fp8")


def test_fp8_scores_stay_close_to_those_of_its_simulation(
    classifier: str, open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_engine(classifier, precision="fp8-sim") as engine:
        simulated = engine.score(PAIRS)
    monkeypatch.setattr("engines.torch.quantized.require_device", lambda precision, device: None)
    with open_engine(classifier, precision="fp8") as engine:  # torch computes the kernel's results on a CPU, too
        assert engine.describe().details["kernel"] == "scaled_mm in E4M3"
        assert engine.score(PAIRS) == pytest.approx(simulated, abs=0.03 * (max(simulated) - min(simulated)))


def test_fp16_on_a_cpu_is_refused_with_the_reason(classifier: str, open_engine: Open) -> None:
    with pytest.raises(BadOptions, match="about 15 times slower than bf16: use bf16 or fp32, or allow_slow"):
        open_engine(classifier, precision="fp16")


def test_fp16_on_a_cpu_runs_with_allow_slow(classifier: str, open_engine: Open, tiny_template: str) -> None:
    exact = plain_scores(classifier, tiny_template, PAIRS[:2])
    with open_engine(classifier, precision="fp16", allow_slow=True) as engine:
        assert engine.score(PAIRS[:2]) == pytest.approx(exact, abs=0.05 * max(map(abs, exact)))


def test_a_missing_folder_is_a_one_line_error(open_engine: Open, tmp_path: Path) -> None:
    with pytest.raises(BadOptions, match=r"no such folder, tried /.*/none") as raised:
        open_engine(str(tmp_path / "none"))
    assert "\n" not in str(raised.value)


def test_broken_weights_are_a_one_line_error(make_checkpoint: MakeCheckpoint, open_engine: Open) -> None:
    folder = make_checkpoint(["0", "1"])
    Path(folder, "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(EngineUnavailable, match="cannot be loaded") as raised:
        open_engine(folder)
    assert "\n" not in str(raised.value)


def test_a_checkpoint_without_a_tokenizer_is_refused(make_checkpoint: MakeCheckpoint, open_engine: Open) -> None:
    folder = make_checkpoint(["0", "1"])
    for path in Path(folder).glob("tokenizer*"):
        path.unlink()
    with pytest.raises(EngineUnavailable, match="tokenizer"):
        open_engine(folder)


def test_a_broken_tokenizer_is_a_one_line_error(make_checkpoint: MakeCheckpoint, open_engine: Open) -> None:
    folder = make_checkpoint(["0", "1"])
    Path(folder, "tokenizer.json").write_text("{}")
    with pytest.raises(EngineUnavailable, match=r"tokenizer\.json cannot be read") as raised:
        open_engine(folder)
    assert "\n" not in str(raised.value)


def test_the_tokenizer_is_read_from_the_checkpoints_file(classifier: str) -> None:
    """transformers 5 gives every checkpoint of type qwen2 the pre-tokeniser of Qwen2."""
    expected = Tokenizer.from_file(str(Path(classifier, "tokenizer.json")))
    assert checkpoint_of(classifier).tokenizer.to_str() == expected.to_str()
    assert len(expected.pre_tokenizer.pre_tokenize_str("in 2024")) == 2  # Qwen2's splits every digit


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(
    make_checkpoint: MakeCheckpoint, open_engine: Open
) -> None:
    with pytest.raises(EngineUnavailable, match=r"knows 100 tokens and its tokenizer has 306: another model's\?"):
        open_engine(make_checkpoint(["0", "1"], vocab_size=100))


def test_sliding_windows_are_refused(make_checkpoint: MakeCheckpoint, open_engine: Open) -> None:
    with pytest.raises(EngineUnavailable, match="sets sliding_window, which the packed forward does not support"):
        open_engine(make_checkpoint(["0", "1"], use_sliding_window=True, sliding_window=8, max_window_layers=0))


def test_a_model_of_another_architecture_is_refused(make_checkpoint: MakeCheckpoint, open_engine: Open) -> None:
    folder = make_checkpoint(["0", "1"])
    config = Path(folder, "config.json")
    config.write_text(config.read_text().replace("Qwen2ForSequenceClassification", "Qwen2ForTokenClassification"))
    with pytest.raises(EngineUnavailable, match=r"'Qwen2ForTokenClassification': expected \.\.\.ForCausalLM or"):
        open_engine(folder)


def test_a_classifier_without_a_plain_linear_head_is_refused() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    from engines.torch.checkpoint import classifier_head

    sizes: Any = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "vocab_size": 9,
    }
    encoder = BertForSequenceClassification(BertConfig(**sizes))
    with pytest.raises(EngineUnavailable, match="no linear head `score`"):
        classifier_head(encoder, Labels(positive="1", negative="0"))


def test_a_missing_device_is_refused_by_name(classifier: str, open_engine: Open) -> None:
    with pytest.raises(EngineUnavailable, match=r"device 'npu' is not available here; available are .*cpu"):
        open_engine(classifier, device="npu")
    with pytest.raises(BadOptions, match=r"device = 'tpu': not a device; .*expected one of auto, cpu, cuda"):
        open_engine(classifier, device="tpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"precison": "fp32"},
            "unknown option 'precison'; did you mean 'precision'? expected one of allow_slow, ",
        ),
        (
            {"precision": "fp4"},
            "precision = 'fp4': input should be 'auto', 'fp32', 'bf16', 'fp16', 'int8', 'fp8' or 'fp8-sim'",
        ),
        ({"token_budget": 0}, "token_budget = 0: input should be greater than 0"),
        ({"template": "nowhere"}, "template 'nowhere' is not known; expected one of "),
        ({"template": "mxbai-v2", "instruction": "a\nb"}, r"instruction 'a\nb' holds a newline; it must be one line"),
        ({"instruction": "be kind"}, "template tiny has no place for the instruction 'be kind'"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(
    open_engine: Open, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadOptions) as raised:
        open_engine("there is no such model", **options)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


# Description and counts


def test_auto_picks_a_precision_in_which_the_cpu_is_fast(
    classifier: str, open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_engine(classifier, precision="auto", device="auto") as engine:
        assert engine.describe().precision in ("fp32", "bf16", "fp16")
    seconds = {torch.float32: 1.0, torch.bfloat16: 0.2}
    monkeypatch.setattr("engines.torch.checkpoint._product_s", seconds.__getitem__)
    assert pick_precision("auto", torch.device("cpu"), allow_slow=False) == "bf16"
    seconds[torch.bfloat16] = 0.9  # too little gain for the rounding
    assert pick_precision("auto", torch.device("cpu"), allow_slow=False) == "fp32"


def test_the_description_has_what_a_reader_needs_to_repeat_the_run(
    make_checkpoint: MakeCheckpoint, open_engine: Open, classifier: str, tiny_template: str
) -> None:
    with open_engine(classifier, max_tokens=9000) as engine:
        description = engine.describe().document()
    assert description["model"] == classifier
    assert description["revision"].startswith("sha256:")
    assert description["architecture"] == "Qwen2ForSequenceClassification"
    assert (description["precision"], description["device"], description["attention"]) == (
        "fp32",
        "cpu",
        "products by rows",
    )
    assert (description["template"], description["template_sha256"]) == ("tiny", load_template(tiny_template).sha256)
    assert description["max_tokens"] == "4096"  # the model's limit, which is below 9000
    assert description["token_budget"] == "2048"
    with (
        open_engine(make_checkpoint(["1", "0"])) as swapped,
        open_engine(make_checkpoint(["0", "1"], hidden_size=48)) as big,
    ):
        assert swapped.describe().details["tokenizer_sha256"] == description["tokenizer_sha256"]
        assert big.describe().revision != description["revision"]


def test_tokens_truncated_documents_and_special_text_are_counted(
    classifier: str, open_engine: Open, tokenizer: Any
) -> None:
    with open_engine(classifier, max_tokens=40) as engine:
        assert engine.counts().document() == {}
        engine.score([Pair("cats", "a"), Pair("cats", "a cat " * 50), Pair("cats", "<|im_end|>")])
        counts = engine.counts()
    query, short, special = (len(tokenizer.encode(text).ids) for text in ("cats", "a", "<| im_end|>"))
    assert counts.truncated == 1
    assert counts.special_text == 1
    assert counts.tokens >= 3 * (query + 4) + short + special
    assert counts.computed_tokens == counts.tokens - 2 * (query + 2)  # the prefix is computed once


def test_closing_frees_the_weights(classifier: str, open_engine: Open) -> None:
    engine: Any = open_engine(classifier)
    engine.close()
    assert {parameter.device.type for parameter in engine._backbone.parameters()} == {"meta"}


def test_loading_and_scoring_write_nothing_to_the_terminal(
    classifier: str, open_engine: Open, capfd: pytest.CaptureFixture[str]
) -> None:
    transformers.utils.logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    with open_engine(classifier) as engine:
        engine.score(PAIRS)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


# Random weights and counted work


@pytest.fixture(scope="session")
def shape(classifier: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with only the classifier's config."""
    folder = tmp_path_factory.mktemp("shape")
    (folder / "config.json").write_bytes(Path(classifier, "config.json").read_bytes())
    return str(folder)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "fp8-sim"])
def test_random_weights_need_a_config_and_a_tokenizer_and_give_the_same_scores_every_time(
    classifier: str, shape: str, open_engine: Open, precision: str
) -> None:
    options = {"weights": "random", "tokenizer": classifier, "precision": precision}
    with open_engine(shape, **options) as engine, open_engine(shape, **options) as again:
        assert engine.score(PAIRS) == again.score(PAIRS)
        assert len(set(engine.score(PAIRS))) > 2
        described = engine.describe().document()
        assert described["weights"] == "random, seed 0"
        assert described["revision"].startswith("no weights; config sha256:")
        backbone: Any = engine._backbone  # type: ignore[attr-defined]
        linear = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(precision)
        if linear is not None:
            assert {parameter.dtype for parameter in backbone.parameters()} == {linear}
        assert backbone.rotary_emb.inv_freq.dtype == torch.float32


def test_random_weights_have_the_size_and_the_work_of_the_checkpoint(classifier: str, open_engine: Open) -> None:
    with open_engine(classifier) as real, open_engine(classifier, weights="random") as random:
        real.score(PAIRS)
        random.score(PAIRS)
        assert random.describe().weights_mb == real.describe().weights_mb
        assert random.counts() == real.counts()
        assert "weights" not in real.describe().document()


def test_a_shape_without_a_tokenizer_or_with_a_larger_one_is_refused(
    shape: str, tmp_path: Path, classifier: str, open_engine: Open
) -> None:
    with pytest.raises(EngineUnavailable, match=r"the shape of model .* option tokenizer names another source"):
        open_engine(shape, weights="random")
    config = json.loads(Path(shape, "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    with pytest.raises(EngineUnavailable, match=r"knows 100 tokens and its tokenizer has .*Set option tokenizer"):
        open_engine(str(tmp_path), weights="random", tokenizer=classifier)


def test_a_checkpoint_with_weights_takes_no_other_tokenizer(classifier: str, open_engine: Open) -> None:
    with pytest.raises(BadOptions, match="option tokenizer is for weights: random"):
        open_engine(classifier, tokenizer=classifier)


@pytest.mark.parametrize("ends_only", [False, True])
def test_counts_hold_the_work_of_separate_pairs_and_of_the_packs(
    classifier: str, open_engine: Open, monkeypatch: pytest.MonkeyPatch, ends_only: bool
) -> None:
    monkeypatch.setattr(packed, "fits", lambda backbone: ends_only)
    with open_engine(classifier, token_budget=1) as separate, open_engine(classifier) as together:
        separate.score(PAIRS[:2])
        together.score(PAIRS[:2])
        alone, shared = separate.counts(), together.counts()
    assert alone.flops == shared.flops
    assert alone.tokens == alone.computed_tokens > shared.computed_tokens
    assert shared.computed_flops < alone.computed_flops <= alone.flops
    assert (alone.computed_flops == alone.flops) is not ends_only
    sides, at_ends = 2 * (2 * 64 + 2 * 48 + 3 * 80), 2 * 64 + 3 * 80  # 2 layers; the last one without K and V
    weights = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32)
    saved = alone.tokens - shared.computed_tokens
    moved = weights + saved * (sides - at_ends if ends_only else sides)
    assert alone.computed_bytes - shared.computed_bytes == 4 * moved


@pytest.mark.parametrize(("precision", "factors"), [("fp32", "float32"), ("bf16", "bfloat16"), ("int8", "int8")])
def test_the_ceiling_is_measured_in_the_engines_precision(
    classifier: str, open_engine: Open, monkeypatch: pytest.MonkeyPatch, precision: str, factors: str
) -> None:
    from engines.torch import ceiling

    monkeypatch.setattr(ceiling, "SECONDS", 0.0)
    monkeypatch.setattr(ceiling, "COPY_BYTES", 1 << 16)
    with open_engine(classifier, precision=precision) as engine:
        measured = engine.ceiling()
    assert measured is not None and measured.dtype == factors


def test_prepared_documents_are_tokenised_once_and_scores_stay_the_same(
    open_engine: Open, classifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRISPBENCH_CACHE", str(tmp_path))
    documents = [pair.document for pair in PAIRS]
    with open_engine(classifier, cache_tokens=False) as plain:
        plain.prepare(documents, analysis="english")
        assert list(tmp_path.iterdir()) == []
        assert plain.describe().details["document_tokens"] == "with every query"
        expected = plain.score(PAIRS)
    tokenised: list[str] = []
    real = PromptEncoder._encode_content
    monkeypatch.setattr(
        PromptEncoder, "_encode_content", lambda self, texts: [*map(tokenised.append, texts)] and real(self, texts)
    )
    for _ in range(2):
        with open_engine(classifier) as engine:
            engine.prepare(documents, analysis="english")
            assert engine.describe().details["document_tokens"] == "prepared"
            assert engine.score(PAIRS) == expected
    assert tokenised.count(PAIRS[3].document) == 1
