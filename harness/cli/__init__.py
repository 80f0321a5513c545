"""The command line: one function per verb, which parses, calls the verb and shows its result.

Errors are one line and an exit code. Imports inside the functions keep `crispbench --help` fast.
"""

import errno
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

# isort: off
from harness.cli import quality, speed, gates, models, installation  # noqa: F401  # registered in the order of --help

# isort: on
from harness.cli import streams
from harness.cli.app import app, say
from harness.outcome import CLOSED_PIPE_EXIT_CODE, INTERRUPTED_EXIT_CODE, USAGE_EXIT_CODE, Outcome

INTERRUPTED = "interrupted: committed results are kept; for `run` the same command resumes"

# Errors that a full, broken or protected disk causes, and not a mistake in the code
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
# Errors of a path that cannot be what the command line says
PATH = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; every error becomes one line on standard error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]  # accepted at any position
    streams.replace_unknown_characters()
    try:
        with _traced(debug):
            code = _run(arguments, debug=debug)
            streams.flush()
            return code
    except BrokenPipeError as error:
        if streams.abandon_closed_pipes():
            return CLOSED_PIPE_EXIT_CODE
        if debug:
            raise
        return _complain(*_explained(error))


def _run(arguments: Sequence[str], *, debug: bool) -> int:
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="crispbench", standalone_mode=False)
        if code == INTERRUPTED_EXIT_CODE:  # typer turns a KeyboardInterrupt into this code silently
            raise KeyboardInterrupt
        return int(code or 0)
    except KeyboardInterrupt:
        return _complain(INTERRUPTED, INTERRUPTED_EXIT_CODE)
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # typer ends with 1, which would read as a regression
            raise ended.__context__ from None
        raise
    except Exception as error:
        if debug or isinstance(error, BrokenPipeError):
            raise
        return _complain(*_explained(error))


@contextmanager
def _traced(debug: bool) -> Iterator[None]:
    """With --debug, the tracebacks of errors that became a line of a report are printed, too."""
    if not debug:
        yield
        return
    log, handler = logging.getLogger("crispbench"), logging.StreamHandler()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def entry() -> None:
    """The installed command."""
    sys.exit(main())


def _explained(error: Exception) -> tuple[str, int]:
    if isinstance(error, typer.Abort):
        return INTERRUPTED, INTERRUPTED_EXIT_CODE
    if isinstance(error, TyperException):
        return _usage(error), USAGE_EXIT_CODE
    return _exit_of(error)


def _usage(error: TyperException) -> str:
    """The mistake in the arguments, and the names that are known. Typer exports only the base class of these errors."""
    from engines.spelling import expected

    message = getattr(error, "format_message", error.__str__)().rstrip(".")
    command = getattr(getattr(error, "ctx", None), "command", None)
    unknown = re.match(r"(No such (?:command|option):?) ['\"]?([^\s'\"]+)['\"]?", message)
    if command is None or unknown is None:
        return str(message)
    known = (
        list(command.commands)
        if isinstance(command, TyperGroup) and "command" in unknown[1]
        else [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
    )
    return f"{unknown[0]}; {expected(unknown[2], known)}"


def _exit_of(error: Exception) -> tuple[str, int]:
    from engines.base import BadOptions, EngineError
    from engines.own_errors import named_line
    from harness.benchmarks import BenchmarkError, BenchmarkUnavailable
    from harness.config import ConfigError
    from harness.store import NotComparable, StoreError, WrongFolder

    for kinds, code in (
        ((BenchmarkUnavailable,), Outcome.INVALID.exit_code),
        ((BadOptions, ConfigError, BenchmarkError, WrongFolder), USAGE_EXIT_CODE),
        ((NotComparable,), Outcome.NOT_COMPARABLE.exit_code),
        ((EngineError, StoreError), Outcome.INVALID.exit_code),
    ):
        if isinstance(error, kinds):
            return str(error), code
    if isinstance(error, OSError) and error.errno in DISK:
        return f"{error}; committed results are kept, fix this and repeat the command", Outcome.INVALID.exit_code
    if isinstance(error, OSError) and error.errno in PATH:
        return f"{error}; name another path", USAGE_EXIT_CODE
    return f"{named_line(error)} (--debug shows where)", Outcome.INVALID.exit_code


def _complain(message: str, code: int) -> int:
    say(f"crispbench: {message}")
    return code
