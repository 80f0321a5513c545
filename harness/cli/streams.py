"""Standard output and standard error as they are: a pipe whose reader has left, a terminal that knows only ASCII."""

import codecs
import io
import os
import select
import sys

# The characters of our own reports that ASCII lacks, by what a reader takes for them. Any other one becomes "?".
LOOK_ALIKE = {
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{GREEK CAPITAL LETTER DELTA}": "d",
    "\N{PLUS-MINUS SIGN}": "+-",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{DEGREE SIGN}": " ",
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{BULLET}": "*",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
}
ERRORS = "crispbench"  # name of the error handler


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(LOOK_ALIKE.get(char, "?") for char in error.object[error.start : error.end]), error.end


codecs.register_error(ERRORS, _replaced)


def replace_unknown_characters() -> None:
    """Replace characters that an output cannot represent. A result is not lost at its last step for one of them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)


def takes_any_character() -> bool:
    """Whether standard output is in an encoding that has every character."""
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "").startswith("utf")


def flush() -> None:
    """Write what standard output still holds. Raises BrokenPipeError if nobody reads it any more."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def abandon_closed_pipes() -> bool:
    """Whether nobody reads standard output or standard error any more. What they still hold is then dropped.

    Python would otherwise try once more when it ends, fail, print that and return a code of its own.
    """
    closed = [stream for stream in (sys.__stdout__, sys.__stderr__) if stream is not None and _is_closed_pipe(stream)]
    for stream in closed:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return bool(closed)


def _is_closed_pipe(stream: io.TextIOBase) -> bool:
    try:
        descriptor, poll = stream.fileno(), select.poll()
        poll.register(descriptor, 0)  # errors and hang-ups are always reported
        if poll.poll(0):
            return True
        # rich notices a closed pipe itself and turns standard output to nowhere
        return os.path.samestat(os.fstat(descriptor), os.stat(os.devnull))
    except (OSError, ValueError):  # a stream that was closed or is no file
        return False
