"""Deployment configs and chat templates, checked with truss's config class and with jinja as servers use it.

truss conflicts with our package versions, so it runs in a separate environment:
python -m tests.servers.environment truss
"""

import copy
import json
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

import engines
from engines.prompts.template import load_template
from harness.config import read_config
from tests.servers import environment

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "configs" / "deploy"
PATHS = sorted(DEPLOY.glob("*/config.yaml"))
CONFIGS: dict[str, Any] = {path.parent.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in PATHS}
JINJA = (DEPLOY / "vllm" / "mxbai-v2.jinja").read_text(encoding="utf-8")

Changes = Mapping[str, Any]  # dotted path -> value; None removes the field


def changed(changes: Changes, config: str = "large-l4") -> dict[str, Any]:
    """A copy of a shipped config with some fields set or removed."""
    config_copy = copy.deepcopy(CONFIGS[config])
    for path, value in changes.items():
        *parents, name = path.split(".")
        part = config_copy
        for parent in parents:
            part = part[parent]
        if value is None:
            del part[name]
        else:
            part[name] = value
    return config_copy


REFUSED: dict[str, tuple[Changes, str]] = {  # by truss, with this message
    "a misspelt field": (
        {"trt_llm.runtime.webserver_route": "/predict"},
        "Extra fields not allowed: [webserver_route]",
    ),
    "a misspelt field at the top": ({"model_nam": "x"}, "Extra fields not allowed: [model_nam]"),
    "an unknown GPU": ({"resources.accelerator": "L5"}, "Unsupported accelerator type"),
    "FP8 on A10G": ({"resources.accelerator": "A10G"}, "FP8 quantization is only supported on L4, H100"),
    "FP8 on A100": ({"resources.accelerator": "A100"}, "FP8 quantization is only supported on L4, H100"),
    "T4": ({"resources.accelerator": "T4"}, "TRT-LLM is not supported"),
    "V100": ({"resources.accelerator": "V100"}, "TRT-LLM is not supported"),
    "an unknown precision": ({"trt_llm.build.quantization_type": "fp9"}, "quantization_type Input should be"),
    "another route": ({"trt_llm.runtime.webserver_default_route": "/classify"}, "webserver_default_route Input should"),
    "no checkpoint": ({"trt_llm.build.checkpoint_repository": None}, "checkpoint_repository is required"),
    "a base_model of old": ({"trt_llm.build.base_model": "qwen"}, "has been renamed to `decoder`"),
    "more than a million positions": ({"trt_llm.build.max_seq_len": 1048577}, "less than or equal to 1048576"),
    "the card's Python": ({"python_version": "py39"}, "Python 3.9 is deprecated"),
}
ACCEPTED: dict[str, Changes] = {  # by truss, although wrong: the tests below catch these
    "fp8_kv": {"trt_llm.build.quantization_type": "fp8_kv"},
    "a decoder": {"trt_llm.build.base_model": "decoder"},
    "the card's length": {"trt_llm.build.max_seq_len": 1000001},
    "no route": {"trt_llm.runtime": None},
    "a misspelt field of build": {"trt_llm.build.quantisation_type": "fp8"},
    "a misspelt field of the checkpoint": {"trt_llm.build.checkpoint_repository.revison": "main"},
}


@pytest.fixture(scope="module")
def validated() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Looks up truss's report on a config: `error`, `unknown`, `config`. One call checks all: truss starts slowly."""
    if not environment.is_installed("truss"):
        pytest.skip("truss is not installed: python -m tests.servers.environment truss")
    changes = [change for change, _ in REFUSED.values()] + list(ACCEPTED.values())
    configs = [*CONFIGS.values(), *map(changed, changes)]
    script = environment.HERE / "validate_truss.py"
    command = [str(environment.interpreter("truss")), str(script)]
    ran = subprocess.run(command, input=json.dumps(configs), capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    reports = json.loads(ran.stdout)
    return lambda config: reports[configs.index(config)]


@pytest.mark.parametrize("name", CONFIGS)
def test_truss_accepts_the_config_and_knows_all_of_its_fields(name: str, validated: Callable[..., Any]) -> None:
    report = validated(CONFIGS[name])
    assert report["error"] is None
    assert report["unknown"] == []
    build = report["config"]["trt_llm"]["build"]
    assert (build["quantization_type"], build["max_seq_len"]) == ("fp8", None)
    assert report["config"]["trt_llm"]["runtime"]["webserver_default_route"] == "/predict"


@pytest.mark.parametrize("what", REFUSED)
def test_truss_refuses_a_wrong_field(what: str, validated: Callable[..., Any]) -> None:
    changes, words = REFUSED[what]
    assert words in (validated(changed(changes))["error"] or "")


@pytest.mark.parametrize("what", ACCEPTED)
def test_our_rules_refuse_mistakes_that_truss_accepts(what: str, validated: Callable[..., Any]) -> None:
    config = changed(ACCEPTED[what])
    report = validated(config)
    assert report["error"] is None
    assert report["unknown"] or broken_rules("large-l4", config)


def test_a_misspelt_field_of_build_is_reported_as_unknown(validated: Callable[..., Any]) -> None:
    report = validated(changed(ACCEPTED["a misspelt field of build"]))
    assert report["unknown"] == ["trt_llm.build.quantisation_type"]


def broken_rules(name: str, config: Mapping[str, Any]) -> list[str]:
    """Rules that the config breaks and truss does not check: it must match its folder's name and fit the model."""
    size, accelerator = name.split("-")
    build, runtime = config["trt_llm"]["build"], config["trt_llm"].get("runtime", {})
    rules = {
        "the name holds the size and the GPU": config["model_name"]
        == f"crispbench-mxbai-rerank-{size}-v2-fp8-{accelerator}",
        "the checkpoint has that size": build["checkpoint_repository"]["repo"]
        == f"michaelfeil/mxbai-rerank-{size}-v2-seq",
        "the accelerator is that GPU": config["resources"]["accelerator"] == accelerator.upper(),
        "the GPU computes in FP8": config["resources"]["accelerator"] in {"L4", "H100"},
        "the KV cache has 16 bits": build["quantization_type"] == "fp8",
        "it is a causal classifier": build["base_model"] == "encoder",
        "no more positions than the model has": build.get("max_seq_len", 32768) <= 32768,
        "/sync leads to labels": runtime.get("webserver_default_route") == "/predict",
    }
    return [rule for rule, holds in rules.items() if not holds]


def test_base_and_large_have_a_config_for_both_gpus() -> None:
    assert sorted(CONFIGS) == ["base-h100", "base-l4", "large-h100", "large-l4"]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_matches_its_name(name: str) -> None:
    assert broken_rules(name, CONFIGS[name]) == []


@pytest.mark.parametrize("name", CONFIGS)
def test_the_example_is_a_whole_prompt_that_requests_logits(name: str) -> None:
    example = CONFIGS[name]["model_metadata"]["example_model_input"]
    prompt = engines.create_mxbai_v2_reranker_prompt_template(
        "who wrote Moby-Dick?", "Moby-Dick is a novel by Herman Melville."
    )
    assert example == {"inputs": [[prompt]], "raw_scores": True, "truncate": False}


def test_every_baseten_endpoint_has_the_url_and_template_of_the_card() -> None:
    config = read_config(ROOT / "configs/endpoints.yaml")
    baseten = {name: entry.given for name, entry in config.engines.items() if entry.given.get("dialect") == "baseten"}
    assert sorted(baseten) == ["base-bei", "large-bei"]
    for options in baseten.values():
        assert options["url"].endswith("/environments/production/sync")
        assert options["api_key_env"] == "BASETEN_API_KEY"
        assert options["template"] == "mxbai-v2-seq"


def test_every_engine_in_the_page_has_valid_options() -> None:
    document = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", document, flags=re.DOTALL)]
    assert sorted(name for block in blocks for name in block) == ["base-infinity", "base-vllm"]
    for block in blocks:
        for options in block.values():
            engines.options(options.pop("kind"), options)


def rendered(template: str, query: str, document: str, **variables: str) -> str:
    """A chat template as vLLM fills it for one pair: jinja as transformers sets it up, roles query and document."""
    import transformers

    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
    text: str = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **variables)
    return text


TEXTS = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(["{{ 1 }}", "{# no #}", " a \n\n", "\n"])


@settings(deadline=None)  # the first call imports transformers
@given(TEXTS, TEXTS, TEXTS.filter(lambda text: "\n" not in text))
def test_the_chat_template_renders_like_the_reference_template(query: str, document: str, instruction: str) -> None:
    expected = load_template("mxbai-v2").render(query, document, instruction)
    assert rendered(JINJA, query, document, instruction=instruction) == expected


def test_the_chat_template_needs_no_instruction() -> None:
    assert rendered(JINJA, "q", "d") == load_template("mxbai-v2").render("q", "d")


def test_a_plain_newline_at_the_end_of_a_chat_template_is_lost() -> None:
    """vLLM's example for this model therefore ends in `assistant`, one token before the token to be scored."""
    plain = JINJA.replace('{{ "\\n" -}}', "")
    assert plain.endswith("<|im_start|>assistant\n")
    assert rendered(plain, "q", "d").endswith("<|im_start|>assistant")
    assert rendered(JINJA, "q", "d").endswith("<|im_start|>assistant\n")
