"""Raw results of one engine in one run: an SQLite file that commits after every query.

A query is done when it has a row in `samples`; its scores were written in the same transaction. A run that is killed
at any moment loses at most the query in flight. Measures are computed from the store and never written back.
"""

import fcntl
import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from engines.base import Counts, CrispbenchError
from harness.fingerprint import differences, of_benchmark
from harness.manifest import BenchmarkRecord, Manifest
from harness.records import Failure, Oddities, Qrels, Sample, Score

# A new version may only add tables, so that it can resume an older store. `oddities` was added on 2026-11-25; the
# oddities of older stores are not known.
SCHEMA = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=NORMAL;
BEGIN;
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
COMMIT;
"""
FILE = "scores.sqlite"


# The record that a benchmark of the current run has with these queries alone; None if it has others.
Narrowed = Callable[[str, Collection[str]], BenchmarkRecord | None]


class StoreError(CrispbenchError):
    """A store cannot be opened or read. The message is one line for the user."""


class WrongFolder(StoreError):
    """A folder is not what the command line says: it is another one than a run or an engine of a run."""


class NotComparable(StoreError):
    """A store holds the results of another configuration."""


class Store:
    """Use `Store.open` to write and `Store.read` to read; both close at the end of a with block."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    @contextmanager
    def open(
        cls, folder: Path, manifest: Manifest, *, fresh: bool = False, narrowed: Narrowed | None = None
    ) -> Iterator["Store"]:
        """Open a store for results of this manifest. It is created if it does not exist, and emptied first if `fresh`.

        New benchmarks are added to the store. A benchmark that has more queries than before keeps its scores, if
        `narrowed` shows that nothing else differs. Raises NotComparable with the differing fields if the store holds
        scores of another configuration, and StoreError if another process is writing to it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError(f"{folder} is being written by another process: wait for it or use --out") from None
            if fresh:  # the lock is held, so no other process writes
                _delete(folder)
            with cls._connect(folder / FILE, "rwc") as store:
                store._connection.executescript(SCHEMA)
                store._accept(manifest, folder, narrowed)
                yield store
                store._leave_one_file()

    @classmethod
    @contextmanager
    def read(cls, folder: Path) -> Iterator["Store"]:
        """Open a store for reading, even while another process writes to it. Raises StoreError if it does not exist."""
        if not (folder / FILE).is_file():
            raise WrongFolder(f"{folder} {_not_an_engine(folder)}")
        with cls._connect(folder / FILE, "ro") as store:
            yield store

    @classmethod
    @contextmanager
    def _connect(cls, path: Path, mode: str) -> Iterator["Store"]:
        try:
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)
            try:
                yield cls(connection)
            finally:
                connection.close()
        except sqlite3.OperationalError as error:  # a full disk, a folder without permission
            raise StoreError(f"{path}: {error}; committed scores are kept: fix this and repeat the command") from None
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{path}: {error}; move the file away, or repeat the run with --fresh") from None

    def _leave_one_file(self) -> None:
        """Fold the write-ahead log into the store, so that a recorded run is one file and reading adds none."""
        with suppress(sqlite3.OperationalError):  # another process is reading; the next writer tries again
            self._connection.execute("PRAGMA journal_mode=DELETE")

    def _accept(self, manifest: Manifest, folder: Path, narrowed: Narrowed | None) -> None:
        stored, current = self.manifest(), manifest.document()
        grown: list[str] = []
        if stored is not None:
            before = stored.document()
            grown = [name for name in manifest.benchmarks if self._has_grown(name, stored, manifest, narrowed)]
            before["benchmarks"] |= {name: current["benchmarks"][name] for name in grown}
            differing = differences(before, current)
            if differing and not self._has_scores():
                self._forget()
                before, differing = current, []
            if differing:
                raise NotComparable(
                    f"{folder} holds results of another configuration: {'; '.join(differing[:5])}"
                    f"{f' and {len(differing) - 5} more' if len(differing) > 5 else ''}. Use --out or --fresh"
                )
            current["benchmarks"] = {**before["benchmarks"], **current["benchmarks"]}
        with self._transaction():
            self._connection.execute("DELETE FROM manifest")
            self._connection.execute("INSERT INTO manifest VALUES (?)", (json.dumps(current),))
            for name in grown:  # they are counted over the candidates of all queries
                self._connection.execute("DELETE FROM oddities WHERE benchmark = ?", (name,))

    def _has_grown(self, name: str, stored: Manifest, current: Manifest, narrowed: Narrowed | None) -> bool:
        """Whether a benchmark has more queries than in this store, and is the same with those of the store alone."""
        earlier = stored.benchmarks.get(name)
        if earlier is None or narrowed is None or current.benchmarks[name].queries <= earlier.queries:
            return False
        alone = narrowed(name, self.qrels(name).keys())
        return alone is not None and not of_benchmark(name, earlier.document(), alone.document())

    def _has_scores(self) -> bool:
        return self._connection.execute("SELECT 1 FROM scores").fetchone() is not None

    def _forget(self) -> None:
        """Delete what a run without any score has left, so that a corrected configuration takes its place."""
        with self._transaction():
            for table in ("qrels", "samples", "oddities", "preparations", "failures"):
                self._connection.execute(f"DELETE FROM {table}")

    def manifest(self) -> Manifest | None:
        """The manifest with the benchmarks of all runs so far; None in a new store. Raises StoreError."""
        row = self._connection.execute("SELECT document FROM manifest").fetchone() if self._has("manifest") else None
        try:
            return Manifest.read(json.loads(row[0])) if row else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"the store's manifest cannot be read ({error}): repeat the run with --fresh") from None

    def benchmarks(self) -> list[str]:
        """Names of the benchmarks whose judgements are saved, in the manifest's order."""
        saved = {name for (name,) in self._connection.execute("SELECT DISTINCT benchmark FROM qrels")}
        manifest = self.manifest()
        return [name for name in manifest.benchmarks if name in saved] if manifest else []

    def save_qrels(self, benchmark: str, qrels: Qrels) -> None:
        rows = [(benchmark, query, doc, grade) for query, grades in qrels.items() for doc, grade in grades.items()]
        with self._transaction():
            self._connection.execute("DELETE FROM qrels WHERE benchmark = ?", (benchmark,))
            self._connection.executemany("INSERT INTO qrels VALUES (?, ?, ?, ?)", rows)

    def qrels(self, benchmark: str) -> dict[str, dict[str, int]]:
        qrels: dict[str, dict[str, int]] = {}
        rows = self._connection.execute("SELECT query_id, doc_id, grade FROM qrels WHERE benchmark = ?", (benchmark,))
        for query_id, doc_id, grade in rows:
            qrels.setdefault(query_id, {})[doc_id] = grade
        return qrels

    def save_oddities(self, benchmark: str, oddities: Mapping[str, Oddities]) -> None:
        rows = [(benchmark, query_id, *counts) for query_id, counts in oddities.items()]
        with self._transaction():
            self._connection.execute("DELETE FROM oddities WHERE benchmark = ?", (benchmark,))
            self._connection.executemany("INSERT INTO oddities VALUES (?, ?, ?, ?, ?)", rows)

    def oddities(self, benchmark: str) -> dict[str, Oddities] | None:
        """The oddities of every query; None if they were not examined, as in stores from before 2026-11-25."""
        if not self._has("oddities"):
            return None
        rows = self._connection.execute(
            "SELECT query_id, empty, duplicate, shared FROM oddities WHERE benchmark = ?", (benchmark,)
        )
        return {query_id: Oddities(*counts) for query_id, *counts in rows} or None

    def done(self, benchmark: str) -> set[str]:
        """Ids of the queries that are scored and committed."""
        rows = self._connection.execute("SELECT query_id FROM samples WHERE benchmark = ?", (benchmark,))
        return {query_id for (query_id,) in rows}

    def commit(self, benchmark: str, sample: Sample, scores: Sequence[Score]) -> None:
        """Write one query's scores and its sample in one transaction, and delete an earlier failure."""
        rows = [(benchmark, sample.query_id, score.rank, score.doc_id, score.value) for score in scores]
        counts = json.dumps(sample.counts.document())
        with self._transaction():
            self._connection.executemany("INSERT INTO scores VALUES (?, ?, ?, ?, ?)", rows)
            self._connection.execute(
                "INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?)",
                (benchmark, sample.query_id, sample.service_s, sample.pairs, sample.warmup, counts),
            )
            self._connection.execute(
                "DELETE FROM failures WHERE benchmark = ? AND query_id = ?", (benchmark, sample.query_id)
            )

    def prepared(self, benchmark: str, seconds: float) -> None:
        """Record how long the engine took to prepare the documents. The time of a query does not include this."""
        self._connection.execute("INSERT INTO preparations VALUES (?, ?)", (benchmark, seconds))

    def preparation_s(self, benchmark: str) -> float | None:
        """Seconds of the longest preparation, since a resumed run prepares again; None without a preparation."""
        row = self._connection.execute(
            "SELECT max(seconds) FROM preparations WHERE benchmark = ?", (benchmark,)
        ).fetchone()
        return None if row is None else row[0]

    def fail(self, benchmark: str, failure: Failure) -> None:
        with self._transaction():
            self._connection.execute(
                "INSERT OR REPLACE INTO failures VALUES (?, ?, ?)", (benchmark, failure.query_id, failure.error)
            )

    def scores(self, benchmark: str) -> dict[str, list[Score]]:
        """Scores of every committed query, in first-stage order; a query without candidates has an empty list."""
        return dict(self.scored(benchmark))

    def scored(self, benchmark: str) -> "Scored":
        """The same scores as a mapping that reads a query on access, so that millions of them need not fit in memory.

        It works while the store is open.
        """
        return Scored(self._connection, benchmark)

    def samples(self, benchmark: str) -> list[Sample]:
        """Samples in the order in which the queries were scored."""
        rows = self._connection.execute(
            "SELECT query_id, service_s, pairs, warmup, counts FROM samples WHERE benchmark = ? ORDER BY rowid",
            (benchmark,),
        )
        return [
            Sample(query_id, service_s, pairs, bool(warmup), Counts.read(json.loads(counts)))
            for query_id, service_s, pairs, warmup, counts in rows
        ]

    def score_range(self, benchmark: str) -> tuple[float, float] | None:
        """The lowest and the highest score; None without scores."""
        rows = self._connection.execute("SELECT min(score), max(score) FROM scores WHERE benchmark = ?", (benchmark,))
        lowest, highest = rows.fetchone()
        return None if lowest is None else (lowest, highest)

    def failures(self, benchmark: str) -> list[Failure]:
        rows = self._connection.execute(
            "SELECT query_id, error FROM failures WHERE benchmark = ? ORDER BY query_id", (benchmark,)
        )
        return [Failure(query_id, error) for query_id, error in rows]

    def _has(self, table: str) -> bool:
        rows = self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,))
        return rows.fetchone() is not None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


class Scored(Mapping[str, list[Score]]):
    """query_id -> scores in first-stage order, ordered by query_id."""

    def __init__(self, connection: sqlite3.Connection, benchmark: str) -> None:
        self._connection, self._benchmark = connection, benchmark
        rows = connection.execute("SELECT query_id FROM samples WHERE benchmark = ? ORDER BY query_id", (benchmark,))
        self._query_ids = dict.fromkeys(query_id for (query_id,) in rows)

    def __getitem__(self, query_id: str) -> list[Score]:
        if query_id not in self._query_ids:
            raise KeyError(query_id)
        rows = self._connection.execute(
            "SELECT doc_id, rank, score FROM scores WHERE benchmark = ? AND query_id = ? ORDER BY rank",
            (self._benchmark, query_id),
        )
        return list(map(Score._make, rows))

    def __iter__(self) -> Iterator[str]:
        return iter(self._query_ids)

    def __len__(self) -> int:
        return len(self._query_ids)


def _not_an_engine(folder: Path) -> str:
    """The reason why a folder is not the folder of an engine, and the next step."""
    if not folder.is_dir():
        return "is not a folder: expected a RUN/ENGINE folder that `crispbench run` wrote"
    engines = sorted(str(path.parent) for path in folder.glob(f"*/{FILE}"))
    if engines:
        return f"is a whole run: name one of its engines, such as {', '.join(engines[:3])}"
    return f"holds no {FILE}: expected a RUN/ENGINE folder that `crispbench run` wrote"


def _delete(folder: Path) -> None:
    for name in (FILE, f"{FILE}-wal", f"{FILE}-shm"):
        (folder / name).unlink(missing_ok=True)
