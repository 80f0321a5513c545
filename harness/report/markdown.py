"""The report as Markdown with GitHub's tables. `escape` is the one door for foreign text."""

import re
from collections.abc import Iterable, Iterator, Sequence

from harness.report import notation
from harness.report.content import Report, Section
from harness.report.table import Cell, Table

_MARKS = str.maketrans({char: f"\\{char}" for char in "\\`*_{}#|~$"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})
_LIST_OR_RULE = re.compile(r"^(\d{1,9})?(?=[-+=.)])")
_DEEPEST = 6  # levels of headings in Markdown


def render(report: Report, plots: Sequence[tuple[str, str]] = ()) -> str:
    """The report as Markdown; `plots` are the names and titles of the plots, each a .png beside it."""
    titles = dict(plots)
    lines = [f"# {escape(report.title)}", ""]
    if report.conclusion:
        lines += [f"**{escape(report.conclusion)}**", ""]
    lines += [line for sentence in report.lead for line in (_paragraph(sentence), "")]
    lines += [line for warning in report.warnings for line in (f"> {_paragraph(warning)}", "")]
    shown = {name for section in report.sections for name in section.plots}
    for section in report.sections:
        lines += [*_section(section, level=2), ""]
        lines += _plots((name, titles[name]) for name in section.plots if name in titles)
    lines += _plots((name, title) for name, title in plots if name not in shown)
    if report.engines:
        engines = [(line.engine, f"{line.kind}. {line.model}. {line.machine}") for line in report.engines]
        lines += ["## Engines", "", *_list(engines), ""]
    if report.legend:
        lines += ["## How to read this", "", *_list(report.legend), ""]
    return "\n".join(lines)


def escape(text: str) -> str:
    """The one door: the text as a reader of the rendered page sees it, without marks that Markdown or HTML acts on."""
    # A bracket is harmless unless what follows makes it a link, so that intervals stay readable.
    return re.sub(r"\](?=[(\[:])", r"\\]", notation.plain(text).translate(_MARKS))


def _paragraph(text: str) -> str:
    """Text at the start of a line, where a hyphen or a number with a full stop would start a list."""
    return _LIST_OR_RULE.sub(r"\1\\", escape(text))


def _section(section: Section, level: int) -> Iterator[str]:
    if section.title:
        yield f"{'#' * min(level, _DEEPEST)} {escape(section.title)}"
        yield ""
    if section.sentence:
        yield _paragraph(section.sentence)
        yield ""
    if section.table and section.table.cells:
        yield from _table(section.table)
        yield ""
    for source in section.sources:
        yield _paragraph(source.line)
        yield ""
    yield from _list(section.notes)
    for footnote in section.footnotes:
        yield from _list([(footnote.cell, footnote.line)])
        yield from (f"  - {_paragraph(member)}" for member in footnote.members)
    for detail in section.details:
        yield ""
        yield from _section(detail, level + 1)


def _plots(plots: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, title in plots:
        yield f"![{escape(title)}]({name}.png)"
        yield ""


def _table(table: Table) -> Iterator[str]:
    yield f"| {' | '.join(map(escape, table.columns))} |"
    yield f"|{'|'.join(':--' if table.is_text(column) else '--:' for column in range(len(table.columns)))}|"
    for line in table.cells:
        yield f"| {' | '.join(map(_cell, line))} |"


def _cell(cell: Cell) -> str:
    value = f"**{escape(cell.value)}**" if cell.best else escape(cell.value)
    return f"{value} {escape(cell.detail)}".rstrip()


def _list(terms: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, text in terms:
        yield f"- **{escape(name)}**: {escape(text)}".rstrip() if name else f"- {_paragraph(text)}"
