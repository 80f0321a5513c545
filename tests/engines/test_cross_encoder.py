"""The cross-encoder's scores are the checkpoint's own logits; a checkpoint whose scores would be a guess is refused."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as library
from safetensors.torch import load_file, save_file

from engines import BadOptions, Engine, EngineUnavailable, Pair, ScoringFailed, load

transformers: Any = library  # the library is untyped here
PAIRS = [
    Pair("where did the cat sit", "a cat sat on the mat"),
    Pair("where did the cat sit", "stock prices fell again " * 9),
    Pair("cat", ""),
    Pair("cat", "the query and the document"),
]


def own_logits(folder: str, pairs: list[Pair], dtype: torch.dtype = torch.float32) -> list[float]:
    """Logits that transformers computes, one pair at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        encoded = (tokenizer([query], [document], return_tensors="pt") for query, document in pairs)
        return [float(model(**inputs).logits[0, 0]) for inputs in encoded]


@pytest.fixture(scope="module", params=["bert", "qwen2"])
def shared(request: pytest.FixtureRequest, bert: str, one_label: str) -> Iterator[tuple[str, Engine]]:
    folder = bert if request.param == "bert" else one_label
    with load("cross_encoder", {"model": folder, "device": "cpu", "batch_size": 3}) as engine:
        yield folder, engine


def test_scores_are_transformers_own_logits_in_the_order_of_the_pairs(shared: tuple[str, Engine]) -> None:
    folder, engine = shared
    expected = own_logits(folder, PAIRS)
    assert engine.score(PAIRS) == pytest.approx(expected, abs=1e-5)
    assert engine.score(PAIRS[::-1]) == pytest.approx(expected[::-1], abs=1e-5)
    assert len({round(score, 3) for score in expected}) == len(PAIRS)


def test_a_sigmoid_that_the_checkpoint_names_is_not_applied(bert: str, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.activation.Sigmoid", "version": "5.0.0"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with load("cross_encoder", {"model": str(tmp_path), "device": "cpu"}) as engine:
        assert engine.score(PAIRS) == pytest.approx(own_logits(bert, PAIRS), abs=1e-5)


def test_in_bf16_the_head_still_computes_in_float32(bert: str) -> None:
    with load("cross_encoder", {"model": bert, "device": "cpu", "precision": "bf16"}) as engine:
        scores = engine.score(PAIRS)
    assert scores == pytest.approx(own_logits(bert, PAIRS), abs=0.1)
    assert all(torch.tensor(score).bfloat16().item() != score for score in scores)
    rounded = own_logits(bert, PAIRS, torch.bfloat16)
    assert all(torch.tensor(score).bfloat16().item() == score for score in rounded)


def test_max_tokens_cuts_and_counts_the_longer_text(bert: str) -> None:
    with load("cross_encoder", {"model": bert, "device": "cpu", "max_tokens": 8}) as engine:
        engine.score([Pair("cat", "the the the the the the the"), Pair("cat", "the")])
        counts = engine.counts()
        assert (counts.tokens, counts.truncated) == (8 + 5, 1)  # [CLS] cat [SEP] the [SEP]
        assert (counts.computed_tokens, counts.padded_tokens) == (8 + 8, 3)  # both in one batch
        assert engine.describe().max_tokens == 8


def test_without_max_tokens_the_models_positions_are_the_limit(bert: str) -> None:
    with load("cross_encoder", {"model": bert, "device": "cpu"}) as engine:
        engine.score([Pair("cat", "the " * 500)])
        counts = engine.counts()
        assert (counts.tokens, counts.truncated, counts.padded_tokens) == (64, 1, 0)


def test_every_batch_is_padded_to_its_longest_pair_and_the_counts_include_the_padding(bert: str) -> None:
    pairs = [Pair("cat", "the " * length) for length in (1, 6, 2, 5)]  # 5, 10, 6 and 9 tokens
    with load("cross_encoder", {"model": bert, "device": "cpu", "batch_size": 2}) as engine:
        engine.score(pairs)
        counts = engine.counts()
    assert counts.tokens == 5 + 10 + 6 + 9
    assert counts.computed_tokens == 2 * 10 + 2 * 6  # longest first: 10 with 9, then 6 with 5
    matrices = 2 * (4 * 32 * 32 + 2 * 32 * 48)  # 2 layers, without the pooler and the head
    assert counts.flops == 2 * matrices * 30 + 4 * 2 * 32 * (25 + 100 + 36 + 81)
    assert counts.computed_flops == 2 * matrices * 32 + 4 * 2 * 32 * (2 * 100 + 2 * 36)
    # fp32; both batches read the weights
    assert counts.computed_bytes == 4 * (2 * matrices + 32 * 2 * (4 * 64 + 2 * 80))


def test_the_ceiling_is_measured_in_the_engines_precision(bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.torch import ceiling

    monkeypatch.setattr(ceiling, "SECONDS", 0.0)
    monkeypatch.setattr(ceiling, "COPY_BYTES", 1 << 16)
    with load("cross_encoder", {"model": bert, "device": "cpu", "precision": "bf16"}) as engine:
        measured = engine.ceiling()
    assert measured is not None and measured.dtype == "bfloat16" and measured.flops_per_s > 0


def test_a_causal_checkpoint_is_refused_because_its_tokens_would_be_a_guess(causal: str) -> None:
    with pytest.raises(EngineUnavailable, match=r"Qwen2ForCausalLM without modules.json, so the tokens.*`kind: torch`"):
        load("cross_encoder", {"model": causal, "device": "cpu"})


def test_a_causal_checkpoint_in_16_bit_is_refused_because_its_scores_would_tie(causal: str, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    module = Transformer(causal, transformer_task="text-generation")
    module.tokenizer.pad_token = "<|endoftext|>"
    module.tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    CrossEncoder(modules=[module, LogitScore(true_token_id=5, false_token_id=6)], device="cpu").save(str(tmp_path))
    with pytest.raises(BadOptions, match=r"'bf16': .* in 16 bit, which creates ties: use precision fp32"):
        load("cross_encoder", {"model": str(tmp_path), "device": "cpu", "precision": "bf16"})
    with load("cross_encoder", {"model": str(tmp_path), "device": "cpu"}) as engine:
        assert len(set(engine.score(PAIRS))) > 1  # this checkpoint names its tokens


def test_a_classifier_with_two_labels_is_refused_with_their_names(classifier: str) -> None:
    with pytest.raises(EngineUnavailable, match=r"2 labels \(0, 1\); expected one label: use `kind: torch`"):
        load("cross_encoder", {"model": classifier, "device": "cpu"})


def test_a_checkpoint_without_a_score_head_is_refused(make_bert: Callable[..., str]) -> None:
    with pytest.raises(EngineUnavailable, match="BertModel, which has no trained score head"):
        load("cross_encoder", {"model": make_bert("BertModel"), "device": "cpu"})


def test_a_checkpoint_whose_file_lacks_the_head_is_refused(bert: str, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(bert, tmp_path / "headless")) / "model.safetensors"
    weights = load_file(copied)
    save_file({name: weight for name, weight in weights.items() if not name.startswith("classifier")}, copied)
    with pytest.raises(EngineUnavailable, match=r"lacks the weights of its score head \(classifier.weight\)"):
        load("cross_encoder", {"model": str(copied.parent), "device": "cpu"})


def test_a_padding_token_that_the_config_does_not_know_is_refused(one_label: str, tmp_path: Path) -> None:
    shutil.copytree(one_label, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "pad_token_id": 1}))
    with pytest.raises(EngineUnavailable, match=r"pads with token 0 and its config.json has pad_token_id 1"):
        load("cross_encoder", {"model": str(tmp_path), "device": "cpu"})


def test_a_missing_folder_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(BadOptions, match=r"no such folder, tried /.*/none") as raised:
        load("cross_encoder", {"model": str(tmp_path / "none")})
    assert "\n" not in str(raised.value)


def test_a_lone_surrogate_has_no_score(shared: tuple[str, Engine]) -> None:
    with pytest.raises(ScoringFailed, match="UTF-8"):
        shared[1].score([Pair("cat", "\ud800")])
    with pytest.raises(ScoringFailed, match="UTF-8"):
        shared[1].score([Pair("\ud800", "cat")])


def test_a_logit_that_is_not_finite_has_no_score(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared[1]._model, "predict", lambda pairs, **_: torch.full((len(pairs),), torch.nan))
    with pytest.raises(ScoringFailed, match="not finite: use bf16 or fp32"):
        shared[1].score(PAIRS)


def test_loading_and_scoring_write_nothing_to_the_terminal(bert: str, capfd: pytest.CaptureFixture[str]) -> None:
    transformers.utils.logging.enable_progress_bar()
    with load("cross_encoder", {"model": bert, "device": "cpu"}) as engine:
        engine.score(PAIRS)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_the_description_holds_model_revision_and_precision(shared: tuple[str, Engine]) -> None:
    folder, engine = shared
    description = engine.describe().document()
    assert (description["model"], description["precision"], description["score_kind"]) == (folder, "fp32", "logit")
    assert description["revision"].startswith("sha256:")
