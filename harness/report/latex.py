"""table.tex: one booktabs table per benchmark, to be read by \\input after \\usepackage{booktabs}."""

import re
from collections.abc import Iterator

from harness.report.content import Report, Section
from harness.report.table import Cell

_HEAD = r"% Needs \usepackage{booktabs}; names outside Latin script need XeLaTeX or LuaLaTeX."
_COMMANDS = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "Δ": r"$\Delta$", "\N{MINUS SIGN}": "$-$", "[": "{[}", "]": "{]}",
} | {char: f"\\{char}" for char in "{}$&#_%"}  # fmt: skip
# A bare "[" after the end of a row would be read as that command's option.


def render(report: Report) -> str:
    lines = [_HEAD]
    for section in report.sections:
        lines += ["", *_table(section)]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    escaped = "".join(_COMMANDS.get(char, char) for char in text)
    return re.sub(r"([-'`])(?=\1)", r"\1{}", escaped)  # no ligatures: "--" stays two hyphens


def _table(section: Section) -> Iterator[str]:
    table = section.table
    yield r"\begin{table}"
    yield r"\centering\scriptsize\setlength{\tabcolsep}{3pt}"
    yield rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 2)}{'l' if table.judged else 'r'}}}"
    yield r"\toprule"
    yield " & ".join(map(escape, table.columns)) + r" \\"
    yield r"\midrule"
    for line in table.cells:
        yield " & ".join(map(_cell, line)) + r" \\"
    yield r"\bottomrule"
    yield r"\end{tabular}"
    origins = " ".join(f"{escape(origin.line)}." for origin in section.origins)
    yield rf"\caption{{{escape(table.title)}. {origins}}}"
    yield rf"\label{{tab:{section.anchor}}}"
    yield r"\end{table}"
    for traced in section.traces:  # each is one line: notation.plain has taken its line ends out
        yield f"% {traced.cell}: {traced.line}"
        yield from (f"%   {member}" for member in traced.members)


def _cell(cell: Cell) -> str:
    value = rf"\textbf{{{escape(cell.value)}}}" if cell.best else escape(cell.value)
    return f"{value} {escape(cell.detail)}".rstrip()
