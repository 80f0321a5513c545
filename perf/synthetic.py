"""Benchmarks of any size for measuring the harness: BEIR folders, TREC runs and the config that names them.

Texts are drawn words and judgements are drawn candidates, so only sizes and costs mean something here, not quality.
"""

import gzip
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from harness.benchmarks.suites import load_suite

QUERY_WORDS = 8
VOCABULARY = 20_000
JUDGED = 3  # judged documents per query; the last one is not among the candidates


@dataclass(frozen=True)
class Size:
    """Size of every benchmark that is written."""

    k: int = 100  # candidates per query
    words: int = 60  # per document: MS MARCO's passages have 56, NQ's 79, Quora's 11 (Thakur et al. 2021)
    documents: int = 5_000  # in the corpus; at least twice the candidates of a query are written


def beir_15(share: float = 1.0) -> dict[str, int]:
    """Number of queries of each member of the suite `beir`, 53,359 in all; `share` makes every member smaller."""
    members = {member.name: member.queries or 0 for member in load_suite("beir").members}
    return {name: max(1, round(share * queries)) for name, queries in members.items()}


def write(folder: Path, queries: Mapping[str, int], size: Size = Size(), **engines: Mapping[str, object]) -> Path:
    """Write benchmarks with these numbers of queries, their runs and a config, and return the config's path.

    Equal calls write equal bytes. `engines` are the entries of the config; the default is the fake engine.
    """
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(VOCABULARY)]
    for name, count in queries.items():
        _write_benchmark(folder / name, count, size, words)
    config = {
        "name": folder.name,
        "engines": engines or {"fake": {"kind": "fake"}},
        "benchmarks": [{"source": "beir", "path": str(folder / name), "name": name} for name in queries],
        "candidates": {"source": "run", "path": str(folder / "{benchmark}" / "run.trec.gz"), "k": size.k},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def _write_benchmark(folder: Path, queries: int, size: Size, words: list[str]) -> None:
    draw = random.Random(folder.name)
    (folder / "qrels").mkdir(parents=True)
    doc_ids = [f"doc{number}" for number in range(max(size.documents, 2 * size.k))]
    query_ids = [f"query{number}" for number in range(queries)]
    for name, ids, length in (("corpus", doc_ids, size.words), ("queries", query_ids, QUERY_WORDS)):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(_texts(ids, words, length, draw))
    with (
        gzip.open(folder / "run.trec.gz", "wt", compresslevel=1, encoding="utf-8") as run,
        (folder / "qrels/test.tsv").open("w", encoding="utf-8") as qrels,
    ):
        qrels.write("query-id\tcorpus-id\tscore\n")
        for query_id in query_ids:
            *listed, absent = draw.sample(doc_ids, size.k + 1)
            run.writelines(f"{query_id} Q0 {doc} {rank} {100 - rank / 8} bm25\n" for rank, doc in enumerate(listed, 1))
            judged = [*draw.sample(listed, min(JUDGED - 1, len(listed))), absent]
            qrels.writelines(f"{query_id}\t{doc_id}\t{draw.randint(1, 2)}\n" for doc_id in judged)


def _texts(ids: list[str], words: list[str], length: int, draw: random.Random) -> Iterator[str]:
    for key in ids:
        yield json.dumps({"_id": key, "text": " ".join(draw.choices(words, k=length))}) + "\n"
