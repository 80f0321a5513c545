"""The training of the demo checkpoint is seeded, and an interruption does not change its weights."""

import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from scripts import demo_data, train_demo
from scripts.demo_data import TrainingFunction
from scripts.demo_model import END, START, VOCABULARY, new_model

WORDS = "open close read write parse merge split join sort count find drop copy move load save".split()


@pytest.fixture(scope="module")
def functions() -> list[TrainingFunction]:
    pairs = [(first, second) for first in WORDS for second in WORDS[:3]]
    return [TrainingFunction("package", f"{a} the {b} file", f"return {a}_{b}(self.path)") for a, b in pairs]


@pytest.fixture(scope="module")
def tokenizer(functions: list[TrainingFunction]) -> Tokenizer:
    return demo_data.build_tokenizer((f"{item.query} {item.body}" for item in functions), VOCABULARY)


@pytest.fixture(scope="module")
def corpus(functions: list[TrainingFunction], tokenizer: Tokenizer) -> train_demo.Corpus:
    random = np.random.default_rng(0)
    queries, bodies = [item.query for item in functions], [item.body for item in functions]
    vectors = random.normal(size=(2, len(functions), 8)).astype(np.float32)
    return train_demo.Corpus(
        functions=functions,
        queries=train_demo.encode(tokenizer, queries),
        bodies=train_demo.encode(tokenizer, bodies),
        query_vectors=vectors[0] / np.linalg.norm(vectors[0], axis=1, keepdims=True),
        body_vectors=vectors[1] / np.linalg.norm(vectors[1], axis=1, keepdims=True),
        lexical=demo_data.Lexical(bodies, queries),
        hard=np.full((len(functions), 4), -1, dtype=np.int32),
    )


def trained(
    corpus: train_demo.Corpus, tokenizer: Tokenizer, folder: Path, monkeypatch: pytest.MonkeyPatch, *, stops: list[int]
) -> dict[str, torch.Tensor]:
    """Weights after training to all stops in turn; every stop ends one run of the script."""
    small = ["--steps", "4", "--check", "2", "--lists", "2", "--list-size", "2", "--parts", "1", "--threads", "1"]
    for stop in stops:
        command = [
            "train",
            "--work",
            str(folder),
            "--out",
            str(folder / "out"),
            *small,
            "--stop",
            str(stop),
            "--no-bf16",
        ]
        monkeypatch.setattr(sys, "argv", command)
        args = train_demo.parse_arguments()
        task = train_demo.make_task(corpus.functions, 2, seed=0)
        model = train_demo.train_model(corpus, np.arange(len(corpus.functions)), task, tokenizer, args)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(
    corpus: train_demo.Corpus, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.random.default_rng(1).normal(size=(VOCABULARY, 256)).astype(np.float32)
    monkeypatch.setattr(train_demo, "token_vectors", lambda corpus, train: vectors)  # the fit would need more text
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    whole = trained(corpus, tokenizer, tmp_path / "whole", monkeypatch, stops=[4])
    resumed = trained(corpus, tokenizer, tmp_path / "resumed", monkeypatch, stops=[2, 4])
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    start = new_model(0).state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in whole.items())


def test_training_uses_the_prompt_of_the_template(tokenizer: Tokenizer) -> None:
    from engines.prompts.encoder import PromptEncoder
    from engines.prompts.template import load_template

    query, document = "open the read file", "return open_read(self.path)"
    encoded = PromptEncoder(load_template("demo"), tokenizer, max_tokens=164).encode(query, [document])
    ids = train_demo.prompt(*train_demo.encode(tokenizer, [query, document]))
    assert encoded.prefix + encoded.tails[0] == ids
    assert ids[0] == START and ids.count(END) == 2


OWN = '''
def greet(name):
    """Greet somebody by their first name."""
    return f"hello {name}, nice to meet you"
'''


def test_training_never_uses_functions_of_the_standard_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(textwrap.__file__).read_text(encoding="utf-8")
    for name, text in (
        ("stdlib/textwrap.py", source),
        ("site/borrowed/copied.py", source),
        ("site/borrowed/own.py", OWN),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(demo_data.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "stdlib")})
    items = demo_data.load_functions([tmp_path / "site"], per_package=100, seed=0)
    assert [item.query for item in items] == ["Greet somebody by their first name."]
