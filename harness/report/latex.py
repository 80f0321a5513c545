"""table.tex: one booktabs table per section, to be read by \\input after \\usepackage{booktabs}."""

import re
from collections.abc import Iterator

from harness.report import notation
from harness.report.content import Report, Section
from harness.report.table import Cell, Table

_HEAD = r"% Needs \usepackage{booktabs}; names outside Latin script need XeLaTeX or LuaLaTeX."
_COMMANDS = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "Δ": r"$\Delta$", "\N{MINUS SIGN}": "$-$", "[": "{[}", "]": "{]}",
} | {char: f"\\{char}" for char in "{}$&#_%"}  # fmt: skip
# TeX would read a bare "[" after the end of a row as an option of that command.


def render(report: Report) -> str:
    lines = [_HEAD]
    for section in report.sections:
        if section.table and section.printed:
            lines += ["", *_table(section, section.table)]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """The one door: the text as TeX sets it, without any command in it."""
    escaped = "".join(_COMMANDS.get(char, char) for char in notation.plain(text))
    return re.sub(r"([-'`])(?=\1)", r"\1{}", escaped)  # no ligatures: "--" stays two hyphens


def _table(section: Section, table: Table) -> Iterator[str]:
    yield r"\begin{table}"
    yield r"\centering\scriptsize\setlength{\tabcolsep}{3pt}"
    columns = "".join("l" if table.is_text(column) else "r" for column in range(len(table.columns)))
    yield rf"\begin{{tabular}}{{{columns}}}"
    yield r"\toprule"
    yield " & ".join(map(escape, table.columns)) + r" \\"
    yield r"\midrule"
    for line in table.cells:
        yield " & ".join(map(_cell, line)) + r" \\"
    yield r"\bottomrule"
    yield r"\end{tabular}"
    sources = " ".join(f"{escape(source.line)}." for source in section.sources)
    yield rf"\caption{{{f'{escape(section.title)}. {sources}'.rstrip()}}}"
    yield rf"\label{{tab:{re.sub(r'[^A-Za-z0-9-]', '-', section.anchor)}}}"
    yield r"\end{table}"
    for footnote in section.footnotes:
        yield _comment(f"{footnote.cell}: {footnote.line}")
        yield from (_comment(member, indent="  ") for member in footnote.members)


def _comment(text: str, indent: str = "") -> str:
    """The second way into the file: one line that TeX does not read."""
    return f"% {indent}{notation.plain(text)}"


def _cell(cell: Cell) -> str:
    value = rf"\textbf{{{escape(cell.value)}}}" if cell.best else escape(cell.value)
    return f"{value} {escape(cell.detail)}".rstrip()
