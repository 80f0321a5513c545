"""The report on a terminal or in a log. Foreign text passes through `_text`: markup in a name stays visible."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

from harness.report import notation
from harness.report.content import Report, Section
from harness.report.table import Cell, Table, Tone

FOOTNOTES_SHOWN = 10  # the files hold all of them
LOG_WIDTH = 110  # columns of a log, whose width is not defined
STYLES: dict[Tone, str] = {"plain": "", "good": "green", "bad": "red", "muted": "dim"}


def standard_output() -> Console:
    """A console as wide as the terminal; a log has 110 columns, no colours and no control characters."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=LOG_WIDTH)


def show(report: Report, console: Console) -> None:
    for sentence in report.lead:
        console.print(_text(sentence))
    if report.lead:
        console.print()
    for section in report.sections:
        _show_section(section, console)
    for warning in report.warnings:
        console.print(_text(warning, "yellow"))
    if report.hint:
        console.print(_text(report.hint, "dim"))
    if report.conclusion:
        console.print(_text(report.conclusion, "bold"), soft_wrap=True)  # one line, for scripts that use `tail`


def _text(text: str, style: str = "") -> Text:
    """The one door: no character of the text moves the cursor, changes a colour or turns the direction of writing."""
    return Text(notation.plain(text), style=style)


def _show_section(section: Section, console: Console) -> None:
    if section.title:
        console.print(_text(section.title, "bold underline"))
    if section.table and section.table.cells:
        for grid in _grids(section.table, console):
            console.print(grid)
    for line in _below(section):
        console.print(line)
    console.print()


def _below(section: Section) -> Iterator[Text]:
    """The lines below a table, the sentence first."""
    if section.sentence:
        yield _text(section.sentence)
    for source in section.sources:
        yield _text(source.brief, "dim")
    for footnote in section.footnotes[:FOOTNOTES_SHOWN]:
        yield _text(f"{footnote.cell}: {footnote.line}", "dim")
    if len(section.footnotes) > FOOTNOTES_SHOWN:
        yield _text(f"The report lists where each of the {len(section.footnotes)} figures comes from.", "dim")
    for note in section.notes:
        yield _text(note.line, "yellow")
    for detail in section.details:
        if detail.opened:
            yield _text(detail.sentence, "yellow")


def _grids(table: Table, console: Console) -> Iterator[Grid]:
    """One line per engine; if that is too wide, one column per engine, with as many side by side as fit."""
    header = [_text(name) for name in table.columns]
    body = [[_cell(cell) for cell in line] for line in table.cells]
    wide = _grid([header, *body], [table.is_text(column) for column in range(len(header))])
    if _width(wide, console) <= console.width:
        yield wide
        return
    while body:
        count = len(body)
        while count > 1 and _width(_turned(header, body[:count]), console) > console.width:
            count -= 1
        yield _turned(header, body[:count])
        body = body[count:]


def _turned(header: Sequence[Text], body: Sequence[Sequence[Text]]) -> Grid:
    return _grid(list(zip(header, *body, strict=True)), [True, *[False] * len(body)])


def _grid(lines: Sequence[Sequence[Text]], is_text: Sequence[bool]) -> Grid:
    header, *body = lines
    grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name, holds_words in zip(header, is_text, strict=True):
        grid.add_column(name, justify="left" if holds_words else "right", overflow="fold")
    for line in body:
        grid.add_row(*line)
    return grid


def _cell(cell: Cell) -> Text:
    text = _text(cell.value, "bold green" if cell.best else STYLES[cell.tone])
    return text.append("\n").append_text(_text(cell.detail, "not bold dim")) if cell.detail else text


def _width(grid: Grid, console: Console) -> int:
    unbounded = console.options.update(max_width=10_000)
    return Measurement.get(console, unbounded, grid).maximum
