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

from engines.base import Counts, CrispbenchError, first_line
from harness import files
from harness.fingerprint import differences, of_benchmark
from harness.manifest import BenchmarkRecord, Manifest
from harness.records import Failure, Oddities, Qrels, Sample, Score
from harness.store_guard import (
    MAX_CANDIDATES,
    MAX_ERROR,
    MAX_GRADE,
    MAX_PREPARATIONS,
    MAX_QUERIES,
    TABLES,
    OutOfBounds,
    StoreGuard,
    check_files,
    check_ids,
    check_numbers,
)

SCHEMA = f"""
PRAGMA journal_mode=WAL;
PRAGMA synchronous=NORMAL;
BEGIN;
{TABLES}
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

    def __init__(self, connection: sqlite3.Connection, guard: StoreGuard) -> None:
        self._connection = connection
        self._guard = guard

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
        """Open a store for reading, even while another process writes to it.

        Raises StoreError if it does not exist, and for content that no run writes (`harness.store_guard`).
        """
        if not (folder / FILE).is_file():
            raise WrongFolder(f"{folder} {_not_an_engine(folder)}")
        with cls._connect(folder / FILE, "ro") as store:
            yield store

    @classmethod
    @contextmanager
    def _connect(cls, path: Path, mode: str) -> Iterator["Store"]:
        try:
            check_files(path)
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)
            try:
                yield cls(connection, StoreGuard(connection, path, writes=mode != "ro"))
            finally:
                connection.close()
        except OutOfBounds as error:
            raise StoreError(f"{path}: {error}: no run writes this; move the file away, or use --fresh") from None
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
        with self._guard.manifest_at_hand(), self._transaction():
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
        with self._guard.manifest_at_hand():
            rows = (
                self._guard.rows("manifest", "SELECT document FROM manifest", most=1) if self._has("manifest") else []
            )
        try:
            return Manifest.read(files.parse_json(rows[0][0])) if rows else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = first_line(error)
            raise StoreError(f"the store's manifest cannot be read ({reason}): repeat the run with --fresh") from None

    def benchmarks(self) -> list[str]:
        """Names of the benchmarks whose judgements are saved, in the manifest's order."""
        saved = {name for (name,) in self._guard.rows("qrels", "SELECT DISTINCT benchmark FROM qrels")}
        manifest = self.manifest()
        return [name for name in manifest.benchmarks if name in saved] if manifest else []

    def save_qrels(self, benchmark: str, qrels: Qrels) -> None:
        rows = [(benchmark, query, doc, grade) for query, grades in qrels.items() for doc, grade in grades.items()]
        check_ids({query for _, query, _, _ in rows})
        check_ids({doc for _, _, doc, _ in rows})
        with self._transaction():
            self._connection.execute("DELETE FROM qrels WHERE benchmark = ?", (benchmark,))
            self._connection.executemany("INSERT INTO qrels VALUES (?, ?, ?, ?)", rows)

    def qrels(self, benchmark: str) -> dict[str, dict[str, int]]:
        qrels: dict[str, dict[str, int]] = {}
        sql = "SELECT query_id, doc_id, grade FROM qrels WHERE benchmark = ?"
        for query_id, doc_id, grade in self._guard.rows("qrels", sql, benchmark):
            qrels.setdefault(query_id, {})[doc_id] = grade
        if len(qrels) > MAX_QUERIES:
            raise OutOfBounds(f"qrels has {len(qrels):,} queries of a benchmark, expected at most {MAX_QUERIES:,}")
        check_ids(qrels)
        for grades in qrels.values():
            check_ids(grades)
            check_numbers("a grade", grades.values(), int, most=MAX_GRADE)
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
        sql = "SELECT query_id, empty, duplicate, shared FROM oddities WHERE benchmark = ?"
        odd = {query_id: Oddities(*counts) for query_id, *counts in self._guard.rows("oddities", sql, benchmark)}
        check_ids(odd)
        check_numbers("an odd text's count", [count for counts in odd.values() for count in counts], int)
        return odd or None

    def done(self, benchmark: str) -> set[str]:
        """Ids of the queries that are scored and committed."""
        rows = self._guard.rows("samples", "SELECT query_id FROM samples WHERE benchmark = ?", benchmark)
        return {query_id for (query_id,) in rows}

    def commit(self, benchmark: str, sample: Sample, scores: Sequence[Score]) -> None:
        """Write one query's scores and its sample in one transaction, and delete an earlier failure."""
        rows = [(benchmark, sample.query_id, score.rank, score.doc_id, score.value) for score in scores]
        check_ids([score.doc_id for score in scores])
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
        sql = "SELECT benchmark, seconds FROM preparations"  # without an index, so the whole table is read
        rows = self._guard.rows("preparations", sql, most=MAX_PREPARATIONS) if self._has("preparations") else []
        check_numbers("a preparation's time", [seconds for _, seconds in rows], float, int)
        return max((seconds for name, seconds in rows if name == benchmark), default=None)

    def fail(self, benchmark: str, failure: Failure) -> None:
        with self._transaction():
            self._connection.execute(
                "INSERT OR REPLACE INTO failures VALUES (?, ?, ?)",
                (benchmark, failure.query_id, failure.error[:MAX_ERROR]),
            )

    def scores(self, benchmark: str) -> dict[str, list[Score]]:
        """Scores of every committed query, in first-stage order; a query without candidates has an empty list."""
        return dict(self.scored(benchmark))

    def scored(self, benchmark: str) -> "Scored":
        """The same scores as a mapping that reads a query on access, so that millions of them need not fit in memory.

        It works while the store is open.
        """
        return Scored(self._guard, benchmark)

    def samples(self, benchmark: str) -> list[Sample]:
        """Samples in the order in which the queries were scored."""
        sql = "SELECT query_id, service_s, pairs, warmup, counts FROM samples WHERE benchmark = ? ORDER BY rowid"
        rows = self._guard.rows("samples", sql, benchmark, most=MAX_QUERIES)
        check_ids([query_id for query_id, *_ in rows])
        check_numbers("a query's time", [service_s for _, service_s, *_ in rows], float, int)
        check_numbers("a number of pairs", [pairs for _, _, pairs, *_ in rows], int, most=MAX_CANDIDATES)
        return [
            Sample(query_id, service_s, pairs, bool(warmup), _counts(counts))
            for query_id, service_s, pairs, warmup, counts in rows
        ]

    def score_range(self, benchmark: str) -> tuple[float, float] | None:
        """The lowest and the highest score; None without scores."""
        sql = "SELECT min(score), max(score) FROM scores WHERE benchmark = ?"
        ((lowest, highest),) = self._guard.rows("scores", sql, benchmark)
        if lowest is None:
            return None
        check_numbers("a score", (lowest, highest), float)
        return lowest, highest

    def failures(self, benchmark: str) -> list[Failure]:
        sql = "SELECT query_id, error FROM failures WHERE benchmark = ? ORDER BY query_id"
        rows = self._guard.rows("failures", sql, benchmark)
        check_ids([query_id for query_id, _ in rows])
        return [Failure(query_id, str(error)[:MAX_ERROR]) for query_id, error in rows]

    def _has(self, table: str) -> bool:
        return bool(self._guard.rows("schema", "SELECT 1 FROM sqlite_master WHERE name = ?", table))

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

    def __init__(self, guard: StoreGuard, benchmark: str) -> None:
        self._guard, self._benchmark = guard, benchmark
        sql = "SELECT query_id FROM samples WHERE benchmark = ? ORDER BY query_id"
        rows = guard.rows("samples", sql, benchmark, most=MAX_QUERIES)
        self._query_ids = dict.fromkeys(query_id for (query_id,) in rows)
        check_ids(self._query_ids)

    def __getitem__(self, query_id: str) -> list[Score]:
        if query_id not in self._query_ids:
            raise KeyError(query_id)
        sql = "SELECT doc_id, rank, score FROM scores WHERE benchmark = ? AND query_id = ? ORDER BY rank"
        rows = self._guard.rows("scores", sql, self._benchmark, query_id, most=MAX_CANDIDATES)
        if rows:
            doc_ids, ranks, values = zip(*rows, strict=True)
            check_ids(doc_ids)
            check_numbers("a rank", ranks, int)
            check_numbers("a score", values, float)
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


def _counts(text: str) -> Counts:
    """The counts of a sample. Raises OutOfBounds."""
    try:
        counts = Counts.read(files.parse_json(text))
    except (ValueError, TypeError) as error:
        raise OutOfBounds(f"a query's counts cannot be read ({first_line(error)})") from None
    check_numbers("a count", counts.document().values(), int)
    return counts


def _delete(folder: Path) -> None:
    for name in (FILE, f"{FILE}-wal", f"{FILE}-shm"):
        (folder / name).unlink(missing_ok=True)
