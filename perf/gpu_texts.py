"""Queries with their documents for perf/gpu.py: from a file, or drawn from this project's own pages.

python -m perf.gpu_texts NFCORPUS_FOLDER texts.jsonl --queries 40

writes such a file from a BEIR folder: test queries, each with the first 100 documents of BM25. Each line is one query,
{"query": ..., "documents": [...]}.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
WORDS = 230  # words of a drawn document, the average of NFCorpus


class TextPlan(NamedTuple):
    query: str
    documents: list[str]


def read(path: Path, queries: int, documents: int) -> list[TextPlan]:
    """The first queries of a file with their first documents. Raises ValueError for a line of another form."""
    plans = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()[:queries], 1):
        try:
            row = json.loads(line)
            plans.append(TextPlan(row["query"], row["documents"][:documents]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}:{number}: {error!r}: expected an object with query and documents") from None
    return plans


def draw(queries: int, documents: int, words: int = WORDS) -> list[TextPlan]:
    """Texts of drawn words, the same in every call. Lengths vary by a third around `words`, as in abstracts."""
    source = sorted({word for page in sorted(ROOT.glob("*.md")) for word in page.read_text(encoding="utf-8").split()})
    generator = random.Random(0)

    def text(length: int) -> str:
        return " ".join(generator.choices(source, k=length))

    lengths = [generator.randint(words * 2 // 3, words * 4 // 3) for _ in range(documents)]
    return [TextPlan(text(8), [text(length) for length in lengths]) for _ in range(queries)]


def of_beir(folder: Path, queries: int, k: int) -> Iterator[TextPlan]:
    """Judged test queries of a BEIR folder with BM25's first k documents; titles are joined as BEIR does."""
    from engines import Retriever, load

    corpus = {row["_id"]: f"{row.get('title', '')} {row['text']}".strip() for row in _rows(folder / "corpus.jsonl")}
    judged = {line.split("\t")[0] for line in (folder / "qrels/test.tsv").read_text().splitlines()[1:]}
    texts = list(corpus.values())
    engine = load("bm25", {})
    assert isinstance(engine, Retriever)
    engine.prepare(texts, analysis="english")
    kept = 0
    for row in _rows(folder / "queries.jsonl"):
        positions = engine.search(row["text"], k) if row["_id"] in judged else []
        if len(positions) == k and kept < queries:
            kept += 1
            yield TextPlan(row["text"], [texts[position] for position in positions])


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--documents", type=int, default=100)
    options = parser.parse_args(arguments)
    with options.out.open("w", encoding="utf-8") as file:
        for plan in of_beir(options.folder, options.queries, options.documents):
            file.write(json.dumps(plan._asdict(), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
