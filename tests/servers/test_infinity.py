"""A third-party server in the loop: infinity's /classify through the remote engine, against the torch engine.

`make test-servers` installs infinity into its own environment (tests/servers/requirements-infinity.txt).
"""

import json
import math
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from engines import Engine, Pair, load
from harness.cli import main
from harness.config import read_config
from harness.run.tasks import Selection, prepare
from tests.servers import infinity

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "checkpoints" / "demo"
TOLERANCE = 1e-3  # log-odds, both in fp32
SEED = "mxbai-v2-seq"
# Log-odds at which float32 loses the other label of a softmax: below exp(-87.3) its numbers have fewer digits, and
# exp(-103.3) is its smallest number.
IMPRECISE, ZERO = 87.0, 104.5


class Server(NamedTuple):
    url: str
    models: dict[str, Path]

    def remote(self, model: str, **options: Any) -> Engine:
        chosen = {"dialect": "infinity", "url": self.url, "model": model, "tokenizer": str(self.models[model])}
        return load("remote", {**chosen, **options})

    def torch(self, model: str, **options: Any) -> Engine:
        return load("torch", {"model": str(self.models[model]), "precision": "fp32", "device": "cpu", **options})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Three checkpoints in one server: the demo, a random Qwen2 whose newline is a token, and one with huge logits."""
    folder = tmp_path_factory.mktemp("infinity")
    models = {
        "demo": DEMO,
        "random": random_classifier(folder / "random", steepness=1),
        "steep": random_classifier(folder / "steep", steepness=50),
    }
    with infinity.serve(models, folder / "log.txt") as url:
        yield Server(url, models)


@pytest.fixture(scope="module")
def lists() -> list[list[Pair]]:
    """Real pairs, one list per query: the first 10 queries of both demo benchmarks, with 30 candidates each."""
    tasks = prepare(read_config(ROOT / "configs/demo.yaml"), Selection(limit=10))
    return [
        [Pair(task.benchmark.queries[query_id], task.benchmark.documents[doc_id]) for doc_id in doc_ids]
        for task in tasks
        for query_id, doc_ids in task.candidates.lists.items()
    ]


def random_classifier(folder: Path, *, steepness: float) -> Path:
    """A small Qwen2 classifier with a token for every byte, in the form that transformers 4 reads."""
    import torch
    import transformers
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = [AddedToken(text, special=True) for text in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([], trainer)
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.3,  # wide, so that every token moves the score
        pad_token_id=0,
        id2label={0: "0", 1: "1"},
        label2id={"0": 0, "1": 1},
    )
    model = transformers.Qwen2ForSequenceClassification(config)
    with torch.no_grad():
        model.score.weight *= steepness
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    settings["rope_theta"] = settings["rope_parameters"]["rope_theta"]
    (folder / "config.json").write_text(json.dumps(settings))
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|endoftext|>", "model_max_length": 4096}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    return folder


def short(lists: list[list[Pair]]) -> list[Pair]:
    """Some of the pairs, with documents cut to 200 characters: a tokenizer of bytes makes long ones slow."""
    return [Pair(query, document[:200]) for pairs in lists for query, document in pairs[:5]]


def largest_difference(ours: list[float], theirs: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def test_the_demo_gets_the_scores_and_the_order_of_the_torch_engine(
    server: Server, lists: list[list[Pair]], capsys: pytest.CaptureFixture[str]
) -> None:
    template = {"template": "demo", "max_tokens": 164}
    with server.torch("demo", **template) as torch, server.remote("demo", **template) as remote:
        expected = [torch.score(pairs) for pairs in lists]
        started = time.perf_counter()
        served = [remote.score(pairs) for pairs in lists]
        took_s = time.perf_counter() - started
        assert remote.counts().truncated == torch.counts().truncated != 0
        assert not remote.counts().saturated
    flat = [score for scores in expected for score in scores]
    difference = largest_difference(flat, [score for scores in served for score in scores])
    with capsys.disabled():
        print(f"\ninfinity: {len(flat)} pairs, largest difference {difference:.1e}, {len(flat) / took_s:.0f} pairs/s")
    assert len(flat) > 400
    assert difference < TOLERANCE
    apart = 0
    for ours, theirs in zip(expected, served, strict=True):
        for i, j in combinations(range(len(ours)), 2):
            if abs(ours[i] - ours[j]) > TOLERANCE:
                apart += 1
                assert (ours[i] > ours[j]) == (theirs[i] > theirs[j])
    assert apart > 4000


def test_a_run_through_infinity_has_the_same_measures(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = {"template": "demo", "max_tokens": 164}
    config = {
        "name": "loop",
        "engines": {
            "torch": {"kind": "torch", "model": str(DEMO), "precision": "fp32", "device": "cpu", **shared},
            "infinity": {
                "kind": "remote",
                "dialect": "infinity",
                "url": server.url,
                "model": "demo",
                "tokenizer": str(DEMO),
                **shared,
            },
        },
        "benchmarks": [{"source": "stdlib", "name": "stdlib-code", "queries": 10}],
        "candidates": {"k": 20},
    }
    (tmp_path / "loop.yaml").write_text(yaml.safe_dump(config))
    capsys.readouterr()
    assert main(["run", str(tmp_path / "loop.yaml"), "--out", str(tmp_path / "out"), "--json"]) == 0
    engines = json.loads(capsys.readouterr().out)["engines"]
    measures = {name: engines[name]["benchmarks"]["stdlib-code"]["measures"] for name in ("torch", "infinity")}
    assert measures["infinity"] == measures["torch"]
    assert measures["torch"]["nDCG@10"]["value"] > 0


def test_the_final_newline_is_lost_without_protection_and_kept_with_it(server: Server, lists: list[list[Pair]]) -> None:
    pairs = short(lists)
    with server.torch("random", template=SEED, max_tokens=4096) as torch:
        expected = torch.score(pairs)
    differences = {}
    for mode in ("keep", "protect", "auto"):
        with server.remote("random", template=SEED, max_tokens=4096, final_newline=mode) as remote:
            differences[mode] = largest_difference(expected, remote.score(pairs))
    assert differences["protect"] < TOLERANCE
    assert differences["auto"] < TOLERANCE
    assert differences["keep"] > 1


def test_a_long_document_is_cut_here_so_that_the_server_keeps_the_end_of_the_prompt(
    server: Server, lists: list[list[Pair]]
) -> None:
    pairs = [Pair(query, document * 40) for query, document in short(lists)[:10]]
    with server.torch("random", template=SEED, max_tokens=1500) as torch:
        expected = torch.score(pairs)
    with server.remote("random", template=SEED, max_tokens=1500) as remote:
        assert largest_difference(expected, remote.score(pairs)) < TOLERANCE
        assert remote.counts().truncated == len(pairs)


def test_saturated_probabilities_are_counted_and_keep_their_sign(server: Server, lists: list[list[Pair]]) -> None:
    pairs = short(lists)
    with server.torch("steep", template=SEED, max_tokens=4096) as torch:
        expected = torch.score(pairs)
    with server.remote("steep", template=SEED, max_tokens=4096) as remote:
        served = remote.score(pairs)
        saturated = remote.counts().saturated
    certain = [abs(score) > ZERO for score in expected]
    possible = [abs(score) > IMPRECISE for score in expected]
    assert 0 < sum(certain) <= saturated <= sum(possible) < len(pairs)
    for ours, theirs, beyond in zip(expected, served, possible, strict=True):
        assert math.copysign(1, ours) == math.copysign(1, theirs)
        assert beyond or abs(ours - theirs) < 10 * TOLERANCE  # logits are 50 times larger, and so is fp32 rounding
