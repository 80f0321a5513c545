"""Tokenizers and tiny random checkpoints for the engines' tests, and the promises of the engine contract.

Everything is offline: HF_HUB_OFFLINE is set.
"""

import copy
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from engines import Engine, Pair, load
from engines.base import Counts, Description

os.environ["HF_HUB_OFFLINE"] = "1"

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TINY_TEMPLATE = """
name: tiny
description: markers only
source: this test
labels: {positive: "1", negative: "0"}
pieces: ["<|im_start|>", "{query}", "<|im_end|>", "{document}", "<|im_end|><|im_start|>"]
"""


@pytest.fixture(scope="session")
def qwen2(data: Path) -> Tokenizer:
    path = data / "qwen2-tokenizer" / "tokenizer.json"
    if not path.is_file():
        pytest.skip(f"needs Qwen2's tokenizer at {path}")
    return Tokenizer.from_file(str(path))


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A byte-level BPE with the three special tokens, trained on a few lines."""
    tiny = Tokenizer(models.BPE())
    tiny.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tiny.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tiny.train_from_iterator(["a search relevance expert reads the query and the document with care"] * 3, trainer)
    return tiny


@pytest.fixture(scope="session")
def tiny_template(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a template of four tokens, which keeps forwards small."""
    path = tmp_path_factory.mktemp("templates") / "tiny.yaml"
    path.write_text(TINY_TEMPLATE)
    return str(path)


MakeCheckpoint = Callable[..., str]


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Torch uses one thread: these tensors are too small to share, and other cores may be busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, one_thread: None) -> MakeCheckpoint:
    """Makes the folder of a random Qwen2 checkpoint: causal if `labels` is None; `change` alters its weights."""
    import torch
    import transformers as library

    transformers: Any = library  # the library is untyped here

    def make(
        labels: list[str] | None = None, change: Callable[[dict[str, Any]], None] | None = None, **settings: Any
    ) -> str:
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("checkpoint")
        sizes = {
            "vocab_size": tokenizer.get_vocab_size() + 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "initializer_range": 0.3,  # wide, so that every token moves the score
            "pad_token_id": 0,
            "tie_word_embeddings": labels is None,
        }
        config = transformers.Qwen2Config(**{**sizes, **settings})
        if labels is None:
            model = transformers.Qwen2ForCausalLM(config)
        else:
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: index for index, label in enumerate(labels)}
            model = transformers.Qwen2ForSequenceClassification(config)
        weights = copy.copy(model.state_dict())
        if change is not None:
            change(weights)
        transformers.utils.logging.disable_progress_bar()
        model.save_pretrained(folder, state_dict=weights)
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="session")
def causal(make_checkpoint: MakeCheckpoint) -> str:
    return make_checkpoint()


@pytest.fixture(scope="session")
def classifier(make_checkpoint: MakeCheckpoint) -> str:
    return make_checkpoint(["0", "1"])


@pytest.fixture(scope="session")
def one_label(make_checkpoint: MakeCheckpoint) -> str:
    return make_checkpoint(["LABEL_0"])


@pytest.fixture(scope="session")
def make_bert(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Callable[..., str]:
    """Makes the folder of a random BERT with 64 positions and a vocabulary of a few words."""
    import transformers as library

    transformers: Any = library

    def make(architecture: str = "BertForSequenceClassification") -> str:
        transformers.set_seed(0)
        folder = tmp_path_factory.mktemp("bert")
        words = (
            "[PAD] [UNK] [CLS] [SEP] [MASK] a the cat sat on mat where did sit query and document stock fell".split()
        )
        (folder / "vocab.txt").write_text("\n".join(words))
        config = transformers.BertConfig(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            initializer_range=0.5,
            num_labels=1,
        )
        transformers.utils.logging.disable_progress_bar()
        getattr(transformers, architecture)(config).save_pretrained(folder)
        transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="session")
def bert(make_bert: Callable[..., str]) -> str:
    return make_bert()


class Subject(NamedTuple):
    """An engine under contract: one that all promises share, and a function that makes a new one."""

    engine: Engine
    fresh: Callable[[], Engine]
    kind: str
    options: dict[str, Any]


DOCUMENTS = [
    "A cat sat on the mat.",
    "def read_file(path): return open(path).read()",
    "",
    "Dogs bark; cats do not.",
    "猫が好き",
    "the quick brown fox " * 20,
    "A cat sat on the mat.",
]
QUERIES = ["where did the cat sit", "read a file", "", "zebra"]
PAIRS = [Pair(query, document) for query in QUERIES for document in DOCUMENTS]
Promise = Callable[[Subject], None]


def every_pair_gets_one_finite_float(subject: Subject) -> None:
    scores = subject.engine.score(PAIRS)
    assert len(scores) == len(PAIRS)
    assert all(type(score) is float and math.isfinite(score) for score in scores)


def scoring_twice_gives_the_same_scores(subject: Subject) -> None:
    assert subject.engine.score(PAIRS) == subject.engine.score(PAIRS)


def a_new_engine_gives_the_same_scores(subject: Subject) -> None:
    with subject.fresh() as new:
        assert new.score(PAIRS[:9]) == pytest.approx(subject.engine.score(PAIRS[:9]), abs=1e-5)


def scores_follow_their_pairs_in_any_order(subject: Subject) -> None:
    shuffled = PAIRS[::-3] + PAIRS[1::2]
    expected = dict(zip(PAIRS, subject.engine.score(PAIRS), strict=True))
    assert subject.engine.score(shuffled) == pytest.approx([expected[pair] for pair in shuffled], abs=1e-5)


def a_pair_scores_the_same_alone_and_in_a_batch(subject: Subject) -> None:
    alone = [subject.engine.score([pair])[0] for pair in PAIRS]
    assert alone == pytest.approx(subject.engine.score(PAIRS), abs=1e-5)


def plain_tuples_score_like_pairs(subject: Subject) -> None:
    tuples = [(pair.query, pair.document) for pair in PAIRS]
    assert subject.engine.score(tuples) == subject.engine.score(PAIRS)


def no_pairs_give_no_scores(subject: Subject) -> None:
    assert subject.engine.score([]) == []


def scores_differ_between_documents(subject: Subject) -> None:
    assert len(set(subject.engine.score(PAIRS[: len(DOCUMENTS)]))) > 2


def the_description_is_text_and_never_changes(subject: Subject) -> None:
    before = subject.engine.describe()
    subject.engine.score(PAIRS)
    assert before == subject.engine.describe()
    assert all(type(text) is str for item in before.document().items() for text in item)
    assert Description.read(before.document()) == before


def counts_never_fall(subject: Subject) -> None:
    before = subject.engine.counts()
    subject.engine.score(PAIRS)
    after = subject.engine.counts()
    assert Counts.read(after.document()) == after
    assert all(type(count) is int for count in after.document().values())
    assert all(after.document()[name] >= count for name, count in before.document().items())


def closing_twice_is_harmless(subject: Subject) -> None:
    engine = subject.fresh()
    engine.close()
    engine.close()


def a_context_manager_closes_after_an_error(subject: Subject) -> None:
    class Closing(type(subject.engine)):  # type: ignore[misc]
        closed = False

        def close(self) -> None:
            self.closed = True
            super().close()

    engine = Closing(subject.engine.options)
    with pytest.raises(ZeroDivisionError), engine as entered:
        assert entered is engine
        raise ZeroDivisionError
    assert engine.closed


def an_unknown_option_is_an_error_that_lists_the_options(subject: Subject) -> None:
    names = sorted(type(subject.engine).options_type.model_fields)
    with pytest.raises(Exception, match="unknown option 'colour'") as raised:
        load(subject.kind, {**subject.options, "colour": "red"})
    assert type(raised.value).__name__ == "BadOptions"
    assert str(raised.value).endswith(f"expected one of {', '.join(names)}")


PROMISES: list[Promise] = [
    every_pair_gets_one_finite_float,
    scoring_twice_gives_the_same_scores,
    a_new_engine_gives_the_same_scores,
    scores_follow_their_pairs_in_any_order,
    a_pair_scores_the_same_alone_and_in_a_batch,
    plain_tuples_score_like_pairs,
    no_pairs_give_no_scores,
    scores_differ_between_documents,
    the_description_is_text_and_never_changes,
    counts_never_fall,
    closing_twice_is_harmless,
    a_context_manager_closes_after_an_error,
    an_unknown_option_is_an_error_that_lists_the_options,
]


@pytest.fixture(params=PROMISES, ids=lambda promise: promise.__name__)
def promise(request: pytest.FixtureRequest) -> Promise:
    """A function that checks one promise of every engine."""
    check: Promise = request.param
    return check


@pytest.fixture(scope="session")
def under_contract() -> Iterator[Callable[[str, dict[str, Any]], Subject]]:
    """Makes the subject of an engine's name and options; a shared engine is made once and closed at the end."""
    subjects: dict[str, Subject] = {}

    def prepared(kind: str, options: dict[str, Any]) -> Engine:
        engine = load(kind, options)
        engine.prepare(DOCUMENTS, analysis="english")
        return engine

    def make(kind: str, options: dict[str, Any]) -> Subject:
        if kind not in subjects:
            subjects[kind] = Subject(prepared(kind, options), lambda: prepared(kind, options), kind, options)
        return subjects[kind]

    yield make
    for subject in subjects.values():
        subject.engine.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Files of a self-signed certificate for 127.0.0.1 and of its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the command openssl")
    folder = tmp_path_factory.mktemp("tls")
    files = (str(folder / "certificate.pem"), str(folder / "key.pem"))
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    return files
