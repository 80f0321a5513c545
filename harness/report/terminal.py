"""The report on a terminal. Text is printed as it is: markup in a name stays visible and does nothing."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

from harness.report.content import Report, Section
from harness.report.table import Cell, Table

TRACES_SHOWN = 10  # the files hold all of them


def show(report: Report, console: Console) -> None:
    for section in report.sections:
        _show_section(section, console)
    for remark in report.remarks:
        console.print(Text(remark, style="yellow"))
    if report.sections:
        console.print(
            Text("Best in bold; [95% interval]; '-' is not known, never zero. index.html explains.", style="dim")
        )
    if report.verdict:
        console.print(Text(report.verdict, style="bold"))


def _show_section(section: Section, console: Console) -> None:
    console.print(Text(section.table.title, style="bold underline"))
    for grid in _grids(section.table, console):
        console.print(grid)
    console.print(Text(section.sentence))
    for origin in section.origins:
        console.print(Text(origin.brief, style="dim"))
    for cell, line, _ in section.traces[:TRACES_SHOWN]:
        console.print(Text(f"{cell}: {line}", style="dim"))
    if len(section.traces) > TRACES_SHOWN:
        console.print(Text(f"Where each of the {len(section.traces)} figures comes from: report.md", style="dim"))
    for engine, line in section.notes:
        console.print(Text(f"{engine}: {line}", style="yellow"))
    if section.audit and section.audit.found:
        console.print(Text(section.audit.sentence, style="yellow"))
    console.print()


def _grids(table: Table, console: Console) -> Iterator[Grid]:
    """One line per engine; where that is too wide, one column per engine, as many beside each other as fit."""
    header = [Text(name) for name in table.columns]
    body = [[_text(cell) for cell in line] for line in table.cells]
    wide = _grid([header, *body])
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
    return _grid(list(zip(header, *body, strict=True)))


def _grid(lines: Sequence[Sequence[Text]]) -> Grid:
    header, *body = lines
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for number, name in enumerate(header):
        grid.add_column(name, justify="left" if number == 0 else "right", overflow="fold")
    for line in body:
        grid.add_row(*line)
    return grid


def _text(cell: Cell) -> Text:
    text = Text(cell.value, style="bold green" if cell.best else "")
    return text.append(f"\n{cell.detail}", style="not bold dim") if cell.detail else text


def _width(grid: Grid, console: Console) -> int:
    unbounded = console.options.update(max_width=10_000)
    return Measurement.get(console, unbounded, grid).maximum
