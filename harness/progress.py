"""Progress bars with pairs/s and time left; silent when standard error is not a terminal."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Advance = Callable[[int], None]


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} {self._unit}/s")


class _Read(Collection[str]):
    """Texts that advance a bar while they are read; reading them again restarts the bar."""

    def __init__(self, texts: Collection[str], progress: Progress, task: TaskID) -> None:
        self._texts, self._progress, self._task = texts, progress, task

    def __iter__(self) -> Iterator[str]:
        self._progress.reset(self._task)
        for text in self._texts:
            yield text
            self._progress.advance(self._task)

    def __len__(self) -> int:
        return len(self._texts)

    def __contains__(self, text: object) -> bool:
        return text in self._texts


@contextmanager
def reading(description: str, documents: Collection[str]) -> Iterator[Collection[str]]:
    """Yields the same documents and shows how many have been read."""
    with _progress("documents") as progress:
        yield _Read(documents, progress, progress.add_task(description, total=len(documents)))


@contextmanager
def bar(description: str, total: int, unit: str) -> Iterator[Advance]:
    """Yields a function that takes the number of items done since the last call."""
    with _progress(unit) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done: progress.advance(task, done)


@contextmanager
def waiting(description: str) -> Iterator[None]:
    """Shows that work of unknown length is under way."""
    console = Console(stderr=True)
    with console.status(escape(description)) if console.is_terminal else nullcontext():
        yield


def _progress(unit: str) -> Progress:
    console = Console(stderr=True)
    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), _Speed(unit)]
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True)
