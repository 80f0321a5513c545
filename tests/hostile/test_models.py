"""A checkpoint is weights and settings: its code never runs, and only safetensors are read."""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import engines
from engines.base import EngineUnavailable

ROOT = Path(__file__).parents[2]
KINDS = ("torch", "cross_encoder", "bi_encoder")
RUNS_A_FILE = "torch.distributed.run.main"  # called by sentence-transformers, it runs the file that argv[1] names


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "ran"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "checkpoints/demo", tmp_path / "model"))


def load(kind: str, folder: Path) -> None:
    options = {"template": "demo"} if kind == "torch" else {}
    with engines.load(kind, {"model": str(folder), "precision": "fp32", **options}):
        pass


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl"])
def test_a_checkpoint_of_pickles_is_refused_and_not_opened(kind: str, name: str, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / name).write_bytes(pickle.dumps(Payload(checkpoint / "ran")))
    with pytest.raises(EngineUnavailable):
        load(kind, checkpoint)
    assert not (checkpoint / "ran").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_code_in_a_checkpoint_does_not_run(kind: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions: list[str] = []  # transformers takes an exception from `input` as a no
    monkeypatch.setattr("builtins.input", lambda question="": questions.append(question) or "y")
    code = f"from pathlib import Path\nPath({str(checkpoint / 'ran')!r}).write_text('ran')\n"
    (checkpoint / "evil.py").write_text(code + "class Config: ...\nclass Model: ...\n")
    settings = json.loads((checkpoint / "config.json").read_text())
    auto_models = dict.fromkeys(
        ("AutoModel", "AutoModelForSequenceClassification", "AutoModelForCausalLM"), "evil.Model"
    )
    settings |= {"auto_map": {"AutoConfig": "evil.Config", **auto_models}, "model_type": "evil"}
    (checkpoint / "config.json").write_text(json.dumps(settings))
    with pytest.raises(EngineUnavailable):
        load(kind, checkpoint)
    assert questions == [] and not (checkpoint / "ran").exists()


@pytest.mark.parametrize("kind", ["cross_encoder", "bi_encoder"])
def test_a_module_that_a_checkpoint_names_does_not_run(kind: str, checkpoint: Path) -> None:
    code = f"from pathlib import Path\nPath({str(checkpoint / 'ran')!r}).write_text('ran')\nclass Module: ...\n"
    (checkpoint / "evil.py").write_text(code)
    (checkpoint / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.Module"}]))
    with pytest.raises(EngineUnavailable):
        load(kind, checkpoint)
    assert not (checkpoint / "ran").exists()


# Names in settings. Each would be imported, called or opened by a library.


def edit(file: Path, change: dict[str, Any]) -> None:
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**known, **change}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", {"sentence_transformers": {"activation_fn": RUNS_A_FILE}}),
        ("config.json", {"sbert_ce_default_activation_function": RUNS_A_FILE}),
        ("config.json", {"text_config": {"sentence_transformers": {"activation_fn": RUNS_A_FILE}}}),
        ("config_sentence_transformers.json", {"activation_fn": RUNS_A_FILE, "model_type": "CrossEncoder"}),
    ],
)
def test_a_checkpoint_cannot_run_the_file_that_the_command_line_names(
    kind: str,
    file: str,
    change: dict[str, Any],
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`crispbench run bench.yaml` in a folder with a file `run`, which torch's launcher would start."""
    (tmp_path / "run").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).write_text('ran')\n")
    edit(checkpoint / file, change)
    (checkpoint / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}])
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["crispbench", "run", "bench.yaml"])
    if kind == "torch" and file != "config.json":  # a file of sentence-transformers, which this engine does not read
        load(kind, checkpoint)
    else:
        with pytest.raises(EngineUnavailable, match=f"refused for its {file}: .* = '{RUNS_A_FILE}' is not among"):
            load(kind, checkpoint)
    assert not (tmp_path / "ran").exists()


HARMFUL: dict[str, tuple[str, dict[str, Any]]] = {
    "a kernel from the hub": ("config.json", {"attn_implementation": "someone/kernel"}),
    "a type that is a function": ("config.json", {"dtype": "load"}),
    "pickled weights": ("config.json", {"transformers_weights": "weights.bin"}),
    "pickled shards": ("model.safetensors.index.json", {"weight_map": {"a": "shard.bin"}}),
    "shards elsewhere": ("model.safetensors.index.json", {"weight_map": {"a": "../other.safetensors"}}),
    "an adapter": ("adapter_config.json", {"base_model_name_or_path": "/elsewhere"}),
    "another class": ("tokenizer_config.json", {"tokenizer_class": "AutoModel"}),
    "a program's options": ("tokenizer_config.json", {"mecab_kwargs": {"mecab_option": "-r /elsewhere"}}),
    "a pattern": (
        "tokenizer.json",
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}},
    ),
}
HARMFUL_MODULES: dict[str, tuple[str, dict[str, Any]]] = {
    "unsafe weights": ("sentence_bert_config.json", {"model_args": {"use_safetensors": False}}),
    "another kernel": ("sentence_bert_config.json", {"model_kwargs": {"attn_implementation": "someone/kernel"}}),
    "another tokenizer": ("sentence_bert_config.json", {"tokenizer_name_or_path": "/elsewhere"}),
    "another method": ("sentence_bert_config.json", {"modality_config": {"text": {"method": "push_to_hub"}}}),
    "quantised weights": ("config.json", {"quantization_config": {"quant_method": "torchao"}}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("harm", HARMFUL)
def test_a_harmful_setting_is_refused(kind: str, harm: str, checkpoint: Path) -> None:
    file, change = HARMFUL[harm]
    edit(checkpoint / file, change)
    with pytest.raises(EngineUnavailable, match=f"is refused for its {file}: "):
        load(kind, checkpoint)


@pytest.mark.parametrize("kind", ["cross_encoder", "bi_encoder"])
@pytest.mark.parametrize("harm", HARMFUL_MODULES)
def test_a_harmful_setting_of_sentence_transformers_is_refused(kind: str, harm: str, checkpoint: Path) -> None:
    file, change = HARMFUL_MODULES[harm]
    edit(checkpoint / file, change)
    with pytest.raises(EngineUnavailable, match=f"is refused for its {file}: "):
        load(kind, checkpoint)


@pytest.mark.parametrize(
    "kind",
    [
        "sentence_transformers.base.model.torch",  # imported there: torch.load would be called
        "sentence_transformers.util.misc.importlib",
        "sentence_transformers.models.Transformer.Pooling",
        "sentence_transformers.models.os.Dense",
        "torch.nn.Identity",
        "modeling_own.Transformer",
        ["sentence_transformers.models.Dense"],
        None,
    ],
)
def test_a_module_that_is_none_of_sentence_transformers_own_is_refused(kind: Any, checkpoint: Path) -> None:
    (checkpoint / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": kind}]))
    with pytest.raises(EngineUnavailable, match="is no module of sentence-transformers that a checkpoint may name"):
        load("bi_encoder", checkpoint)


def module(checkpoint: Path, kind: str, path: str = "1_Module", **files: dict[str, Any]) -> None:
    """Add a module with its JSON files to a checkpoint."""
    names = {"": "Transformer", path: kind}
    entries = [
        {"idx": index, "name": str(index), "path": folder, "type": f"sentence_transformers.models.{name}"}
        for index, (folder, name) in enumerate(names.items())
    ]
    (checkpoint / "modules.json").write_text(json.dumps(entries))
    (checkpoint / "1_Module").mkdir(exist_ok=True)
    for name, content in files.items():
        (checkpoint / "1_Module" / f"{name}.json").write_text(json.dumps(content))


ROUTED = {"types": {"query": "modeling_own.Part"}, "structure": {"query": ["query"]}, "parameters": {}}
MODULES: dict[str, Callable[[Path], None]] = {
    "activation_function": lambda folder: module(folder, "Dense", config={"activation_function": RUNS_A_FILE}),
    "pickled weights are not read": lambda folder: module(folder, "LayerNorm", config={"dimension": 3}),
    "pooling_mode": lambda folder: module(folder, "Pooling", config={"pooling_mode": ["mean", "__class__"]}),
    "tokenizer_class": lambda folder: module(
        folder, "WordEmbeddings", wordembedding_config={"tokenizer_class": "sentence_transformers.util.misc.importlib"}
    ),
    "type = 'modeling_own.Part'": lambda folder: module(folder, "Router", router_config=ROUTED),
    "leaves the model's folder": lambda folder: module(folder, "Normalize", path="../elsewhere"),
}


@pytest.mark.parametrize("part", MODULES)
def test_a_harmful_part_of_a_module_is_refused(part: str, checkpoint: Path) -> None:
    MODULES[part](checkpoint)
    if part in ("activation_function", "tokenizer_class"):
        (checkpoint / "1_Module" / "model.safetensors").touch()
    (checkpoint / "1_Module" / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(checkpoint / "ran")))
    with pytest.raises(EngineUnavailable, match=part):
        load("bi_encoder", checkpoint)
    assert not (checkpoint / "ran").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt"])
def test_a_pipe_or_a_device_in_a_checkpoint_is_refused_and_not_read(kind: str, name: str, checkpoint: Path) -> None:
    (checkpoint / name).unlink(missing_ok=True)
    if name == "config.json":
        os.mkfifo(checkpoint / name)
    else:
        (checkpoint / name).symlink_to("/dev/zero")
    with pytest.raises(EngineUnavailable, match=f"refused for its {name}: expected a regular file"):
        load(kind, checkpoint)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", ["[" * 100_000, "[]", '{"a": ', "\x00", '{"a": "' + "x" * 17_000_000 + '"}'])
def test_settings_that_are_no_small_object_are_refused(kind: str, content: str, checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text(content)
    with pytest.raises(EngineUnavailable, match=r"is refused for its config\.json: ") as raised:
        load(kind, checkpoint)
    assert len(str(raised.value)) < 500


def test_no_engine_has_an_option_that_trusts_remote_code() -> None:
    for name in engines.ENGINES:
        assert "trust_remote_code" not in engines.engine_class(name).options_type.model_fields
