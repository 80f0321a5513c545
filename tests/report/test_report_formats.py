"""Every format holds the same content, and no name is active in any format."""

import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from harness.records import Row
from harness.report import html, latex, markdown, notation
from harness.run.page import content
from tests.report.pages import show, write

MakeRow = Callable[..., Row]
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a|b](javascript:alert(1))",
    "[link](http://evil.example) *x* `y`",
    "[bold red]x[/] :smile:",
    r"$x_1$ 100% \input{x} ~^{} # &",
    "<!-- x --> {{ 7 * 7 }} {% raw %}",
    "line\nbreak \x1b[31mred \u202etxet",
    "--> ]]> 汉字",
)


class Cells(HTMLParser):
    """The text of every table cell, the tags, the ids, and all addresses that a page could load from."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[list[str]] = []
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href", "action", "data")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag == "tr":
            self.lines.append([])
        if tag in ("td", "th"):
            self._open = True
            self.lines[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._open:
            self.lines[-1][-1] += data


def parsed(page: str) -> Cells:
    cells = Cells()
    cells.feed(page)
    return cells


def rendered(text: str) -> Cells:
    return parsed(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))


def printed(rows: list[Row], width: int = 400) -> str:
    stream = io.StringIO()
    show(rows, Console(file=stream, width=width, force_terminal=False))
    return stream.getvalue()


def expected(rows: list[Row]) -> list[list[str]]:
    report = content.build(rows, "title")
    tables = [section.table for section in report.sections if section.table]
    return [[notation.plain(cell.text) for cell in line] for table in tables for line in table.cells]


def test_every_format_prints_the_same_cells(rows: list[Row]) -> None:
    report = content.build(rows, "title")
    web, md = parsed(html.render(report, [])), rendered(markdown.render(report, []))
    tex = latex.render(report).replace(r"\textbf{", "").replace("}", "").replace("{", "").replace("\\%", "%")
    words = printed(rows)
    for line in expected(rows):
        assert line in web.lines
        assert line in md.lines
        assert " & ".join(line) + r" \\" in tex
        assert all(part in words for text in line for part in text.split(" [")[0].split())


def texts(rows: list[Row]) -> tuple[str, str, str]:
    report = content.build(rows, "title")
    return html.render(report, []), markdown.render(report, []), printed(rows)


def test_every_format_prints_the_verdict_and_the_notes(rows: list[Row]) -> None:
    for text in texts(rows):
        assert "large has the highest nDCG@10 (0.6250): over 4 queries it ranks better than the baseline bm25" in text
        assert "q3 has no score: the server is gone" in text
        assert "every score is NaN" in text
        assert "p90 needs 10 samples; 4 were taken" in text


def test_every_table_names_its_candidates(rows: list[Row]) -> None:
    for text in texts(rows):
        assert text.count("sha256 " + "ab" * 8) == 2
        assert (
            "4 queries" in text
            and "R@100 0.7500, oracle nDCG@10 0.8750, random order 0.1250" in text
            and "k = 100" in text
        )


def test_engines_over_different_candidates_have_separate_source_lines(row: MakeRow) -> None:
    dense = row("dense", candidates={"source": "dense", "k": 50, "sha256": "cd" * 32})
    first, second = (source.line for source in content.build([row(), dense], "").sections[0].sources)
    assert first.startswith("bm25: 4 queries") and "candidates bm25, k = 100" in first and "sha256 abab" in first
    assert second.startswith("dense: 4 queries") and "candidates dense, k = 50" in second and "sha256 cdcd" in second


def test_only_a_demonstration_model_causes_the_warning(row: MakeRow) -> None:
    for text in texts([row(description={"demonstration": "true"})]):
        assert "A demonstration model was scored" in text
    for text in texts([row(model="acme/democracy-reranker", description={"model": "acme/democracy-reranker"})]):
        assert "A demonstration model" not in text


def test_an_engine_that_never_started_adds_no_candidates(row: MakeRow) -> None:
    absent = row("absent", verdict="incomplete", measures={}, candidates={}, queries=0, kind="")
    report = content.build([row(), absent], "")
    assert [source.line.partition(",")[0] for source in report.sections[0].sources] == ["4 queries"]
    assert report.engines[1] == ("absent", "-", "-", "-")


def test_the_page_loads_nothing_runs_nothing_and_has_unique_ids(row: MakeRow, tmp_path: Path) -> None:
    write([row(benchmark=name) for name in ("a b", "A-B", "plots")], tmp_path, "title")
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    page = parsed(text)
    assert "script" not in page.tags and "svg" in page.tags
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(set(page.ids)) == len(page.ids)
    assert {f"#{anchor}" for anchor in page.ids} >= set(page.loads)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert_in_html_and_markdown(text: str, row: MakeRow) -> None:
    hostile = [row(text, benchmark=text, kind=text, model=text, notes=(text,)), row("x", benchmark=text)]
    report = content.build(hostile, text)
    web = parsed(html.render(report, []))
    md = rendered(markdown.render(report, [("plot", "Plot")]))
    assert not {"script", "img"} & web.tags
    assert all(link.startswith("#") for link in web.loads)
    assert not {"script", "em", "code", "a", "s"} & md.tags
    assert md.loads == ["plot.png"]
    name = expected(hostile)[0][0]
    assert name in [line[0] for line in web.lines] and name in [line[0] for line in md.lines]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_printed_without_control_characters_on_a_terminal(text: str, row: MakeRow) -> None:
    hostile = [row(text, benchmark=text, notes=(text,)), row("x", benchmark=text)]
    words = printed(hostile)
    assert "\x1b" not in words and "\u202e" not in words
    assert words.count(expected(hostile)[0][0]) >= 3


def test_a_narrow_terminal_cuts_no_figure(rows: list[Row]) -> None:
    words = printed(rows, width=60)
    for line in expected(rows):
        assert all(part in words for text in line for part in text.split(" [")[0].split())


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b & 50% #1 $x$", r"a\_b \& 50\% \#1 \$x\$"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("[bold] a--b", r"{[}bold{]} a-{}-b"),
        ("~^<|>", r"\textasciitilde{}\textasciicircum{}\textless{}\textbar{}\textgreater{}"),
        ("Δ \N{MINUS SIGN}0.1", r"$\Delta$ $-$0.1"),
    ],
)
def test_latex_commands_are_escaped(text: str, escaped: str) -> None:
    assert latex.escape(text) == escaped


def test_markdown_keeps_intervals_readable() -> None:
    assert markdown.escape("0.3750 [0.2500, 0.5000]") == "0.3750 [0.2500, 0.5000]"


def test_an_empty_report_states_that_there_is_no_result(tmp_path: Path) -> None:
    paths = write([], tmp_path, "title")
    assert [path.name for path in paths] == ["index.html", "report.md", "table.tex"]
    assert "There is no result yet." in (tmp_path / "index.html").read_text()
    assert "There is no result yet." in printed([])
