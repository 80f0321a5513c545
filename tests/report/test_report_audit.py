"""Odd texts in the prompts: a table on the pages of a benchmark and at most one line on a terminal."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from harness.records import Audit, Row
from harness.report import html, latex, markdown
from harness.run.page import content
from tests.report.pages import show

MakeRow = Callable[..., Row]
NONE = Audit(0, 0, 4, None, None, "no query has any")
UNKNOWN = Audit(None, None, None, None, None, "this engine does not count it")
KINDS = ("special_text", "truncated", "truncated_queries", "empty", "duplicate", "shared")
COLUMNS = ["special-token text", "cut", "cut queries", "empty", "duplicate", "shared"]


@pytest.fixture
def audited(row: MakeRow) -> list[Row]:
    """Rows of two engines whose means over all four queries are 0.375 and 0.625."""
    lexical = {**dict.fromkeys(KINDS, UNKNOWN), "empty": Audit(3, 2, 2, 0.25, -0.125, ""), "duplicate": NONE}
    model = {
        "special_text": NONE,
        "truncated": Audit(1234, 1, 3, 0.75, 0.125, ""),
        "truncated_queries": NONE,
        "empty": Audit(3, 2, 2, 0.375, -0.25, ""),
        "duplicate": NONE,
        "shared": Audit(400, 4, 0, None, None, "too few queries are left (0)"),
    }
    first = row(audit=lexical)
    return [first, row("large", (0.75, 0.5, 0.75, 0.5), audit=model, description={"template": "mxbai-v2"})]


def printed(rows: list[Row]) -> str:
    stream = io.StringIO()
    show(rows, Console(file=stream, width=400, force_terminal=False))
    return stream.getvalue()


def test_every_engine_has_a_line_with_its_template_and_every_kind(audited: list[Row]) -> None:
    (section,) = content.build(audited, "").sections
    (odd,) = section.details
    assert odd.title == "NFCorpus: odd texts in the prompts" and odd.table is not None
    assert list(odd.table.columns) == ["engine", "template", "nDCG@10", "pairs", "queries", *COLUMNS]
    assert [[cell.text for cell in line] for line in odd.table.cells] == [
        ["bm25", "-", "0.3750", "400", "4", "-", "-", "-", "3 in 2 queries without 0.2500 (−0.1250)", "0", "-"],
        [
            *("large", "mxbai-v2", "0.6250", "400", "4", "0", "1,234 in 1 query without 0.7500 (+0.1250)", "0"),
            *("3 in 2 queries without 0.3750 (−0.2500)", "0", "400 in 4 queries"),
        ],
    ]
    assert odd.notes == (
        ("bm25", "special-token text, cut, cut queries, shared: this engine does not count it"),
        ("large", "shared: too few queries are left (0)"),
    )


def test_the_sentence_names_the_largest_change_in_either_direction(audited: list[Row]) -> None:
    sentence = (
        "Odd texts: 2 of 4 queries have empty documents; without them nDCG@10 of large is 0.3750 (−0.2500), "
        "the largest change of any engine and kind."
    )
    report = content.build(audited, "")
    assert sentence in html.render(report, []) and sentence in markdown.render(report, [])
    words = printed(audited)
    assert sentence in words and "odd texts in the prompts" not in words


def test_the_pages_show_the_table_and_the_latex_does_not(audited: list[Row]) -> None:
    report = content.build(audited, "")
    page, text = html.render(report, []), markdown.render(report, [])
    assert (
        '<details class="detail" id="odd-texts-benchmark-nfcorpus" open>' in page
        and "3 in 2 queries <small>without 0.2500 (−0.1250)</small>" in page
    )
    assert "| large | mxbai-v2 | 0.6250 | 400 | 4 | 0 | 1,234 in 1 query without 0.7500 (+0.1250) |" in text
    assert "odd texts" not in latex.render(report)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [(NONE, "No odd text was found."), (UNKNOWN, "No odd text was found, but not every kind was examined.")],
)
def test_the_absence_of_odd_texts_is_stated_on_the_pages_and_not_on_a_terminal(
    kind: Audit, sentence: str, row: MakeRow
) -> None:
    rows = [row(audit=dict.fromkeys(KINDS, NONE) | {"shared": kind})]
    report = content.build(rows, "")
    page, text = html.render(report, []), markdown.render(report, [])
    assert sentence in page and sentence in text
    assert '<details class="detail" id="odd-texts-benchmark-nfcorpus">' in page
    assert "odd text" not in printed(rows).lower()
    assert "no query has any" not in page + text  # a zero has no reason


def test_odd_texts_in_all_queries_make_the_difference_unknown(row: MakeRow) -> None:
    rows = [row(audit=dict.fromkeys(KINDS, NONE) | {"truncated": Audit(9, 4, 0, None, None, "too few")})]
    assert "Odd texts were found, but nDCG@10 without the affected queries is unknown." in printed(rows)


def test_rows_without_an_audit_have_no_table_of_odd_texts(row: MakeRow) -> None:
    (section,) = content.build([row()], "").sections
    assert section.details == ()


def test_hostile_names_are_inert(audited: list[Row], row: MakeRow) -> None:
    text = "<script>alert(1)</script>\nx|y"
    hostile = row(text, benchmark=text, audit=audited[0].audit, description={"template": text})
    report = content.build([hostile], "")
    assert "<script" not in html.render(report, [])
    assert "<script" not in markdown.render(report, []) and "x|y" not in markdown.render(report, [])
