"""Errors that a plugin or a library did not raise on purpose, turned into ours. A leaf, shared with the harness."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from engines.base import CrispbenchError, Engine, EngineFailed, first_line


def named_line(error: BaseException) -> str:
    """The type of an error and the first line of its message: `KeyError: 'text'`."""
    return f"{type(error).__name__}: {first_line(error) if str(error).strip() else 'no message'}"


@contextmanager
def own_errors_as(kind: type[CrispbenchError]) -> Iterator[None]:
    """Raise every error that was not raised on purpose as `kind`, with its type and first line.

    A full disk stays what it is, because everything that follows would fail as well.
    """
    try:
        yield
    except CrispbenchError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise kind(named_line(error)) from error


@contextmanager
def closing(engine: Engine) -> Iterator[Engine]:
    """The engine, which is closed at the end; an error in that is EngineFailed."""
    try:
        yield engine
    finally:
        with own_errors_as(EngineFailed):
            engine.close()
