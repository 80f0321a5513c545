"""A folder in BEIR's format: corpus.jsonl, queries.jsonl and qrels/<split>.tsv, each plain or gzip.

Judgements decide what is loaded: the queries are those of the qrels, and a judged document that is not in the corpus
stays judged, because denominators come from the qrels. This module knows nothing of first stages or measures.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from engines.storage import resolve
from harness.benchmarks.base import (
    NO_ID,
    BenchmarkError,
    BenchmarkSource,
    content_hash,
    count_warning,
    oddities,
    sample,
)
from harness.benchmarks.lines import Line, beginning, find, read_lines, read_objects
from harness.records import Benchmark

# Collections in which a query has the id of the document that it was made from, under BEIR's and mteb's names: mteb
# 2.26 sets `ignore_identical_ids` for exactly these. It must not be the default for others: in MIRACL a query may
# share its id with a document that is relevant to it (Yoruba: 32 of 144 positives).
REMOVE_SELF = {"arguana", "fever", "fiqa", "fiqa2018", "msmarco", "quora", "quoraretrieval"}
KEEP_SELF = {"miracl"}

GRADE_COLUMN = {"score", "grade", "relevance", "label", "rel"}  # the last word of a header line
# pytrec_eval wraps grades at 2**32, and allocates memory for every grade up to the highest: 8 GB for 999,999,999.
GRADE = re.compile(r"[+-]?[0-9]{1,6}")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can hold half of a pair; UTF-8 and tokenizers cannot


class BeirFolder(BenchmarkSource):
    """A folder in BEIR's format."""

    path: Path
    name: str | None = None  # None: the folder's name
    split: str = "test"
    remove_self: bool | None = None  # None: true for the names in REMOVE_SELF
    analysis: str = "english"

    def load(self) -> Benchmark:
        folder = resolve(self.path)
        name = self.name or folder.resolve().name
        judged = read_qrels(find(folder, f"qrels/{self.split}.tsv", "set `split` to one that exists"))
        kept = sample(judged.grades, self.queries)
        qrels = {query_id: grades for query_id, grades in judged.grades.items() if query_id in kept}
        all_queries = dict(_texts(find(folder, "queries.jsonl", "BEIR folders have one"), _text))
        _require_queries(judged, all_queries)
        queries = {query_id: all_queries[query_id] for query_id in qrels}
        documents = dict(_texts(find(folder, "corpus.jsonl", "BEIR folders have one"), _document))
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
            warnings=(*oddities(queries, documents, qrels), *self._id_warning(name, queries, documents)),
        )

    def _id_warning(self, name: str, queries: Mapping[str, str], documents: Mapping[str, str]) -> tuple[str, ...]:
        if self.remove_self is not None or name.lower() in REMOVE_SELF | KEEP_SELF:
            return ()
        shared = [query_id for query_id in queries if query_id in documents]
        return count_warning(
            shared,
            "queries that share their id with a document; set `remove_self: true` if it is the query itself",
        )


class JudgedFolder(NamedTuple):
    """The judgements of a file, and the line that first judges each query."""

    path: Path
    grades: dict[str, dict[str, int]]
    first_lines: dict[str, int]  # query_id -> number of the first line that judges it


def read_qrels(path: Path) -> JudgedFolder:
    """Grades per query from BEIR's three columns, with or without a header, or TREC's four. Raises BenchmarkError."""
    judged = JudgedFolder(path, {}, {})
    lines: dict[tuple[str, str], int] = {}
    for line in read_lines(path):
        columns = _columns(line, path)
        if line.number == 1 and columns[2].lower() in GRADE_COLUMN:
            continue
        query_id, doc_id, grade_text = columns
        if not GRADE.fullmatch(grade_text):
            raise BenchmarkError(
                f"{path}:{line.number}: grade {beginning(grade_text)} is not a whole number below a million; "
                "repair the line"
            )
        grades = judged.grades.setdefault(query_id, {})
        first = lines.setdefault((query_id, doc_id), line.number)
        if grades.setdefault(doc_id, int(grade_text)) != int(grade_text):
            raise BenchmarkError(
                f"{path}:{line.number}: query {beginning(query_id)}, document {beginning(doc_id)} has grade "
                f"{grade_text}, but {grades[doc_id]} in line {first}; keep one of them"
            )
        judged.first_lines.setdefault(query_id, line.number)
    if not any(grade > 0 for grades in judged.grades.values() for grade in grades.values()):
        raise BenchmarkError(
            f"{path}: no grade above 0 in {len(lines)} judgements; nothing can be measured, check `split`"
        )
    return judged


def _columns(line: Line, path: Path) -> tuple[str, str, str]:
    columns = [column.strip() for column in line.text.split("\t")]
    if len(columns) == 1:
        columns = line.text.split()
        columns = columns if len(columns) == 4 else []
    if len(columns) == 4:  # TREC: query, iteration, document, grade
        del columns[1]
    if len(columns) != 3 or not all(columns):
        raise BenchmarkError(
            f"{path}:{line.number}: {beginning(line.text)} is not a judgement; expected query-id, corpus-id and score "
            f"separated by tabs, or TREC's four columns"
        )
    return columns[0], columns[1], columns[2]


def _texts(path: Path, text_of: Callable[[Mapping[str, Any], str], str]) -> Iterator[tuple[str, str]]:
    """Id and text of every line, in the order of the file."""
    seen: set[str] = set()
    for number, row in read_objects(path):
        position = f"{path}:{number}"
        key = _identifier(row, position)
        if key in seen:
            line = _line_of(key, path)
            raise BenchmarkError(f"{position}: _id {beginning(key)} is also in line {line}; ids must be unique")
        seen.add(key)
        text = text_of(row, position)
        if LONE_SURROGATE.search(text):
            raise BenchmarkError(
                f"{position}: the text of {beginning(key)} has half of a surrogate pair (\\ud800-\\udfff); repair it"
            )
        yield key, text


def _document(row: Mapping[str, Any], position: str) -> str:
    """Title and text as one string, as BEIR and mteb join them."""
    title = row.get("title") or ""
    if not isinstance(title, str):
        raise BenchmarkError(f"{position}: title is {_shown(title)}; expected a string, null or no title")
    return f"{title} {_text(row, position)}".strip()


def _text(row: Mapping[str, Any], position: str) -> str:
    if "text" not in row:
        raise BenchmarkError(f"{position}: no 'text' among {_shown(list(row))}; expected _id and text")
    if not isinstance(row["text"], str):
        raise BenchmarkError(f"{position}: text is {_shown(row['text'])}; expected a string")
    return row["text"]


def _identifier(row: Mapping[str, Any], position: str) -> str:
    if "_id" not in row:
        raise BenchmarkError(f"{position}: no '_id' among {_shown(list(row))}; expected _id and text")
    key = row["_id"]
    if isinstance(key, bool) or not isinstance(key, str | int) or not str(key).strip() or NO_ID.search(str(key)):
        raise BenchmarkError(
            f"{position}: _id is {_shown(key)}; expected a string without NUL and without half of a surrogate pair, "
            "or a whole number"
        )
    return str(key).strip()


def _shown(value: object) -> str:
    """A JSON value as the file has it, shortened to a part of a line."""
    try:
        text = json.dumps(value)
    except RecursionError:  # json reads slightly deeper nesting than it writes
        return "a deeply nested value"
    return text if len(text) <= 60 else f"{text[:60]}..."


def _line_of(key: str, path: Path) -> int:
    return next(number for number, row in read_objects(path) if _identifier(row, str(path)) == key)


def _require_queries(judged: JudgedFolder, queries: Mapping[str, str]) -> None:
    for query_id, line in judged.first_lines.items():
        if query_id not in queries:
            raise BenchmarkError(
                f"{judged.path}:{line}: query {beginning(query_id)} is not in queries.jsonl; "
                f"add it there or remove its judgements"
            )
