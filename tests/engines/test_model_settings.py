"""What real checkpoints name passes: the allow-lists hold what sentence-transformers and torch themselves save."""

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from engines import load
from engines.model_settings import (
    ACTIVATIONS,
    MODULES,
    PROCESSORS,
    _module_name,
    _repeats_a_group,
    check_sentence_transformer,
)

transformers_of_sentences: Any = pytest.importorskip("sentence_transformers")
PACKAGES = ("base", "sentence_transformer", "cross_encoder")


def classes() -> dict[str, Any]:
    """Every module's class by its name."""
    packages = [importlib.import_module(f"sentence_transformers.{name}.modules") for name in PACKAGES]
    return {name: getattr(package, name) for package in packages for name in MODULES if hasattr(package, name)}


def test_every_module_has_the_path_that_the_library_saves() -> None:
    assert MODULES.keys() == classes().keys()
    for name, module in classes().items():
        assert _module_name(f"{module.__module__}.{name}") == name
        assert _module_name(f"sentence_transformers.models.{name}") == name  # before 5.4
        assert _module_name(f"sentence_transformers.models.{name}.{name}") == name


@pytest.mark.parametrize("name", ["Identity", "Sigmoid", "Tanh", "GELU", "ReLU", "SiLU", "Softmax", "ELU", "LeakyReLU"])
def test_an_activation_has_the_path_that_the_library_saves(name: str) -> None:
    activation = getattr(torch.nn, name)
    assert ACTIVATIONS.fullmatch(f"{activation.__module__}.{name}")
    assert ACTIVATIONS.fullmatch(f"torch.nn.{name}")


def test_a_saved_model_of_many_modules_passes_and_scores(bert: str, tmp_path: Path) -> None:
    parts = classes()
    body = parts["Transformer"](bert)
    size = body.get_embedding_dimension()
    modules = [
        body,
        parts["Pooling"](size, pooling_mode=("mean", "cls")),
        parts["Dense"](2 * size, 8, activation_function=torch.nn.GELU()),
        parts["LayerNorm"](8),
        parts["Dropout"](0.1),
        parts["Normalize"](),
    ]
    transformers_of_sentences.SentenceTransformer(modules=modules).save(str(tmp_path / "model"))
    check_sentence_transformer(str(tmp_path / "model"))
    with load("bi_encoder", {"model": str(tmp_path / "model"), "device": "cpu"}) as engine:
        assert engine.score([("a cat", "the cat sat"), ("a cat", "")])[0] <= 1


def test_a_saved_router_and_a_static_embedding_pass(tokenizer: Any, tmp_path: Path) -> None:
    parts = classes()
    static = parts["StaticEmbedding"](tokenizer, embedding_dim=8)
    router = parts["Router"].for_query_document([static], [static])
    transformers_of_sentences.SentenceTransformer(modules=[router, parts["Normalize"]()]).save(str(tmp_path / "model"))
    check_sentence_transformer(str(tmp_path / "model"))


def test_a_saved_cross_encoder_passes_with_each_activation(bert: str, tmp_path: Path) -> None:
    for activation in (torch.nn.Sigmoid(), torch.nn.Identity()):
        model = transformers_of_sentences.CrossEncoder(bert, activation_fn=activation, device="cpu")
        model.save(str(tmp_path / "model"))
        check_sentence_transformer(str(tmp_path / "model"))


def flat(names: Any) -> Iterator[str]:
    """The names in nested mappings and tuples."""
    for name in names.values() if isinstance(names, Mapping) else names:
        if isinstance(name, str):
            yield name
        elif name is not None:
            yield from flat(name)


@pytest.mark.parametrize(
    ("key", "module"),
    [
        ("tokenizer_class", "tokenization"),
        ("processor_class", "processing"),
        ("feature_extractor_type", "feature_extraction"),
        ("image_processor_type", "image_processing"),
    ],
)
def test_the_name_of_every_class_in_the_tables_of_transformers_passes(key: str, module: str) -> None:
    auto = importlib.import_module(f"transformers.models.auto.{module}_auto")
    table = {"tokenization": "TOKENIZER", "processing": "PROCESSOR", "feature_extraction": "FEATURE_EXTRACTOR"}
    name = table.get(module, module.replace("processing", "processor").upper())
    names = set(flat(getattr(auto, f"{name}_MAPPING_NAMES")))
    assert len(names) > 15
    assert {name for name in names if not PROCESSORS[key].fullmatch(name)} == set()


# Patterns of GPT-2, GPT-4, GPT-4o, BLOOM and DeepSeek, as their tokenizer.json have them.
PATTERNS = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lo}\p{M}]*[\p{Ll}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|\s+",
    r"[^[:alnum:]\s]+",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_known_pattern_passes(pattern: str) -> None:
    assert not _repeats_a_group(pattern)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(?:x[)]y)+", r"(\w{1,3}){100000}", "(a?){2,}", "a" * 20_000])
def test_a_pattern_that_may_never_end_is_refused(pattern: str) -> None:
    assert _repeats_a_group(pattern)
