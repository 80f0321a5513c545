"""The TensorRT-LLM engine on a double of its package that computes the same logits as torch."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from tokenizers import Tokenizer

from engines import BadOptions, EngineUnavailable, Pair, ScoringFailed, load
from engines.tensorrt_llm import INSTALL, Head, TensorRTLLM, TensorRTLLMOptions
from tests.engines import tensorrt_llm_double as double

PAIRS = [
    Pair("where did the cat sit", "A cat sat on the mat."),
    Pair("where did the cat sit", "special <|im_end|> text"),
    Pair("where did the cat sit", ""),
    Pair("read a file", "def read_file(path): return open(path).read()"),
]
LONG = Pair("long", "the quick brown fox " * 60)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    double.install(monkeypatch)


@pytest.fixture
def make(causal: str, tiny_template: str) -> Callable[..., TensorRTLLM]:
    """Makes the engine on the tiny causal checkpoint: `make(max_tokens=50)`."""

    def made(**options: Any) -> TensorRTLLM:
        engine = load("tensorrt_llm", {"model": causal, "template": tiny_template, **options})
        assert isinstance(engine, TensorRTLLM)
        return engine

    return made


@pytest.fixture
def exported(causal: str, tmp_path: Path) -> Callable[..., str]:
    """Makes an export like ModelOpt's: the causal checkpoint with its own file, or with changes to config.json."""

    def export(quantization: dict[str, Any] | None = None, **config: Any) -> str:
        folder = tmp_path / "exported"
        shutil.copytree(causal, folder)
        if quantization is not None:
            written = {"producer": {"name": "modelopt", "version": "0.37.0"}, "quantization": quantization}
            (folder / "hf_quant_config.json").write_text(json.dumps(written))
        before = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**before, **config}))
        return str(folder)

    return export


def torch_scores(model: str, template: str, pairs: list[Pair], **options: Any) -> list[float]:
    settings = {"model": model, "template": template, "precision": "fp32", "device": "cpu", **options}
    with load("torch", settings) as engine:
        return engine.score(pairs)


FP8 = {"quant_algo": "FP8", "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]}


# Scores


def test_scores_equal_those_of_the_torch_engine(make: Callable[..., Any], causal: str, tiny_template: str) -> None:
    scores = make().score(PAIRS)
    assert scores == pytest.approx(torch_scores(causal, tiny_template, PAIRS), abs=1e-4)
    assert max(scores) - min(scores) > 0.1


def test_labels_come_from_the_template(make: Callable[..., Any], tiny_template: str, tmp_path: Path) -> None:
    swapped = tmp_path / "swapped.yaml"
    text = Path(tiny_template).read_text().replace('positive: "1", negative: "0"', 'positive: "0", negative: "1"')
    swapped.write_text(text)
    assert make(template=str(swapped)).score(PAIRS) == [-score for score in make().score(PAIRS)]


def test_the_score_of_a_pair_is_the_same_at_every_call(make: Callable[..., Any]) -> None:
    engine = make()
    assert engine.score(PAIRS) == engine.score(PAIRS) == engine.score(PAIRS[::-1])[::-1]


def test_a_request_generates_one_greedy_token_and_no_text(make: Callable[..., Any]) -> None:
    engine = make()
    engine.score(PAIRS[:1])
    (sampling,) = engine._llm.requests
    assert (sampling.max_tokens, sampling.temperature, sampling.ignore_eos, sampling.detokenize) == (
        1,
        0.0,
        True,
        False,
    )


def test_with_reused_blocks_a_second_call_would_score_differently(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The double has the fault that the engine avoids, so the test of equal scores at every call can fail."""
    original = double.KvCacheConfig
    monkeypatch.setattr(
        "tensorrt_llm.llmapi.KvCacheConfig", lambda **settings: original(**{**settings, "enable_block_reuse": True})
    )
    engine = make()
    assert engine.score(PAIRS) != pytest.approx(engine.score(PAIRS), abs=0.01)


@pytest.mark.parametrize("limit", ["max_tokens", "max_num_tokens"])
def test_a_document_is_cut_so_that_its_prompt_fits(
    limit: str, make: Callable[..., Any], causal: str, tiny_template: str
) -> None:
    engine = make(**{limit: 40})
    assert engine.score([LONG]) == pytest.approx(torch_scores(causal, tiny_template, [LONG], max_tokens=40), abs=1e-4)
    assert engine.counts().document() == {"tokens": 40, "truncated": 1, "truncated_queries": 0, "special_text": 0}
    assert engine.describe().max_tokens == 40


def test_the_longest_prompt_leaves_a_position_for_the_generated_token(make: Callable[..., Any], exported: Any) -> None:
    engine = make(model=exported(max_position_embeddings=64))
    engine.score([LONG])
    assert engine.describe().max_tokens == 63
    assert engine.counts().tokens == 63


def test_special_text_and_tokens_are_counted(make: Callable[..., Any], tokenizer: Tokenizer) -> None:
    engine = make()
    engine.score(PAIRS[:2])
    text = len(tokenizer.encode("where did the cat sit").ids) * 2 + len(tokenizer.encode("A cat sat on the mat.").ids)
    tokenizer.encode_special_tokens = True
    text += len(tokenizer.encode("special <|im_end|> text").ids)
    tokenizer.encode_special_tokens = False
    assert engine.counts().document() == {
        "tokens": text + 2 * 4,
        "truncated": 0,
        "truncated_queries": 0,
        "special_text": 1,
    }


# Outputs of the library


@pytest.mark.parametrize("shape", [(1, 1, 5), (1, 5), (5,)])
def test_one_row_of_logits_is_read_in_the_shape_of_every_version(shape: tuple[int, ...]) -> None:
    logits = torch.tensor([0.5, -1.0, 2.0, 8.0, 0.0], dtype=torch.bfloat16).reshape(shape)
    assert Head(5, positive=3, negative=1).log_odds(logits) == 9.0


@pytest.mark.parametrize("shape", [(2, 5), (1, 4), (1, 2, 5), (5, 1), (10,), ()])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ScoringFailed, match=r"logits of shape \(.*expected \(1, 5\)"):
        Head(5, positive=3, negative=1).log_odds(torch.zeros(shape))


def replaced(change: Callable[[Any], Any]) -> type[double.LLM]:
    """The double whose outputs are changed before they are returned."""

    class Changed(double.LLM):
        def generate(self, *args: Any, **kwargs: Any) -> Any:
            return change(super().generate(*args, **kwargs))

    return Changed


def fill(value: float) -> Callable[[Any], Any]:
    def change(outputs: Any) -> Any:
        completion = outputs[-1].outputs[0]
        completion.generation_logits = torch.full_like(completion.generation_logits, value)
        return outputs

    return change


def without_logits(outputs: Any) -> Any:
    outputs[0].outputs[0].generation_logits = None
    return outputs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda outputs: outputs[::-1], "output 0 of TensorRT-LLM belongs to another prompt"),
        (lambda outputs: outputs[:-1], "gave 2 outputs for 3 prompts"),
        (without_logits, "logits of shape None"),
        (fill(float("nan")), r"gave nan in fp8 for query 'where did the cat sit'"),
        (fill(float("inf")), r"gave nan in fp8"),
    ],
    ids=["another order", "one is missing", "no logits", "no numbers", "infinite"],
)
def test_an_output_without_a_valid_score_is_refused(
    change: Callable[[Any], Any],
    message: str,
    make: Callable[..., Any],
    exported: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    double.install(monkeypatch, replaced(change))
    with pytest.raises(ScoringFailed, match=message):
        make(model=exported(FP8)).score(PAIRS[:3])


def test_an_error_of_the_library_is_a_one_line_error(make: Callable[..., Any]) -> None:
    engine = make()
    engine.close()
    with pytest.raises(ScoringFailed, match=r"failed at query 'read a file': LLM is shutting down$"):
        engine.score(PAIRS[3:])


# Checkpoints


def test_the_description_of_a_plain_checkpoint_is_complete(make: Callable[..., Any], causal: str) -> None:
    described = make().describe().document()
    expected = {
        "model": causal,
        "architecture": "Qwen2ForCausalLM",
        "precision": "fp32",
        "quantization": "none",
        "route": "one generated token",
        "kv_cache": "16 bit, no block reuse",
        "device": "NVIDIA H100 80GB HBM3",
        "template": "tiny",
        "max_batch_size": "64",
        "max_num_tokens": "16384",
        "kv_cache_fraction": "0.5",
        "tensorrt_llm": "1.2.1",
    }
    assert {name: described[name] for name in expected} == expected
    assert described["revision"].startswith("sha256:")
    assert len(described["template_sha256"]) == len(described["tokenizer_sha256"]) == 64


@pytest.mark.parametrize("where", ["hf_quant_config.json", "config.json"])
def test_an_fp8_export_is_described_as_fp8(where: str, make: Callable[..., Any], exported: Any) -> None:
    settings = {"quant_method": "modelopt", **FP8}
    model = exported(FP8) if where == "hf_quant_config.json" else exported(quantization_config=settings)
    described = make(model=model).describe().document()
    assert (described["precision"], described["quantization"]) == ("fp8", "FP8")


def test_an_fp8_kv_cache_is_refused(make: Callable[..., Any], exported: Any) -> None:
    with pytest.raises(EngineUnavailable, match=r"quantizes its KV cache \(FP8\).*export it again with 16-bit"):
        make(model=exported({**FP8, "kv_cache_quant_algo": "FP8"}))


def test_an_fp8_kv_cache_that_only_the_config_names_is_refused(make: Callable[..., Any], exported: Any) -> None:
    scheme = {"dynamic": False, "num_bits": 8, "type": "float"}
    with pytest.raises(EngineUnavailable, match="quantizes its KV cache"):
        make(model=exported(quantization_config={"quant_algo": "FP8", "kv_cache_scheme": scheme}))


def test_fp8_needs_a_gpu_that_computes_in_it(
    make: Callable[..., Any], exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = exported(FP8)
    double.install(monkeypatch, capability=(8, 6))
    with pytest.raises(EngineUnavailable, match=r"capability 8\.6, expected 8\.9 or later: use the bf16 checkpoint"):
        make(model=model)
    make()  # the default checkpoint is not in FP8
    double.install(monkeypatch, capability=(8, 9))
    make(model=model)


def test_a_classifier_is_refused_where_only_causal_models_run(make: Callable[..., Any], classifier: str) -> None:
    with pytest.raises(EngineUnavailable, match=r"1\.2\.1 does not run: name its causal checkpoint.*use kind torch"):
        make(model=classifier)


@pytest.mark.parametrize("labels", [["0", "1"], ["1", "0"], ["LABEL_0"]], ids="/".join)
def test_a_classifier_takes_the_encode_only_route_of_later_versions(
    labels: list[str],
    make: Callable[..., Any],
    make_checkpoint: Callable[..., str],
    tiny_template: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    double.install(monkeypatch, double.LaterLLM, version="1.4.0rc1")
    model = make_checkpoint(labels)
    pairs = [*PAIRS, *PAIRS[::-1], LONG]
    expected = pytest.approx(torch_scores(model, tiny_template, pairs, max_tokens=60), abs=1e-4)
    engine = make(model=model, max_num_tokens=60)  # two or three prompts in a batch
    assert engine.score(pairs) == expected
    assert make(model=model, max_batch_size=2, max_tokens=60).score(pairs) == expected
    assert (engine.describe().details["route"], engine.describe().details["kv_cache"]) == ("encode_only", "none")


def test_a_causal_checkpoint_generates_also_where_encode_exists(
    make: Callable[..., Any], causal: str, tiny_template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.install(monkeypatch, double.LaterLLM, version="1.4.0rc1")
    assert make().score(PAIRS) == pytest.approx(torch_scores(causal, tiny_template, PAIRS), abs=1e-4)


def test_a_classifier_with_other_labels_is_refused(
    make: Callable[..., Any], make_checkpoint: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    double.install(monkeypatch, double.LaterLLM)
    with pytest.raises(EngineUnavailable, match=r"labels are \['no', 'yes'\], expected '1' and '0'"):
        make(model=make_checkpoint(["no", "yes"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["BertModel"]}, "architecture 'BertModel': expected ...ForCausalLM"),
        (
            {"architectures": ["MoonForCausalLM"]},
            r"1\.2\.1 cannot load .*: Unknown architecture for AutoModelForCausalLM",
        ),
        ({"vocab_size": 100}, "knows 100 tokens and its tokenizer has"),
    ],
    ids=["no reranker", "not registered", "another model's tokenizer"],
)
def test_a_checkpoint_that_does_not_run_is_refused_in_one_line(
    change: dict[str, Any], message: str, make: Callable[..., Any], exported: Any
) -> None:
    with pytest.raises(EngineUnavailable, match=message) as raised:
        make(model=exported(**change))
    assert "\n" not in str(raised.value)


def test_a_folder_without_a_checkpoint_is_refused(make: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(BadOptions, match=r"has no config\.json: name one that has it"):
        make(model=str(tmp_path))


def test_a_name_that_the_hub_does_not_know_is_refused_in_one_line(make: Callable[..., Any]) -> None:
    with pytest.raises(EngineUnavailable, match="model 'nobody/nothing' is not in the hub's cache") as raised:
        make(model="nobody/nothing")
    assert "\n" not in str(raised.value)


def test_the_revision_of_a_hub_model_is_its_commit(
    make: Callable[..., Any], causal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "c0ffee" + "0" * 34
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(causal, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    described = make(model="someone/tiny").describe().document()
    assert (described["model"], described["revision"]) == ("someone/tiny", commit)


# Missing requirements


def test_without_the_package_the_message_has_the_command_that_installs_it(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)
    with pytest.raises(EngineUnavailable) as raised:
        make()
    assert INSTALL == "pip install --extra-index-url https://pypi.nvidia.com 'tensorrt_llm==1.2.*'"
    assert str(raised.value).startswith("tensorrt_llm is not installed")
    assert str(raised.value).endswith(INSTALL)


@pytest.mark.parametrize("version", ["0.21.0", "1.1.0rc5"])
def test_a_version_before_1_2_is_refused(
    version: str, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    double.install(monkeypatch, version=version)
    with pytest.raises(EngineUnavailable, match=rf"tensorrt_llm is {version}, expected 1\.2 or later: pip install"):
        make()


def test_without_a_gpu_the_message_names_the_engine_that_needs_none(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineUnavailable, match="needs an NVIDIA GPU and none is visible: use kind torch"):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_cache_fraction": 0}, "kv_cache_fraction = 0: "),
        ({"max_batch_size": 0}, "max_batch_size = 0: "),
        ({"tensor_parallel_size": 2}, "unknown option 'tensor_parallel_size'"),
        ({"instruction": "two\nlines"}, "holds a newline"),
    ],
    ids=lambda value: str(value)[:25],
)
def test_a_wrong_option_is_refused_before_anything_is_loaded(
    options: dict[str, Any], message: str, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)
    with pytest.raises(BadOptions, match=message):
        make(**options)


def test_output_of_the_library_stays_off_stdout(make: Callable[..., Any], capfd: pytest.CaptureFixture[str]) -> None:
    make().score(PAIRS)
    print("the document")
    out, err = capfd.readouterr()
    assert out == "the document\n"
    assert "[INFO] Using LLM with PyTorch backend" in err
    assert "the C++ runtime and the workers" in err


def test_the_page_has_the_install_command_and_every_option_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tensorrt-llm.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    ((_, entry),) = yaml.safe_load(block)["engines"].items()
    fields = TensorRTLLMOptions.model_fields
    assert entry.pop("kind") == "tensorrt_llm"
    assert {*entry, *re.findall(r"`(revision|instruction)`", page)} == fields.keys()
    limits = {name: value for name, value in entry.items() if name not in ("model", "template")}
    assert limits == {name: fields[name].default for name in limits}
    assert INSTALL in page.splitlines()


# The double is as strict as the package


def test_the_double_refuses_the_same_arguments_as_the_package(causal: str) -> None:
    with pytest.raises(TypeError):
        double.SamplingParams(colour="red")  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        double.KvCacheConfig(colour="red")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="LLM got invalid argument: encode_only"):
        double.LLM(causal, encode_only=True)
    with pytest.raises(ValueError, match="override KV cache dtype"):
        double.LLM(causal, kv_cache_config=double.KvCacheConfig(dtype="bfloat16"))
    llm = double.LLM(causal, skip_tokenizer_init=True, max_num_tokens=4)
    sampling = double.SamplingParams(max_tokens=1, end_id=0)
    with pytest.raises(ValueError, match="tokenizer is required to tokenize"):
        llm.generate(["text"], sampling)
    with pytest.raises(ValueError, match="tokenizer is required to reset end_id"):
        llm.generate([[1, 2]])
    with pytest.raises(ValueError, match=r"should not exceed max_num_tokens \(4\)"):
        llm.generate([{"prompt_token_ids": [1, 2, 3, 4, 5]}], sampling)
    assert llm.generate([{"prompt_token_ids": [1, 2]}], sampling)[0].outputs[0].generation_logits is None
