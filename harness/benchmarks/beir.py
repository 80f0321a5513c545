"""A folder in BEIR's format: corpus.jsonl, queries.jsonl and qrels/<split>.tsv, each plain or gzip.

Judgements decide what is loaded: the queries are those of the qrels, and a judged document that is not in the corpus
stays judged, because denominators come from the qrels. This module knows nothing of first stages or measures.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engines.storage import resolve, shadowed, tried
from harness.benchmarks.base import (
    NO_ID,
    BenchmarkError,
    BenchmarkSource,
    content_hash,
    count_warning,
    oddities,
    require_same_collection,
    sample,
)
from harness.benchmarks.judgements import Judgements, read_qrels
from harness.benchmarks.lines import beginning, find, read_objects
from harness.records import Benchmark

# Collections in which a query has the id of the document that it was made from, under BEIR's and mteb's names: mteb
# 2.26 sets `ignore_identical_ids` for exactly these. It must not be the default for others: in MIRACL a query may
# share its id with a document that is relevant to it (Yoruba: 32 of 144 positives).
REMOVE_SELF = {"arguana", "fever", "fiqa", "fiqa2018", "msmarco", "quora", "quoraretrieval"}
KEEP_SELF = {"miracl"}

# What other tools call BEIR's two keys: mteb, ir_datasets, Anserini, PyTerrier, MS MARCO.
ID_NAMES = ("id", "doc_id", "docid", "docno", "pid", "query_id", "qid", "corpus-id", "query-id")
TEXT_NAMES = ("contents", "content", "body", "passage", "document", "query", "question")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can hold half of a pair; UTF-8 and tokenizers cannot


class BeirFolder(BenchmarkSource):
    """A folder in BEIR's format."""

    path: Path
    name: str | None = None  # None: the folder's name
    split: str = "test"
    remove_self: bool | None = None  # None: true for the names in REMOVE_SELF
    analysis: str = "english"

    def preflight(self) -> Sequence[str]:
        folder = resolve(self.path, self.config_folder)
        if not folder.is_dir():
            raise BenchmarkError(
                f"{self.path}: no such folder, tried {tried(self.path, self.config_folder)}; set `path` to a folder "
                "in BEIR's format"
            )
        for name in (f"qrels/{self.split}.tsv", "queries.jsonl", "corpus.jsonl"):
            find(folder, name, "set `split` to one that exists" if "qrels" in name else "BEIR folders have one")
        return shadowed(self.path, self.config_folder)

    def load(self) -> Benchmark:
        self.preflight()
        folder = resolve(self.path, self.config_folder)
        name = self.name or folder.resolve().name
        judged = read_qrels(find(folder, f"qrels/{self.split}.tsv", "set `split` to one that exists"))
        all_queries = _read_texts(find(folder, "queries.jsonl", "BEIR folders have one"), _text)
        _require_queries(judged, all_queries.texts)
        corpus = _read_texts(find(folder, "corpus.jsonl", "BEIR folders have one"), _document)
        documents = corpus.texts
        judged.refuse_spaced([documents, all_queries.texts], "neither corpus.jsonl nor queries.jsonl has it")
        require_same_collection(str(judged.path), judged.grades, documents)
        kept = sample(judged.grades, self.queries)
        qrels = {query_id: grades for query_id, grades in judged.grades.items() if query_id in kept}
        queries = {query_id: all_queries.texts[query_id] for query_id in qrels}
        return Benchmark(
            name=name,
            revision=f"sha256:{content_hash(queries, documents, qrels)}",
            queries=queries,
            documents=documents,
            qrels=qrels,
            split=self.split,
            analysis=self.analysis,
            remove_self=name.lower() in REMOVE_SELF if self.remove_self is None else self.remove_self,
            available=len(judged.grades),
            warnings=(
                *(*judged.warnings, *all_queries.warnings, *corpus.warnings),
                *(*oddities(queries, documents, qrels), *self._id_warning(name, queries, documents)),
            ),
        )

    def _id_warning(self, name: str, queries: Mapping[str, str], documents: Mapping[str, str]) -> tuple[str, ...]:
        if self.remove_self is not None or name.lower() in REMOVE_SELF | KEEP_SELF:
            return ()
        shared = [query_id for query_id in queries if query_id in documents]
        return count_warning(
            shared,
            "queries that share their id with a document; set `remove_self: true` if it is the query itself",
        )


class Texts(NamedTuple):
    """The content of a file of queries or documents."""

    texts: dict[str, str]  # id -> text, in the order of the file
    warnings: tuple[str, ...]


def _read_texts(path: Path, text_of: Callable[[Mapping[str, Any], str], str]) -> Texts:
    """Id and text of every line. A line that repeats an id with the same text counts once; another text is an error."""
    texts: dict[str, str] = {}
    repeated: list[str] = []
    for number, row in read_objects(path):
        position = f"{path}:{number}"
        key, text = _identifier(row, position), text_of(row, position)
        if LONE_SURROGATE.search(text):
            raise BenchmarkError(
                f"{position}: the text of {beginning(key)} has half of a surrogate pair (\\ud800-\\udfff); repair it"
            )
        if key in texts:
            repeated.append(key)
        if texts.setdefault(key, text) != text:
            raise BenchmarkError(
                f"{position}: _id {beginning(key)} is also in line {_line_of(key, path)}, with another text; "
                "keep one of them"
            )
    if not texts:
        raise BenchmarkError(f"{path}: the file is empty; expected one JSON object per line, with _id and text")
    return Texts(
        texts, count_warning(repeated, f"{path.name}: lines that share id and text with an earlier line and count once")
    )


def _document(row: Mapping[str, Any], position: str) -> str:
    """Title and text as one string, as BEIR and mteb join them. BEIR reads a document that has only a title."""
    title = "" if _is_null(row.get("title")) else row["title"]
    if not isinstance(title, str):
        raise BenchmarkError(f"{position}: title is {_shown(title)}; expected a string, null or no title")
    text = "" if title and "text" not in row else _text(row, position)
    return f"{title} {text}".strip()


def _text(row: Mapping[str, Any], position: str) -> str:
    if "text" not in row:
        raise BenchmarkError(f"{position}: no 'text' among {_shown(list(row))}; {_renamed(row, 'text', TEXT_NAMES)}")
    text = "" if _is_null(row["text"]) else row["text"]
    if not isinstance(text, str):
        raise BenchmarkError(f"{position}: text is {_shown(text)}; expected a string or null")
    return text


def _is_null(value: object) -> bool:
    """Whether a value is missing. Python writes the missing texts of a pandas table as NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _identifier(row: Mapping[str, Any], position: str) -> str:
    if "_id" not in row:
        raise BenchmarkError(f"{position}: no '_id' among {_shown(list(row))}; {_renamed(row, '_id', ID_NAMES)}")
    key = row["_id"]
    if isinstance(key, bool) or not isinstance(key, str | int) or not str(key).strip() or NO_ID.search(str(key)):
        raise BenchmarkError(
            f"{position}: _id is {_shown(key)}; expected a string without NUL and without half of a surrogate pair, "
            "or a whole number"
        )
    return str(key).strip()


def _renamed(row: Mapping[str, Any], key: str, names: Sequence[str]) -> str:
    """The next step for a line without a key: the name that the key seems to have there."""
    found = [name for name in names if name in row]
    return f"expected _id and text{f': rename {found[0]!r} to {key!r}' if len(found) == 1 else ''}"


def _shown(value: object) -> str:
    """A JSON value as the file has it, shortened to a part of a line."""
    try:
        text = json.dumps(value)
    except RecursionError:  # json reads slightly deeper nesting than it writes
        return "a deeply nested value"
    return text if len(text) <= 60 else f"{text[:60]}..."


def _line_of(key: str, path: Path) -> int:
    return next(number for number, row in read_objects(path) if _identifier(row, str(path)) == key)


def _require_queries(judged: Judgements, queries: Mapping[str, str]) -> None:
    lost = [query_id for query_id in judged.first_lines if query_id not in queries]
    if not lost:
        return
    where = f"{judged.path}:{judged.first_lines[lost[0]]}: query {beginning(lost[0])} is not in queries.jsonl"
    if len(lost) == len(judged.first_lines):
        raise BenchmarkError(
            f"{where}, and no other judged query is (its first is {beginning(next(iter(queries)))}): the two files are "
            "of different collections, or the columns are in another order than expected"
        )
    more = f", nor are {len(lost) - 1:,} other judged queries" if len(lost) > 1 else ""
    raise BenchmarkError(f"{where}{more}; add it there or remove its judgements")
