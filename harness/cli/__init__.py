"""The command line: one verb, one function. Each parses, calls, prints; errors are one line and an exit code.

Imports inside the functions keep `crispbench --help` fast.
"""

import errno
import sys
from collections.abc import Sequence

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

# isort: off
from harness.cli import quality, speed, gates, models, installation  # noqa: F401  # registered in the order of --help

# isort: on
from harness.cli.app import Exit, app, say

INTERRUPTED = "interrupted: what was committed is kept; for `run` the same command resumes"


# What a disk or its owner does to a file, which is nobody's mistake in the code
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; anything that is wrong becomes one line on standard error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]  # known wherever it stands
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="crispbench", standalone_mode=False)
        if code == Exit.INTERRUPTED:  # what typer makes of a KeyboardInterrupt, without a word
            raise KeyboardInterrupt
        return int(code or 0)
    except KeyboardInterrupt:
        return _complain(INTERRUPTED, Exit.INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        return _complain(*_explained(error))


def entry() -> None:
    """The installed command."""
    sys.exit(main())


def _explained(error: Exception) -> tuple[str, Exit]:
    if isinstance(error, typer.Abort):
        return INTERRUPTED, Exit.INTERRUPTED
    if isinstance(error, TyperException):
        return _usage(error), Exit.USAGE
    return _exit_of(error)


def _usage(error: TyperException) -> str:
    """What is wrong with the arguments, and what is known instead. Typer exports only the base of these errors."""
    message = getattr(error, "format_message", error.__str__)().rstrip(".")
    command = getattr(getattr(error, "ctx", None), "command", None)
    if isinstance(command, TyperGroup) and "No such command" in message:
        return f"{message}; known are {', '.join(command.commands)}"
    if command is not None and "No such option" in message:
        known = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
        return f"{message}; known are {', '.join(known)}"
    return str(message)


def _exit_of(error: Exception) -> tuple[str, Exit]:
    from engines.base import BadOptions, EngineError
    from harness.benchmarks import BenchmarkError
    from harness.config import ConfigError
    from harness.store import NotComparable, StoreError

    for kinds, code in (
        ((BadOptions, ConfigError, BenchmarkError), Exit.USAGE),
        ((NotComparable,), Exit.NOT_COMPARABLE),
        ((EngineError, StoreError), Exit.INVALID),
    ):
        if isinstance(error, kinds):
            return str(error), code
    if isinstance(error, OSError) and error.errno in DISK:
        return f"{error}; what was committed is kept, mend it and repeat the command", Exit.INVALID
    reason = str(error) or "no message"
    return f"{type(error).__name__}: {reason.splitlines()[0]} (--debug shows where)", Exit.INVALID


def _complain(message: str, code: Exit) -> int:
    say(f"crispbench: {message}")
    return code
