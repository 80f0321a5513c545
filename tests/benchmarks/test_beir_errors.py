"""Every mistake in a BEIR folder is reported in one line with file, line, value, expectation and next step."""

import gzip
from pathlib import Path

import pytest

from harness.benchmarks import BenchmarkError, load

CORPUS = '{"_id": "d1", "text": "a"}\n{"_id": "d2", "text": "b"}\n'
QUERIES = '{"_id": "q1", "text": "?"}\n'
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "set"
    (path / "qrels").mkdir(parents=True)
    (path / "corpus.jsonl").write_text(CORPUS)
    (path / "queries.jsonl").write_text(QUERIES)
    (path / "qrels/test.tsv").write_text(QRELS)
    return path


def message(folder: Path, split: str = "test") -> str:
    """The error of `load` without the path of the folder."""
    with pytest.raises(BenchmarkError) as caught:
        load("beir", {"path": folder, "split": split})
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "").replace(str(folder), "FOLDER")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            '{"_id": "d3", "text": ',
            '\'{"_id": "d3", "text": \' is not JSON (Expecting value); expected one JSON object',
        ),
        (
            '["d3", "c"]',
            '\'["d3", "c"]\' is not a JSON object; expected one object per line: the file seems to be one list, write',
        ),
        ('"d3"', "'\"d3\"' is not a JSON object; expected one object per line"),
        (
            "{",
            "'{' is not JSON (Expecting property name enclosed in double quotes); expected one JSON object per line",
        ),
        (
            '{"_id": "d3"},',
            '\'{"_id": "d3"},\' is not JSON (Extra data); expected one JSON object per line: remove the comma',
        ),
        (
            "{'_id': 'd3'}",
            "\"{'_id': 'd3'}\" is not JSON (Expecting property name enclosed in double quotes); expected one JSON "
            "object per line: names and texts seem to have single quotes, write double ones",
        ),
        ('{"id": "d3", "text": "c"}', "no '_id' among [\"id\", \"text\"]; expected _id and text: rename 'id' to '_id'"),
        ('{"_id": "d3", "body": "c"}', "no 'text' among [\"_id\", \"body\"]; expected _id and text: rename 'body' to"),
        ('{"_id": "d3", "url": "c"}', 'no \'text\' among ["_id", "url"]; expected _id and text'),
        ('{"_id": "d3", "text": ["c"]}', 'text is ["c"]; expected a string or null'),
        ('{"_id": "d3", "text": "c", "title": 5}', "title is 5; expected a string, null or no title"),
        ('{"_id": 1.5, "text": "c"}', "_id is 1.5; expected a string without NUL and without half of a surrogate pair"),
        ('{"_id": true, "text": "c"}', "_id is true; expected a string without NUL"),
        ('{"_id": "", "text": "c"}', '_id is ""; expected a string without NUL'),
        ('{"_id": "d1", "text": "c"}', "_id 'd1' is also in line 1, with another text; keep one of them"),
        ('{"_id": "d3", "text": "\\ud83d"}', "the text of 'd3' has half of a surrogate pair"),
    ],
)
def test_a_bad_line_of_the_corpus_is_named_with_its_number(folder: Path, line: str, expected: str) -> None:
    (folder / "corpus.jsonl").write_text(CORPUS + "\n" + line + "\n")  # the blank line counts
    assert message(folder).startswith(f"corpus.jsonl:4: {expected}")


def test_a_bad_line_of_the_queries_is_named_with_its_number(folder: Path) -> None:
    (folder / "queries.jsonl").write_text(QUERIES + QUERIES.replace("?", "!"))
    assert message(folder) == "queries.jsonl:2: _id 'q1' is also in line 1, with another text; keep one of them"


def test_a_long_bad_line_is_shortened_in_the_message(folder: Path) -> None:
    (folder / "corpus.jsonl").write_text("x" * 10_000)
    assert message(folder).startswith(f"corpus.jsonl:1: '{'x' * 60}...' is not JSON")


def test_a_line_that_is_not_utf8_is_named_with_its_byte(folder: Path) -> None:
    (folder / "corpus.jsonl").write_bytes(CORPUS.encode() + '{"_id": "d3", "text": "é"}\n'.encode("latin-1"))
    assert message(folder) == "corpus.jsonl:3: byte b'\\xe9' at column 24 is not UTF-8; convert the file to UTF-8"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("q1\td2\t0.5", "grade '0.5' is not a whole number below a million; repair"),
        ("q1\td2\thigh", "grade 'high' is not a whole number below a million; repair"),
        ("q1\td2", "'q1\\td2' is not a judgement: it has 2 columns, and 3 are expected as in line 1; is white space"),
        ("q1\td2\t1\t1", "'q1\\td2\\t1\\t1' is not a judgement: it has 4 columns, and 3 are expected as in line 1"),
        ("q1\t\t1", "'q1\\t\\t1' is not a judgement; expected"),
        ("q1\td1\t0", "query 'q1', document 'd1' has grade 0, but 1 in line 2; keep one of them"),
        ("q9\td1\t1", "query 'q9' is not in queries.jsonl; add it there or remove its judgements"),
    ],
)
def test_a_bad_judgement_is_named_with_its_number(folder: Path, line: str, expected: str) -> None:
    (folder / "qrels/test.tsv").write_text(QRELS + line + "\n")
    assert message(folder).startswith(f"qrels/test.tsv:3: {expected}")


def test_a_first_judgement_with_a_bad_grade_is_not_mistaken_for_a_header(folder: Path) -> None:
    (folder / "qrels/test.tsv").write_text("q1\td1\t1.5\n")
    assert message(folder).startswith("qrels/test.tsv:1: grade '1.5' is not a whole number")


def test_judgements_without_a_positive_grade_are_refused(folder: Path) -> None:
    (folder / "qrels/test.tsv").write_text("q1\td1\t0\nq1\td2\t-1\n")
    assert message(folder) == (
        "qrels/test.tsv: no grade above 0 in 2 judgements; nothing can be measured; check that this is the right file, "
        "or `split`"
    )


@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_an_empty_file_is_named(folder: Path, file: str) -> None:
    (folder / file).write_text("\n")
    assert message(folder).startswith(f"{file}: the file ")


def test_judgements_of_another_collection_are_refused_with_an_example_of_both(folder: Path) -> None:
    (folder / "qrels/test.tsv").write_text(QRELS.replace("d1", "MED-1") + "q1\td2\t0\n")  # not relevant
    assert message(folder) == (
        "qrels/test.tsv: none of the 1 relevant judgements is for a document of the corpus (the first is for 'MED-1', "
        "the first document is 'd1'): judgements and corpus are of different collections"
    )


def test_queries_of_another_collection_are_refused_with_an_example_of_both(folder: Path) -> None:
    (folder / "queries.jsonl").write_text(QUERIES.replace("q1", "PLAIN-1"))
    assert message(folder) == (
        "qrels/test.tsv:2: query 'q1' is not in queries.jsonl, and no other judged query is (its first is 'PLAIN-1'): "
        "the two files are of different collections, or the columns are in another order than expected"
    )


def test_an_id_with_white_space_that_nothing_has_is_refused_with_its_line(folder: Path) -> None:
    (folder / "qrels/test.tsv").write_text(QRELS + "q1\tNew York\t1\n")
    assert message(folder) == (
        "qrels/test.tsv:3: id 'New York' holds white space, and neither corpus.jsonl nor queries.jsonl has it; "
        "separate the columns by one tab each, and write ids without white space"
    )


def test_a_missing_split_is_reported_with_the_files_that_exist(folder: Path) -> None:
    assert message(folder, split="dev") == (
        "qrels/dev.tsv: no such file, with or without .gz; set `split` to one that exists; "
        "the folder has corpus.jsonl, qrels/test.tsv, queries.jsonl"
    )


@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl"])
def test_a_missing_file_is_reported_with_the_files_that_exist(folder: Path, file: str) -> None:
    (folder / file).unlink()
    present = ", ".join(sorted({"corpus.jsonl", "qrels/test.tsv", "queries.jsonl"} - {file}))
    assert message(folder) == (
        f"{file}: no such file, with or without .gz; BEIR folders have one; the folder has {present}"
    )


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert message(tmp_path / "none") == "FOLDER: no such folder, tried FOLDER; set `path` to a folder in BEIR's format"


def test_a_truncated_gzip_file_is_named(folder: Path) -> None:
    (folder / "corpus.jsonl").write_bytes(gzip.compress(CORPUS.encode())[:-9])
    error = message(folder)
    assert error.startswith("corpus.jsonl") and error.endswith("repair or download the file again")
