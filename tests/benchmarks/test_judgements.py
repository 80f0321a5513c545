"""Judgements are read as trec_eval 10 and BEIR's loader read them; everything else is refused with line and cause."""

import csv
import gzip
import io
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.benchmarks import BenchmarkError
from harness.benchmarks.judgements import read_qrels

GRADES = {"7": {"a#1": 2, "b": 0}, "8": {"b": 1}}

BEIR = "query-id\tcorpus-id\tscore\n7\ta#1\t2\n7\tb\t0\n8\tb\t1\n"
TREC = "7 0 a#1 2\n7 0 b 0\n8 0 b 1\n"


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "test.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    [
        TREC,
        "7\t0 a#1\t2\n7 0\tb 0\n8\t0\tb\t1\n",
        "  7   0 \t a#1\v2\t\n7\f0 b 0 \r\n\t8 Q0 b 1\n",
        "# two assessors\n7 0 a#1 2\n\n  # and a third\n7 0 b 0\n8 0 b 1\n# end",
        BEIR,
        BEIR.partition("\n")[2],
        BEIR.replace("\t", " "),
        "\n \n" + BEIR,
        "\ufeff" + BEIR.replace("\n", "\r\n"),
        gzip.compress(BEIR.encode()),
        '"query-id"\t"corpus-id"\t"score"\n"7"\t"a#1"\t2\n"7"\t"b"\t"0"\n"8"\t"b"\t"1"\n',
        '"7"\t"a#1"\t"2"\n"7"\t"b"\t"0"\n"8"\t"b"\t"1"\n',
        "qid\tdocno\tlabel\n7\ta#1\t2.0\n7\tb\t0.0\n8\tb\t1.000000000000000000e+00\n",
        "Query_ID iteration Doc_ID Relevance\n" + TREC,
        "\tscore\tquery-id\tnote\tcorpus-id\n0\t2\t7\tsure\ta#1\n1\t0\t7\t\tb\n2\t1\t8\t\tb\n",
        "query-id\tcorpus-id\tscore\n7 a#1 2\n7\tb 0\n8\tb\t1\t\n",
        "query_id\tquery\tdoc_id\tscore\n7\tsome text\ta#1\t2\n7\tsome text\tb\t0\n8\tmore\tb\t1\n",
        TREC.replace("8", "\ufeff8"),  # two files with byte order marks, joined
    ],
    ids=[
        *("trec", "mixed", "any-white-space", "comments", "beir", "no-header", "spaces", "blank-lines", "bom-crlf"),
        *("gzip", "quoted", "quoted-without-header", "other-names-and-floats", "trec-with-header", "other-order"),
        *("spaces-below-tabs", "text-of-the-query", "joined"),
    ],
)
def test_the_same_judgements_are_read_from_any_form(tmp_path: Path, content: str | bytes) -> None:
    judged = read_qrels(written(tmp_path, content))
    assert judged.grades == GRADES
    assert judged.warnings == () and judged.spaced == {}


ids = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=4)
white_space = st.text(" \t\v\f", min_size=1, max_size=3)
judgements = st.dictionaries(ids, st.dictionaries(ids, st.integers(-3, 3), min_size=1, max_size=3), min_size=1).map(
    lambda grades: {**grades, "q": {**grades.get("q", {}), "d": 1}}  # at least one relevant document
)


def rows_of(grades: dict[str, dict[str, int]]) -> list[tuple[str, str, int]]:
    return [(query, document, grade) for query, judged in grades.items() for document, grade in judged.items()]


@settings(max_examples=60, deadline=None)
@given(grades=judgements, data=st.data())
def test_any_white_space_and_comments_give_the_same_judgements(
    grades: dict[str, dict[str, int]], data: st.DataObject
) -> None:
    kept = {query: judged for query, judged in grades.items() if not query.startswith("#")}
    lines = []
    for query, document, grade in rows_of(kept):
        lines += data.draw(st.lists(st.sampled_from(["", " \t", "# note", "\t#q 0 d 1"]), max_size=2))
        between = [data.draw(white_space) for _ in range(3)]
        around = [data.draw(white_space | st.just("")) for _ in range(2)]
        lines.append(around[0] + query + between[0] + "0" + between[1] + document + between[2] + str(grade) + around[1])
    content = data.draw(st.sampled_from(["\n", "\r\n"])).join(lines)
    with TemporaryDirectory() as folder:
        assert read_qrels(written(Path(folder), content)).grades == kept


@settings(max_examples=60, deadline=None)
@given(
    grades=judgements,
    order=st.sampled_from(list(permutations(range(3)))),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    names=st.sampled_from([("query-id", "corpus-id", "score"), ("qid", "docid", "label"), ("Topic", "DocNo", "Rel")]),
    number=st.sampled_from([int, float]),
)
def test_any_order_of_named_columns_and_any_quoting_give_the_same_judgements(
    grades: dict[str, dict[str, int]],
    order: tuple[int, ...],
    quoting: "csv._QuotingType",
    names: tuple[str, ...],
    number: type[int] | type[float],
) -> None:
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t", quoting=quoting)
    writer.writerow([names[place] for place in order])
    for query, document, grade in rows_of(grades):
        writer.writerow([(query, document, number(grade))[place] for place in order])
    with TemporaryDirectory() as folder:
        assert read_qrels(written(Path(folder), file.getvalue())).grades == grades


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("q p g\n1 2 1\n", "1: 'q p g' is not a judgement; the first line looks like a header, but no column of it is "
                           "query-id or corpus-id or score; name its columns query-id, corpus-id, score"),
        ("qid\tcid\tvotes\n1\t2\t1\n", "1: 'qid\\tcid\\tvotes' is not a judgement; the first line looks like a header, "
                                       "but no column of it is score"),
        ("qid\tcid\tscore\tlabel\n1\t2\t0.3\t1\n", "1: the header 'qid\\tcid\\tscore\\tlabel' has 2 columns that "
                                                  "could hold the grade; keep one of them, named score"),
        ("query-id,corpus-id,score\n1,2,1\n", "its columns seem to be separated by commas"),
        ('{"query-id": "1", "corpus-id": "2"}\n', "it looks like JSON"),
        ("1 Q0 d 1 0.5 tag\n", "it looks like a line of a run file, were the two files exchanged?"),
        ("1 2\n", "1: '1 2' is not a judgement; it has 2 columns; expected query-id, corpus-id and score separated by"),
        ("1 0 d 1 x\n", "1: '1 0 d 1 x' is not a judgement; it has 5 columns; expected"),
        ("1 0 d 1\r1 0 e 1\r", "its lines seem to end with a carriage return alone, convert them to line feeds"),
        (TREC.encode("utf-16"), "1: the file begins with the mark of UTF-16; convert it to UTF-8"),
        (TREC + "7 0 New York 1\n", "4: '7 0 New York 1' is not a judgement: it has 5 columns, and 4 are expected as "
                                    "in line 1; is white space inside an id, or a column missing?"),
        (TREC + "9 b 1\n", "4: '9 b 1' is not a judgement: it has 3 columns, and 4 are expected as in line 1"),
        ("query-id\tcorpus-id\tscore\n1\t7\tb\t1\n", "2: '1\\t7\\tb\\t1' is not a judgement: it has 4 columns, and 3"),
        (BEIR + BEIR, "5: grade 'score' is not a whole number below a million"),
        ("1 0 d 1.5\n", "1: grade '1.5' is not a whole number below a million; repair the line, or scale all grades"),
        ("1 0 d nan\n", "1: '1 0 d nan' is not a judgement"),
        (TREC + "1 0 d 1_0\n", "4: grade '1_0' is not a whole number"),
        (TREC + "1 0 d 1000000\n", "4: grade '1000000' is not a whole number below a million"),
        (TREC + "1 0 d -1e300\n", "4: grade '-1e300' is not a whole number below a million"),
        (TREC + "8 0 b 0\n", "4: query '8', document 'b' has grade 0, but 1 in line 3; keep one of them"),
        ("", "the file has no judgement, only a header, comments or blank lines; expected query-id, "),
        ("# nothing\n\n", "the file has no judgement, only a header, comments or blank lines"),
        ("query-id\tcorpus-id\tscore\n", "the file has no judgement"),
        ("1 0 d 0\n1 0 e -2\n", "no grade above 0 in 2 judgements; nothing can be measured; check that this is"),
        ("rel 0 score high\n", "1: 'rel 0 score high' is not a judgement; it has 4 columns"),
    ],
)  # fmt: skip
def test_what_is_refused_names_the_line_and_the_probable_cause(
    tmp_path: Path, content: str | bytes, complaint: str
) -> None:
    with pytest.raises(BenchmarkError) as refused:
        read_qrels(written(tmp_path, content))
    assert complaint in str(refused.value) and len(str(refused.value).splitlines()) == 1


def test_repeated_lines_count_once_and_are_counted(tmp_path: Path) -> None:
    judged = read_qrels(written(tmp_path, TREC + "8 0 b 1\n8 1 b 1.0\n"))
    assert judged.grades == GRADES
    assert judged.warnings == ("test.tsv: judgements that repeat an earlier line and count once: 2 (line 4, line 5)",)


def test_a_judgement_behind_a_hash_is_a_comment_in_trec_files_and_is_counted(tmp_path: Path) -> None:
    judged = read_qrels(written(tmp_path, "# 1998\n#5 0 b 1\n" + TREC + "#9 0 b 1\n"))
    assert judged.grades == GRADES
    assert judged.warnings == (
        "test.tsv: lines that look like judgements but are comments, because of their #: 2 (line 2, line 6)",
    )


def test_below_a_header_a_hash_begins_an_id_as_in_beirs_loader(tmp_path: Path) -> None:
    judged = read_qrels(written(tmp_path, BEIR + "#9\tb\t1\n# a remark\n"))
    assert judged.grades == {**GRADES, "#9": {"b": 1}} and judged.warnings == ()


def test_a_quote_that_nothing_closes_is_a_letter(tmp_path: Path) -> None:
    judged = read_qrels(written(tmp_path, BEIR + '9\t"><a b="c">\t1\n9\td"\t1\n9\t"e f\t1\n'))
    assert judged.grades["9"] == {'"><a b="c">': 1, 'd"': 1, '"e f': 1}


@pytest.mark.parametrize(
    ("content", "spaced"),
    [(BEIR + "8\tNew York\t1\n", {"New York": 5}), (TREC + "8\u00a0x 0 b 1\n", {"8\u00a0x": 4})],
    ids=["between-tabs", "no-break-space"],
)
def test_an_id_with_white_space_is_refused_unless_something_has_it(
    tmp_path: Path, content: str, spaced: dict[str, int]
) -> None:
    judged = read_qrels(written(tmp_path, content))
    assert judged.spaced == spaced
    judged.refuse_spaced([spaced], "a reason")
    ((identifier, line),) = spaced.items()
    with pytest.raises(BenchmarkError) as refused:
        judged.refuse_spaced([GRADES], "a reason")
    assert str(refused.value).endswith(
        f":{line}: id {identifier!r} holds white space, and a reason; separate the columns by one tab each, "
        "and write ids without white space"
    )
