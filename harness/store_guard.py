"""Limits within which a store is read. A recorded run may come from a stranger, and its file may be made to harm.

The limits leave room for the largest honest runs: 18 million pairs of one engine, 60 benchmarks. Scores are read query
by query and have no limit of their own. Beside the limits, no table can hold more rows, and no statement can take more
steps, than the file's size allows: pages that refer to each other let a small file pretend to be endless.
"""

import re
import sqlite3
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

from engines.base import CrispbenchError

# A new version may only add tables, so that it can resume an older store. `oddities` was added on 2026-11-25; the
# oddities of older stores are not known.
TABLES = """
CREATE TABLE IF NOT EXISTS manifest (document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS qrels (
    benchmark TEXT, query_id TEXT, doc_id TEXT, grade INTEGER NOT NULL,
    PRIMARY KEY (benchmark, query_id, doc_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scores (
    benchmark TEXT, query_id TEXT, rank INTEGER, doc_id TEXT NOT NULL, score REAL NOT NULL,
    PRIMARY KEY (benchmark, query_id, rank)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS samples (
    benchmark TEXT, query_id TEXT, service_s REAL NOT NULL, pairs INTEGER NOT NULL, warmup INTEGER NOT NULL,
    counts TEXT NOT NULL, PRIMARY KEY (benchmark, query_id));
CREATE TABLE IF NOT EXISTS oddities (
    benchmark TEXT, query_id TEXT, empty INTEGER NOT NULL, duplicate INTEGER NOT NULL, shared INTEGER NOT NULL,
    PRIMARY KEY (benchmark, query_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS preparations (benchmark TEXT, seconds REAL NOT NULL);
CREATE TABLE IF NOT EXISTS failures (
    benchmark TEXT, query_id TEXT, error TEXT NOT NULL, PRIMARY KEY (benchmark, query_id)) WITHOUT ROWID;
"""

MAX_ROWS = 6_000_000  # that are read at once: the judgements of a benchmark, in reranking tasks one for every pair
MAX_QUERIES = 200_000  # of a benchmark; every figure's interval resamples all of them
MAX_CANDIDATES = 100_000  # of one query; first stages give 10 to 1,000
MAX_PREPARATIONS = 100_000  # one for each benchmark and each time that a run was resumed
MAX_ID = 4_096  # characters of an id; URLs are the longest ones
MAX_ERROR = 2_000  # characters of a failure's message; what is longer is cut
MAX_TEXT = 64 * 2**10  # bytes of a row
MAX_MANIFEST = 16 * 2**20  # bytes; 60 benchmarks take about 100 KB, and ids of queries without candidates more
MAX_GRADE = 1_000_000  # as in judgement files
LEAST_ROW_BYTES = 4  # no row takes less of a file
SLACK_BYTES = 2**20  # for what another process writes meanwhile
STEPS = 50_000_000  # of SQLite's machine that any store may take, about 2 s
STEPS_PER_BYTE = 20  # beside them; reading all rows of a store five times takes about 2
ASKED_EVERY = 100_000  # steps
CHUNK = 1_000  # rows between two looks at their sizes

ASIDE = ("-wal", "-shm", "-journal")  # files of SQLite beside a store


class OutOfBounds(CrispbenchError):
    """A store holds what no run writes. The message says what, without the store's path."""


def check_files(path: Path) -> None:
    """Raise OutOfBounds if a file of the store is a pipe, a device or a link to one: reading it may never end."""
    for name in ("", *ASIDE):
        file = path.with_name(f"{path.name}{name}")
        if file.exists() and not stat.S_ISREG(file.stat().st_mode):
            raise OutOfBounds(f"{file.name} is no regular file")


class StoreGuard:
    """Watches one connection; every row is read through it."""

    def __init__(self, connection: sqlite3.Connection, path: Path, *, writes: bool) -> None:
        """`connection` has not read anything yet. One that writes is not held to the file's size, which grows.

        Raises OutOfBounds for a schema that no run writes.
        """
        self._connection = connection
        size = sum(file.stat().st_size for name in ("", *ASIDE) if (file := path.with_name(path.name + name)).exists())
        self._most_characters = size + SLACK_BYTES
        self._most_rows = min(MAX_ROWS, self._most_characters // LEAST_ROW_BYTES)
        self._steps = STEPS + STEPS_PER_BYTE * size
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_TEXT)
        connection.set_progress_handler(self._out_of_steps, ASKED_EVERY)
        with self.watched():
            for setting in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0"):
                connection.execute(f"PRAGMA {setting}")
            self._check_schema()
        if writes:
            connection.set_progress_handler(None, 0)
            self._most_rows, self._most_characters = MAX_ROWS, MAX_ROWS * MAX_ID

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Errors of SQLite that the guard causes become OutOfBounds."""
        try:
            yield
        except sqlite3.OperationalError:
            if self._steps >= 0:
                raise
            raise OutOfBounds("reading it takes more steps than its size allows") from None
        except sqlite3.DataError as error:  # string or blob too big
            raise OutOfBounds(f"a row is longer than {MAX_TEXT:,} bytes ({error})") from None
        except UnicodeDecodeError:  # sqlite3 cannot decode the message when SQLite quotes a broken schema in it
            raise OutOfBounds("its schema is not valid UTF-8") from None

    @contextmanager
    def manifest_at_hand(self) -> Iterator[None]:
        """Inside the block a text may have the size of a manifest."""
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_MANIFEST)
        try:
            yield
        finally:
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_TEXT)

    def rows(self, table: str, sql: str, *parameters: object, most: int = MAX_ROWS) -> list[Any]:
        """The rows of a statement. Raises OutOfBounds if there are too many, or if it takes too many steps."""
        rows: list[Any] = []
        limit, characters = min(most, self._most_rows), 0
        with self.watched():
            cursor = self._connection.execute(sql, parameters)
            while chunk := cursor.fetchmany(CHUNK):
                rows += chunk
                characters += sum(map(_characters, zip(*chunk, strict=True)))
                if len(rows) > limit:
                    raise OutOfBounds(f"{table} has over {limit:,} rows to read at once")
                if characters > self._most_characters:
                    raise OutOfBounds(f"{table} has more text than the file's size allows")
        return rows

    def _out_of_steps(self) -> bool:
        self._steps -= ASKED_EVERY
        return self._steps < 0  # ends the statement with OperationalError: interrupted

    def _check_schema(self) -> None:
        """Raise OutOfBounds for a table that no run writes, a view, a trigger, an index or a changed column."""
        known = _known_schema()
        for kind, name, sql in self._connection.execute("SELECT type, name, sql FROM sqlite_master"):
            if (kind, name) not in known or known[kind, name] != _plain(sql):
                raise OutOfBounds(f"it holds {str(kind)[:20]} {str(name)[:60]!r}, which no run writes in this form")


def _characters(column: Sequence[Any]) -> int:
    """Characters and bytes of a column's values."""
    if set(map(type, column)) <= {str, bytes}:
        return sum(map(len, column))
    return sum(len(value) for value in column if isinstance(value, str | bytes))


def check_ids(values: Collection[Any]) -> None:
    """Raise OutOfBounds unless all values are texts that can be ids."""
    if set(map(type, values)) - {str}:
        wrong = next(value for value in values if not isinstance(value, str))
        raise OutOfBounds(f"an id is {wrong!r:.40}: expected text")
    longest = max(map(len, values), default=0)
    if longest > MAX_ID:
        raise OutOfBounds(f"an id has {longest:,} characters, expected at most {MAX_ID:,}")


def check_numbers(name: str, values: Collection[Any], *kinds: type, most: float = float("inf")) -> None:
    """Raise OutOfBounds unless all values have one of the types, are finite and lie between -most and most."""
    if set(map(type, values)) - set(kinds):
        wrong = next(value for value in values if type(value) not in kinds)
        raise OutOfBounds(f"{name} is {wrong!r:.40}: expected a number")
    if values and not (-most <= min(values) and max(values) <= most and all(map(isfinite, values))):
        wrong = next(value for value in values if not (isfinite(value) and -most <= value <= most))
        raise OutOfBounds(f"{name} is {wrong!r:.40}: expected a finite number of usual size")


@cache
def _known_schema() -> dict[tuple[str, str], str]:
    """Every entry of an untouched store's schema."""
    with sqlite3.connect(":memory:") as memory:
        memory.executescript(TABLES)
        rows = memory.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    memory.close()
    return {(kind, name): _plain(sql) for kind, name, sql in rows}


def _plain(sql: object) -> str:
    """The statement without its white space; nothing for an index that SQLite made by itself."""
    return re.sub(r"\s+", " ", str(sql)).strip() if sql is not None else ""
