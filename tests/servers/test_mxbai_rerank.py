"""Template mxbai-v2 against its reference, mxbai-rerank 0.1.6 itself: token for token, and scores of a small model.

`make test-servers` installs the package into its own environment (perf/requirements-mxbai-rerank.txt).
"""

import json
import random
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from engines import Engine, load
from tests.servers import environment

pytestmark = pytest.mark.servers

SCRIPT = Path(__file__).with_name("reference.py")
LIMIT_S = 600
SEED = 18
PAIRS = 200
WORDS = {
    "english": "a search engine ranks documents; relevance, however, isn't what it's ranked by. Why? Because!".split(),
    "cjk": ["検索", "エンジンは", "文書を", "並べる。", "搜索引擎", "对文档", "排序，", "검색", "엔진은", "왜?"],
    "code": ["def f(x):\n", "    return ", "x[0]", "\n\n", "\t", "!=", "// ", "{}", "});", "\r\n", "0x1F", "function("],
    "marks": ["🧑‍🚀", "e\u0301", "ﬁ", "\u00a0", "\u2028", "\x85", "İ", "ſ", "नमस्ते", "שלום", "1234567", "…", "'ll"],
}
ENDS = ["", " ", "\n", "\n\n", "\t", " \n", ".", "...\n"]
SPECIALS = ["<|im_end|>", "<|im_start|>assistant\n", "<|endoftext|>"]


class PairCase(NamedTuple):
    """A pair for both implementations."""

    query: str
    document: str
    instruction: str | None = None
    plain: bool = False
    scored: bool = False


def text(chance: random.Random, words: int) -> str:
    kind = chance.choice([*WORDS, "all"])
    known = [word for group in WORDS.values() for word in group] if kind == "all" else WORDS[kind]
    joint = chance.choice([" ", "", "\n"])
    return chance.choice(ENDS) + joint.join(chance.choices(known, k=words)) + chance.choice(ENDS)


def cases() -> list[PairCase]:
    """200 pairs: empty, short and long texts of every kind, at and beyond both limits."""
    chance = random.Random(SEED)
    lengths = [0, 1, 7, 40, 300, 2000]
    pairs = [
        PairCase(text(chance, chance.choice(lengths[:5])), text(chance, chance.choice(lengths))) for _ in range(140)
    ]
    pairs += [PairCase(text(chance, words), text(chance, 9000)) for words in (0, 3, 500, 3000) for _ in range(5)]
    pairs += [PairCase(text(chance, 9000), text(chance, words)) for words in (0, 3, 2000, 9000) for _ in range(4)]
    pairs += [PairCase("cat " * queries, "dog " * 9000) for queries in (6140, 6141, 6142, 6143)]
    pairs += [PairCase("cat", "dog " * documents) for documents in (8185, 8186, 8187, 8188)]
    pairs += [PairCase(text(chance, 20), text(chance, 50), "Find the answer.") for _ in range(4)]
    pairs += [PairCase("cat " * 9000, "dog " * 9000, "Find the answer. " * 9)]
    pairs += [PairCase("function (a, b) { return a[b]; }\n" * 6500, "short"), PairCase("", ""), PairCase(" ", "\n")]
    pairs += [
        PairCase(f"query {special} here", f"{special}document {special}", plain=True)
        for special in SPECIALS
        for _ in "12"
    ]
    pairs += [PairCase("cat " * 7000 + special, special + "dog " * 9000, plain=True) for special in SPECIALS[:2]]
    return [pair._replace(scored=number % 10 == 0) for number, pair in enumerate(pairs)]


class Answers(NamedTuple):
    """What the reference makes of the pairs."""

    pairs: Sequence[PairCase]
    ids: Sequence[list[int]]
    scores: Sequence[float | None]


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 of one layer, in whose scores every token counts, with Qwen2's real tokenizer and positions."""
    import torch
    import transformers as library

    transformers: Any = library
    torch.manual_seed(SEED)
    path = tmp_path_factory.mktemp("reference")
    config = transformers.Qwen2Config(
        vocab_size=151936,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32768,
        initializer_range=0.5,
        tie_word_embeddings=True,
    )
    transformers.utils.logging.disable_progress_bar()
    transformers.Qwen2ForCausalLM(config).save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(data / "qwen2-tokenizer" / name, path)
    return path


@pytest.fixture(scope="module")
def reference(folder: Path) -> Answers:
    environment.install("mxbai-rerank")
    return asked(folder, cases())


def asked(folder: Path, pairs: Sequence[PairCase]) -> Answers:
    command = [str(environment.interpreter("mxbai-rerank")), str(SCRIPT), str(folder)]
    sent = json.dumps([pair._asdict() for pair in pairs])
    done = subprocess.run(command, input=sent, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads(done.stdout)
    return Answers(pairs, [answer["ids"] for answer in answers], [answer["score"] for answer in answers])


def engine(folder: Path, **options: Any) -> Engine:
    return load(
        "torch", {"model": str(folder), "template": "mxbai-v2", "precision": "fp32", "device": "cpu", **options}
    )


def test_every_prompt_has_the_ids_of_the_reference(reference: Answers, folder: Path) -> None:
    assert len(reference.pairs) == PAIRS
    assert max(map(len, reference.ids)) == 8271 and min(map(len, reference.ids)) < 90
    counts = []
    for instruction in {pair.instruction for pair in reference.pairs}:
        with engine(folder, instruction=instruction or "") as ours:
            for pair, ids in zip(reference.pairs, reference.ids, strict=True):
                if pair.instruction == instruction:
                    prompt = ours._encoder.encode(pair.query, [pair.document])  # type: ignore[attr-defined]
                    assert prompt.prefix + prompt.tails[0] == ids, pair
                    counts.append(prompt.counts)
    assert sum(count.truncated or 0 for count in counts) > 20
    assert sum(count.truncated_queries or 0 for count in counts) > 15


def test_scores_are_those_of_the_reference(reference: Answers, folder: Path) -> None:
    scored = [
        (pair, score)
        for pair, score in zip(reference.pairs, reference.scores, strict=True)
        if score is not None and not pair.instruction
    ]
    assert any(len(pair.document) > 9000 for pair, _ in scored)
    with engine(folder) as ours:
        scores = ours.score([(pair.query, pair.document) for pair, _ in scored])
    assert scores == pytest.approx([score for _, score in scored], abs=1e-3)


def test_a_special_token_in_a_text_is_a_token_in_the_reference_and_text_here(reference: Answers, folder: Path) -> None:
    """The one difference, on purpose: a document must not end its own turn."""
    pair = PairCase("query", "a <|im_end|> document")
    whole, plain = asked(folder, [pair, pair._replace(plain=True)]).ids
    assert (whole.count(151645), plain.count(151645)) == (3, 2)
    with engine(folder) as ours:
        prompt = ours._encoder.encode(pair.query, [pair.document])  # type: ignore[attr-defined]
    assert prompt.prefix + prompt.tails[0] == plain and prompt.counts.special_text == 1
