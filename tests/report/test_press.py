"""Any text in any field of a report stays text and is active in no format."""

import io
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from harness.report import html, latex, markdown, notation, press, terminal
from harness.report.content import EngineLine, Footnote, Note, Report, Section, SourceLine, Term
from harness.report.plots import Plot
from harness.report.table import Cell, Table
from tests.hostile import texts

HOSTILE = (
    *texts.ALL,
    "\x1b]0;title\x07\x9b31m \u202eright\u2066 to left\u2069 \ufeff \x00 \x85 \u2028 \x0b \x0c",
    "first\nsecond\r\n\r\n# heading\n- item\n    code\n\\end{document}\n% comment",
    "- item",
    "1. item",
    "+ item",
    "===",
    "> quote",
    "![x](https://evil.example/leak.png) <https://evil.example> [a][b]\n\n[b]: javascript:alert(1)",
    "a | b || c \\| d",
    "{{ report }}{% include 'x' %}{# x #} </style></title></summary><svg onload=alert(1)>",
    "]{}\\\\[1em] \\input{/etc/passwd} ^^5cinput $x$ & % # _ ~ -- '' ``",
    "[bold red]x[/] [link=https://evil.example]y[/link] :skull:",
)
PLOTS = (Plot("inside", "inside", "caption", b"<svg ></svg>"), Plot("outside", "outside", "caption", b"<svg ></svg>"))
LATEX_COMMANDS = {
    *("begin", "end", "centering", "scriptsize", "setlength", "tabcolsep", "toprule", "midrule", "bottomrule"),
    *("caption", "label", "textbf", "textbackslash", "textasciitilde", "textasciicircum", "textless"),
    *("textgreater", "textbar", "Delta"),
}


def full(text: str = "text") -> Report:
    """A report with every part, in which every string except the names of plots is the text."""
    table = Table((text, text), ((Cell(text, text, best=True), Cell(text, text, tone="bad")),))
    detail = Section(text, text, table, text, (SourceLine(text, text),), (Note(text, text),), opened=True)
    section = Section(
        text,
        text,
        table,
        text,
        sources=(SourceLine(text, text), SourceLine(text)),
        notes=(Note(text, text), Note("", text)),
        footnotes=(Footnote(text, text, (text, text)),),
        details=(detail,),
        plots=("inside",),
    )
    return Report(
        title=text,
        sections=(section, Section(text, "", None, text)),
        lead=(text,),
        warnings=(text,),
        conclusion=text,
        engines=(EngineLine(text, text, text, text),),
        legend=(Term(text, text),),
        hint=text,
    )


def used(value: Any, field: str = "") -> Iterator[str]:
    """Names of all fields within the value that hold a text, such as `Section.title`."""
    if isinstance(value, str) and value:
        yield field
    elif is_dataclass(value) or hasattr(value, "_fields"):  # or a NamedTuple
        for name in get_type_hints(type(value)):
            yield from used(getattr(value, name), f"{type(value).__name__}.{name}")
    elif isinstance(value, tuple):
        for item in value:
            yield from used(item, field)


class Structure(HTMLParser):
    """The tags of a page in order, and everything that it could load or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href", "action", "data")]
        assert not any(name.startswith("on") for name, _ in attrs)
        assert {value for name, value in attrs if name == "style"} <= {"text-align:left", "text-align:right"}


def printed(report: Report) -> str:
    stream = io.StringIO()
    terminal.show(report, Console(file=stream, width=10_000, force_terminal=False))
    return stream.getvalue()


def rendered(report: Report) -> Structure:
    text = markdown.render(report, [(plot.name, plot.title) for plot in PLOTS])
    return Structure(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))


def commands(report: Report) -> list[str]:
    """LaTeX commands outside of comments, without those that stand for a character."""
    text = re.sub(r"^%.*$", "", latex.render(report), flags=re.MULTILINE)
    names = re.findall(r"\\([A-Za-z]+)", text)
    assert set(names) <= LATEX_COMMANDS
    assert "^^" not in text
    return [name for name in names if not name.startswith("text") and name != "Delta"]


def test_the_full_report_has_a_text_in_every_field_of_every_part() -> None:
    fields_of_text = {
        f"{part.__name__}.{name}"
        for part in (Report, Section, Table, Cell, SourceLine, Note, Footnote, Term, EngineLine)
        for name, kind in get_type_hints(part).items()
        if kind is str or str in get_args(kind)
    }
    assert set(used(full())) == fields_of_text | {"Cell.tone"}  # a Literal is a text as well


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_in_every_field_changes_no_structure_in_any_format(text: str) -> None:
    harmless, report = full(), full(text)
    page, md = html.render(report, PLOTS), markdown.render(report, [(plot.name, plot.title) for plot in PLOTS])
    shown = Structure(page)
    assert shown.tags == Structure(html.render(harmless, PLOTS)).tags
    assert all(link.startswith("#") for link in shown.loads)
    assert rendered(report).tags == rendered(harmless).tags
    assert rendered(report).loads == ["inside.png", "outside.png"]
    assert commands(report) == commands(harmless)
    assert len(printed(report).splitlines()) == len(printed(harmless).splitlines())
    for output in (page, md, latex.render(report), printed(report)):
        assert notation.visible(output.replace("\n", "")) == output.replace("\n", "")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_shows_the_text_itself(text: str) -> None:
    shown = notation.plain(text)
    assert printed(Report("", (Section("s", text),))).strip() == shown
    assert printed(Report("", conclusion=text)).strip() == shown


def test_a_log_has_110_columns_and_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    columns = tuple(f"column {number}" for number in range(9))
    table = Table(columns, ((*(Cell("0.1234") for _ in columns[1:]), Cell("pass", tone="good")),))
    press.show(Report("", (Section("s", "title", table, "word " * 40),), conclusion="PASS"))
    lines = capsys.readouterr().out.splitlines()
    assert 100 < max(map(len, lines)) <= terminal.LOG_WIDTH
    assert not any("\x1b" in line for line in lines)
    assert sum("0.1234" in line for line in lines) == 1  # the whole table fits
    assert lines[-1] == "PASS"


def test_a_report_without_plots_is_written_in_every_format(tmp_path: Path) -> None:
    table = Table(("metric", "change", "verdict"), ((Cell("p50"), Cell("+1.0%"), Cell("pass", tone="good")),))
    report = Report(
        "Check", (Section("check", "", table, notes=(Note("", "a note"),)),), lead=("baseline main",), conclusion="PASS"
    )
    paths = press.write(report, tmp_path, name="check", data={"check.json": b"{}"})
    assert [path.name for path in paths] == ["index.html", "check.md", "table.tex", "check.json"]
    text = (tmp_path / "check.md").read_text(encoding="utf-8")
    assert "**PASS**" in text and "baseline main" in text and "- a note" in text and "| p50 | +1.0% | pass |" in text
    assert text.index("**PASS**") < text.index("baseline main") < text.index("| p50") < text.index("a note")
