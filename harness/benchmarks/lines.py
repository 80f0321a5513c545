"""Lines of text files: plain or gzip, with or without BOM, LF or CRLF, always UTF-8.

This module does not know what a line means. Only a line feed ends a line: JSON strings may hold U+2028 and U+0085,
at which `str.splitlines` would split.
"""

import codecs
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from harness.benchmarks.base import BenchmarkError

GZIP_MAGIC = b"\x1f\x8b"
COLUMN = re.compile(r"[^ \t\r\v\f]+")  # C's isspace, by which trec_eval splits lines; Python's str.split splits at more
COMMENT = "#"  # trec_eval 10 skips lines that begin with it; elsewhere in a line it is a character
MOST_LINE_BYTES = 2**28  # the longest known document has a few MB, but 10 MB of gzip can hold a line of 10 GB


class Line(NamedTuple):
    """A line of a text file."""

    number: int  # from 1, as in editors
    text: str


def find(folder: Path, name: str, purpose: str) -> Path:
    """`folder/name` or its `.gz`. Raises BenchmarkError, which lists the files of the folder."""
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    if not folder.is_dir():
        raise BenchmarkError(f"{folder}: no such folder; set `path` to a folder with {name}")
    files = itertools.islice((file for file in folder.glob("**/*") if file.is_file()), 1000)
    names = sorted(file.relative_to(folder).as_posix() for file in files)
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    raise BenchmarkError(
        f"{folder / name}: no such file, with or without .gz; {purpose}; the folder has {listed or 'no files'}"
    )


def read_lines(path: Path) -> Iterator[Line]:
    """Every line that is not blank, without its line ending. Raises BenchmarkError."""
    try:
        with _open(path) as file:
            for number, raw in enumerate(iter(lambda: file.readline(MOST_LINE_BYTES + 1), b""), start=1):
                if len(raw) > MOST_LINE_BYTES:
                    raise BenchmarkError(f"{path}:{number}: a line of more than {MOST_LINE_BYTES:,} bytes; shorten it")
                # files that were joined have a mark in the middle, where it would become a part of an id
                line = raw.removeprefix(codecs.BOM_UTF8)
                text = _decode(line.rstrip(b"\r\n"), path, number)
                if text.strip():
                    yield Line(number, text)
    except (OSError, EOFError, zlib.error) as error:
        raise BenchmarkError(f"{path}: cannot be read ({error}); repair or download the file again") from None


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number and the JSON object of every line. Raises BenchmarkError."""
    for number, text in read_lines(path):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise BenchmarkError(
                f"{path}:{number}: {beginning(text)} is not JSON ({reason}); expected one JSON object per line"
                f"{_cause(text)}"
            ) from None
        if not isinstance(value, dict):
            raise BenchmarkError(
                f"{path}:{number}: {beginning(text)} is not a JSON object; expected one object per line{_cause(text)}"
            )
        yield number, value


def _cause(text: str) -> str:
    """The probable reason why a line is no JSON object, and the next step; empty if none is probable."""
    text = text.strip()
    if text.startswith("["):
        return ": the file seems to be one list, write its objects on lines of their own"
    if text.endswith(","):
        return ": remove the comma at the end of the lines"
    if text == "{":
        return ": an object seems to have several lines, write it on one"
    if text.startswith("{'"):
        return ": names and texts seem to have single quotes, write double ones"
    return ""


def columns(text: str) -> list[str]:
    """The parts of a line between white space of any kind and length, as trec_eval splits it."""
    return COLUMN.findall(text)


def is_comment(text: str) -> bool:
    """Whether trec_eval 10 skips a line: its first character, after white space, is `#`."""
    return COMMENT in text and text.lstrip(" \t\r\v\f").startswith(COMMENT)


def beginning(text: str) -> str:
    """The first 60 characters, quoted, on one line."""
    return repr(text[:60] + ("..." if len(text) > 60 else ""))


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    """The file, unpacked if it is gzip. It is opened once, because a pipe such as `<(zcat run.gz)` opens once."""
    with path.open("rb") as file:
        if file.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC):
            with gzip.GzipFile(fileobj=file) as packed:
                yield packed
        else:
            yield file


def _decode(raw: bytes, path: Path, number: int) -> str:
    """The line as text. A NUL is an error, because it would end an id in the evaluators, which are written in C."""
    if number == 1 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BenchmarkError(f"{path}:1: the file begins with the mark of UTF-16; convert it to UTF-8")
    if b"\0" in raw:
        raise BenchmarkError(f"{path}:{number}: a NUL byte at column {raw.index(0) + 1}; expected text, without NUL")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BenchmarkError(
            f"{path}:{number}: byte {raw[error.start : error.start + 1]!r} at column {error.start + 1} is not UTF-8; "
            f"convert the file to UTF-8"
        ) from None
