"""What the peers score: real queries with BM25's first documents, and the least work that scoring them takes.

Texts are NFCorpus's and the tokenizer is Qwen2's where the collections have them, and the demo's where they do not.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engines import Pair
from engines.prompts.encoder import PromptEncoder
from engines.prompts.template import load_template
from engines.torch.work import Shape as Layers
from engines.torch.work import causal_keys
from harness.config import Config
from harness.run.tasks import Selection, prepare
from perf.peer_checkpoint import PeerShape

ROOT = Path(__file__).parents[1]
COLLECTIONS = Path(os.environ.get("CRISPBENCH_DATA") or ROOT.parent / "shared/data")
DEMO = ROOT / "checkpoints/demo"


class Workload(NamedTuple):
    name: str
    lists: list[list[Pair]]  # [queries][documents]

    @property
    def pairs(self) -> list[Pair]:
        return [pair for pairs in self.lists for pair in pairs]


class Work(NamedTuple):
    """The least work of a workload: a query's prefix once, no padding, one row of the head."""

    prompt_tokens: int  # sum over all prompts, each with its own prefix
    longest_tokens: int  # longest prompt
    needed_tokens: int  # every prefix counted once
    flops: int  # for the needed tokens, by the formula of engines.torch.work


def find_tokenizer(collections: Path) -> Path:
    folder = collections / "qwen2-tokenizer"
    return folder if (folder / "tokenizer.json").is_file() else DEMO


def find_workload(collections: Path, queries: int, documents: int) -> Workload:
    """The first queries of the collection with BM25's first documents. Raises BenchmarkError."""
    source: dict[str, Any] = {"source": "stdlib", "name": "stdlib-code"}
    if (collections / "nfcorpus/beir").is_dir():
        source = {"source": "beir", "path": str(collections / "nfcorpus/beir"), "name": "NFCorpus"}
    config = {"name": "peers", "engines": {"bm25": {"kind": "bm25"}}, "benchmarks": [source]}
    (task,) = prepare(
        Config.model_validate({**config, "candidates": {"source": "bm25", "k": documents}}), Selection(limit=queries)
    )
    benchmark = task.benchmark
    lists = [
        [Pair(benchmark.queries[query_id], benchmark.documents[doc_id]) for doc_id in doc_ids]
        for query_id, doc_ids in task.candidates.lists.items()
        if doc_ids
    ]
    return Workload(benchmark.name, lists)


def find_work(workload: Workload, shape: PeerShape, tokenizer: Path, template: str) -> Work:
    from tokenizers import Tokenizer

    known = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    encoder = PromptEncoder(load_template(template), known, max_tokens=8192)
    prompts = [encoder.encode(pairs[0].query, [pair.document for pair in pairs]) for pairs in workload.lists]
    works = [work_of(shape, len(prompt.prefix), [len(tail) for tail in prompt.tails]) for prompt in prompts]
    return Work(
        prompt_tokens=sum(work.prompt_tokens for work in works),
        longest_tokens=max(work.longest_tokens for work in works),
        needed_tokens=sum(work.needed_tokens for work in works),
        flops=sum(work.flops for work in works),
    )


def work_of(shape: PeerShape, prefix_tokens: int, tail_tokens: Sequence[int]) -> Work:
    """Work of one query with one document per tail."""
    needed = prefix_tokens + sum(tail_tokens)
    keys = causal_keys(prefix_tokens) + sum(causal_keys(tail, behind=prefix_tokens) for tail in tail_tokens)
    return Work(
        prompt_tokens=needed + prefix_tokens * (len(tail_tokens) - 1),
        longest_tokens=prefix_tokens + max(tail_tokens),
        needed_tokens=needed,
        flops=layers(shape).flops(needed, keys),
    )


def layers(shape: PeerShape) -> Layers:
    """All matrices that a token passes, for engines.torch.work and engines.torch.ceiling. Byte sizes are left at 0."""
    attention = shape.layers * shape.hidden
    return Layers(tuple(shape.matrices * shape.layers), attention, weight_bytes=0, activation_bytes=0)
