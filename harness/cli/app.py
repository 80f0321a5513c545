"""What every verb shares: the application, exit codes, options, and the two ways of speaking."""

import json
import sys
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import typer

HELP = "Evaluate rerankers honestly: quality and latency of every engine over the same candidates, in one report."

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


class Exit(IntEnum):
    PASS = 0
    FAILED = 1
    USAGE = 2
    INCONCLUSIVE = 3
    NOT_COMPARABLE = 4
    INVALID = 5
    INTERRUPTED = 130


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
RunDir = Annotated[Path, typer.Argument(help="Folder that `crispbench run` wrote.")]


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Options of every command."""  # here for --help; main() reads it, which is outside of typer


def say(message: str) -> None:
    """One line to a person; standard output is for results. What a terminal would act on does nothing."""
    from harness.report import notation

    print(notation.plain(message), file=sys.stderr)


def show_lines(lines: Iterable[str]) -> None:
    """Lines that may hold text of a server or of a data set; what a terminal would act on does nothing."""
    from harness.report import notation

    print("\n".join(notation.visible(line) for line in lines))


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=1, ensure_ascii=False))
