"""A checkpoint is weights and settings: its code never runs, and only safetensors are read."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

import engines
from engines.base import EngineUnavailable

ROOT = Path(__file__).parents[2]
KINDS = ("torch", "cross_encoder", "bi_encoder")


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


def test_no_engine_has_an_option_that_trusts_remote_code() -> None:
    for name in engines.ENGINES:
        assert "trust_remote_code" not in engines.engine_class(name).options_type.model_fields
