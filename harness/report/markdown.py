"""report.md: GitHub tables. Every character of foreign text that Markdown or HTML would act on is escaped."""

import re
from collections.abc import Iterator, Sequence

from harness.report.content import Audited, Report, Section
from harness.report.table import Cell, Table

_MARKS = str.maketrans({char: f"\\{char}" for char in "\\`*_{}#|~$"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})


def render(report: Report, plots: Sequence[tuple[str, str]]) -> str:
    """The report as Markdown; `plots` are file names and their titles."""
    lines = [f"# {escape(report.title)}", ""]
    lines += [line for remark in report.remarks for line in (f"> {escape(remark)}", "")]
    for section in report.sections:
        lines += [*_section(section), ""]
    for file, title in plots:
        lines += [f"![{escape(title)}]({file})", ""]
    if report.sections:
        lines += [
            "## Engines",
            "",
            *_list(tuple((name, f"{kind}. {model}. {machine}") for name, kind, model, machine in report.scorers)),
        ]
        lines += ["", "## How to read this", "", *_list(report.legend), ""]
    return "\n".join(lines)


def escape(text: str) -> str:
    # A bracket is harmless unless what follows makes it a link, so that intervals stay readable.
    return re.sub(r"\](?=[(\[:])", r"\\]", text.translate(_MARKS))


def _section(section: Section) -> Iterator[str]:
    yield f"## {escape(section.table.title)}"
    yield ""
    yield escape(section.sentence)
    yield ""
    yield from _table(section.table)
    yield ""
    for origin in section.origins:
        yield escape(origin.line)
        yield ""
    yield from _list(section.notes)
    for cell, line, members in section.traces:
        yield from _list([(cell, line)])
        yield from (f"  - {escape(member)}" for member in members)
    if section.audit:
        yield from _audit(section.audit)


def _audit(audit: Audited) -> Iterator[str]:
    yield ""
    yield f"### {escape(audit.table.title)}"
    yield ""
    yield escape(audit.sentence)
    yield ""
    yield from _table(audit.table)
    yield ""
    yield from _list(audit.notes)


def _table(table: Table) -> Iterator[str]:
    yield f"| {' | '.join(map(escape, table.columns))} |"
    last = ":--" if table.judged else "--:"
    yield f"|{'|'.join([':--', *['--:'] * (len(table.columns) - 2), last])}|"
    for line in table.cells:
        yield f"| {' | '.join(map(_cell, line))} |"


def _cell(cell: Cell) -> str:
    value = f"**{escape(cell.value)}**" if cell.best else escape(cell.value)
    return f"{value} {escape(cell.detail)}".rstrip()


def _list(terms: Sequence[tuple[str, str]]) -> list[str]:
    return [f"- **{escape(name)}**: {escape(meaning)}".rstrip() for name, meaning in terms]
