"""The parts that all verbs of the command line share: the application, its options, and how a result is shown."""

import json
import os
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import streams
from harness.outcome import VerbResult

if TYPE_CHECKING:
    from harness.report.content import Report

HELP = "Evaluate rerankers honestly: quality and latency of every engine over the same candidates, in one report."

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
RunDir = Annotated[Path, typer.Argument(help="Folder that `crispbench run` wrote.")]


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        print(f"crispbench {version('crispbench')}")
    except PackageNotFoundError:
        print("crispbench, not installed: a checkout without a version")
    raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of every command."""  # `--debug` is declared here for --help; main() reads it before typer does


def finish(
    result: VerbResult, shown: "Callable[[], Report | Iterable[str]]", *, as_json: bool, page: Path | None = None
) -> None:
    """Print the result of a verb as JSON, a report or lines, name its page, and exit with the outcome's code."""
    if as_json:
        print_json(result.document())
    else:
        show(shown())
        if page is not None:
            print(f"report: {os.path.relpath(page)}")
    if result.outcome.exit_code:
        raise typer.Exit(result.outcome.exit_code)


def show(content: "Report | Iterable[str]") -> None:
    """Print a report, or lines of text. Control characters in the text of a server or a data set have no effect."""
    from harness.report import notation, press
    from harness.report.content import Report

    if isinstance(content, Report):
        press.show(content)
    else:
        for line in content:
            print(notation.visible(line))


def say(message: str) -> None:
    """Print one line for a person on standard error; standard output is for results."""
    from harness.report import notation

    print(notation.plain(message), file=sys.stderr)


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=1, ensure_ascii=not streams.takes_any_character()))
