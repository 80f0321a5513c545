"""Whatever a recorded run of a stranger holds, every verb that reads it ends within seconds and bounded memory.

Each case tampers with a recorded run and gives it to the verbs, each in a child process with limits of time and memory.
A verb may refuse the run in one line, or use what it holds.
"""

import json
import os
import resource
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import harness.check.verb
import harness.compare.verb
import harness.interop.export
import harness.run.merge
import harness.run.page.plots  # noqa: F401 - imported here, so that a child does not spend its time on it
from harness.cli import main
from tests.hostile.pages_of_sqlite import repeat_a_page

RECORDED = Path(__file__).parents[1] / "recorded" / "run"
BENCHMARK = "stdlib-topics"
LIMIT_S = 60
LIMIT_BYTES = 2 * 2**30  # beside what the parent has mapped already
WRONG_FOLDER, REFUSED = 2, 5

Tamper = Callable[[Path], None]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the recorded run with one engine."""
    run = tmp_path / "run"
    shutil.copytree(RECORDED / "fake", run / "fake")
    index = json.loads((RECORDED / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps({**index, "engines": ["fake"], "unavailable": {}}))
    return run


def verbs(run: Path) -> dict[str, list[str]]:
    """Every verb that reads a run, with its arguments."""
    engine, sound, out = str(run / "fake"), str(RECORDED / "fake"), run.parent
    return {
        "report": ["report", str(run)],
        "compare": ["compare", sound, engine, "--out", str(out / "compared")],
        "check": ["check", sound, engine, "--out", str(out / "checked")],
        "merge": ["merge", str(out / "merged"), str(run)],
        "export": ["export", "trec", str(run), str(out / "exported")],
    }


def codes(run: Path) -> dict[str, int]:
    """The exit code of every verb, each in a process of its own. A process that does not end, or dies, fails here."""
    return {verb: _child(arguments, run.parent / "error.txt") for verb, arguments in verbs(run).items()}


def _child(arguments: list[str], log: Path) -> int:
    child = os.fork()
    if not child:
        try:
            _limited()
            for descriptor in (1, 2):
                os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
            sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", closefd=False) for descriptor in (1, 2))
            code = main(arguments)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        finally:
            os._exit(99)
    _, status = os.waitpid(child, 0)
    code, text = os.waitstatus_to_exitcode(status), log.read_text(encoding="utf-8", errors="replace")
    assert 0 <= code <= REFUSED, f"{arguments[0]} ended with {code}: {text[-2000:]}"
    assert "--debug" not in text and "Traceback" not in text, text[-2000:]  # no error that nobody expected
    return code


def _limited() -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + LIMIT_BYTES,) * 2)
    signal.alarm(LIMIT_S)


# What can be changed


def sql(*statements: str, rows: Mapping[str, Iterator[tuple[Any, ...]]] | None = None) -> Tamper:
    def tamper(run: Path) -> None:
        with closing(sqlite3.connect(run / "fake/scores.sqlite", isolation_level=None)) as store:
            store.execute("BEGIN")
            for statement in statements:
                store.execute(statement)
            for statement, values in (rows or {}).items():
                store.executemany(statement, values)
            store.execute("COMMIT")

    return tamper


def manifest(change: Callable[[dict[str, Any]], Any]) -> Tamper:
    def tamper(run: Path) -> None:
        with closing(sqlite3.connect(run / "fake/scores.sqlite", isolation_level=None)) as store:
            document = json.loads(store.execute("SELECT document FROM manifest").fetchone()[0])
            text = change(document)
            written = text if isinstance(text, str) else json.dumps(document)
            store.execute("UPDATE manifest SET document = ?", (written,))

    return tamper


def entry(**changes: Any) -> Tamper:
    """Other values in the benchmark's entry of the manifest."""
    return manifest(lambda document: document["benchmarks"][BENCHMARK].update(changes))


def candidates(**changes: Any) -> Tamper:
    """Other values in the manifest's record of the candidates."""
    return manifest(lambda document: document["benchmarks"][BENCHMARK]["candidates"].update(changes))


def index(**changes: Any) -> Tamper:
    def tamper(run: Path) -> None:
        document = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps({**document, **changes}))

    return tamper


def instead(name: str, make: Callable[[Path], object]) -> Tamper:
    """Another file in the place of this one."""

    def tamper(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        make(run / name)

    return tamper


def endless(path: Path) -> None:
    """A pipe that nobody writes to."""
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def many_benchmarks(document: dict[str, Any]) -> None:
    document["benchmarks"] |= {f"b{number}": document["benchmarks"][BENCHMARK] for number in range(200)}


FOREVER = "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n)"
QUERY = f"(SELECT min(query_id) FROM samples WHERE benchmark = '{BENCHMARK}')"
STORES: dict[str, Tamper] = {
    "a view without an end": sql(
        "DROP TABLE failures",
        f"CREATE VIEW failures AS {FOREVER} SELECT '{BENCHMARK}' benchmark, x query_id, x error FROM n",
    ),
    "a view in the place of samples": sql(
        "ALTER TABLE samples RENAME TO kept",
        f"CREATE VIEW samples AS {FOREVER} SELECT benchmark, query_id || x query_id, 1.0 service_s, 1 pairs, 0 warmup, "
        "'{}' counts, x rowid FROM kept, n",
    ),
    "a trigger": sql(
        f"CREATE TRIGGER t AFTER INSERT ON manifest BEGIN INSERT INTO preparations {FOREVER} SELECT x, x FROM n; END"
    ),
    "a generated column": sql(
        "DROP TABLE failures",
        "CREATE TABLE failures (benchmark TEXT, query_id TEXT, error TEXT AS (hex(zeroblob(400000000))))",
        f"INSERT INTO failures VALUES ('{BENCHMARK}', 'q')",
    ),
    "a virtual table": sql("CREATE VIRTUAL TABLE v USING fts5(x)"),
    "an index on an expression": sql("CREATE INDEX i ON scores (hex(doc_id))"),
    "another column": sql("ALTER TABLE oddities ADD COLUMN more"),
    "an infinite score": sql("UPDATE scores SET score = 9e999"),
    "a score that is text": sql("UPDATE scores SET score = 'high'"),
    "an id of bytes": sql("UPDATE scores SET doc_id = CAST(doc_id AS BLOB)"),
    "an id of a megabyte": sql("UPDATE scores SET doc_id = hex(zeroblob(500000)) WHERE rank = 1"),
    "an id of 5,000 characters": sql("UPDATE qrels SET doc_id = doc_id || hex(zeroblob(2500))"),
    "a huge grade": sql("UPDATE qrels SET grade = 1000000000000000"),
    "a grade that is text": sql("UPDATE qrels SET grade = 'good'"),
    "a time that is text": sql("UPDATE samples SET service_s = 'fast'"),
    "an infinite time": sql("UPDATE samples SET service_s = -9e999"),
    "counts nested deeply": sql("UPDATE samples SET counts = replace(hex(zeroblob(10000)), '0', '[')"),
    "a count of 20,000 digits": sql("UPDATE samples SET counts = '{\"tokens\": ' || hex(zeroblob(10000)) || '1}'"),
    "a count that is text": sql('UPDATE samples SET counts = \'{"tokens": "many"}\''),
    "100,001 candidates of one query": sql(
        rows={
            f"INSERT INTO scores VALUES ('{BENCHMARK}', {QUERY}, ?, ?, 0.5)": (
                (rank, f"d{rank}") for rank in range(1000, 101_001)
            )
        }
    ),
    "200,001 judged queries": sql(
        rows={f"INSERT INTO qrels VALUES ('{BENCHMARK}', ?, 'd', 1)": ((f"q{row}",) for row in range(200_001))}
    ),
    "100,001 preparations": sql(
        rows={"INSERT INTO preparations VALUES (?, 0.1)": ((f"b{row}",) for row in range(100_001))}
    ),
    "a manifest nested deeply": manifest(lambda document: '{"format": ' * 50_000),
    "a manifest of 17 MB": manifest(lambda document: document.update(more="x" * 17_000_000)),
    "200 more benchmarks": manifest(many_benchmarks),
    "a model's name of 100,000 characters": manifest(
        lambda document: document["description"].update(model="x" * 10**5)
    ),
    "options that are a list": manifest(lambda document: document.update(options=[1])),
    "warnings that are a number": entry(warnings=5),
    "a number of queries that is text": entry(queries="many"),
    "a recall that is text": candidates(recall="high"),
    "NaN in the manifest": candidates(recall=float("nan")),
    "a log that is a pipe": instead("fake/scores.sqlite-wal", endless),
    "a journal that is a device": instead("fake/scores.sqlite-journal", device),
}
INDEXES: dict[str, Tamper] = {
    "an index that is a pipe": instead("run.json", endless),
    "an index that is a device": instead("run.json", device),
    "an index nested deeply": instead("run.json", lambda path: path.write_text("[" * 100_000)),
    "an index of 5 MB": index(name="x" * 5_000_000),
    "a name of 5,000 characters": index(name="x" * 5_000),
    "a name that is a list": index(name=["x"]),
    "201 engines": index(engines=["fake", *(f"e{number}" for number in range(200))]),
    "101 measures": index(measures=[f"nDCG@{number}" for number in range(1, 102)]),
    "a cutoff of a thousand million": index(measures=["R@1000000000"]),
    "measures without nDCG@10": index(measures=["AP"]),
    "reasons that are lists": index(unavailable={"fake": ["x"]}),
    "1,001 merged runs": index(merged=[{"run": "x"}] * 1_001),
}
OTHERS: dict[str, Tamper] = {
    "a largest cutoff": index(measures=["nDCG@10", "nDCG@1000000", "R@1000000"]),
    "2,000 queries that nobody scored": sql(
        rows={f"INSERT INTO qrels VALUES ('{BENCHMARK}', ?, 'd', 1)": ((f"q{row}",) for row in range(2_000))}
    ),
    "a recording nested deeply": instead("fake/latency/server.jsonl", lambda path: path.write_text("[" * 10**5 + "\n")),
    "a recording that is a pipe": instead("fake/latency/offline.jsonl", endless),
}


@pytest.mark.parametrize("case", STORES)
def test_a_store_that_no_run_writes_is_refused_by_every_verb(case: str, run: Path) -> None:
    STORES[case](run)
    assert codes(run) == dict.fromkeys(verbs(run), REFUSED)


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_that_no_run_writes_is_refused_by_every_verb_that_reads_it(case: str, run: Path) -> None:
    INDEXES[case](run)
    ended = codes(run)
    assert {ended[verb] for verb in ("report", "merge", "export")} <= {WRONG_FOLDER, REFUSED}


@pytest.mark.parametrize("case", OTHERS)
def test_every_verb_ends_on_a_run_that_is_odd_or_large(case: str, run: Path) -> None:
    OTHERS[case](run)
    codes(run)


def test_an_untouched_run_is_read_by_every_verb(run: Path) -> None:
    """So that the other tests do not pass because everything is refused."""
    assert {verb: code for verb, code in codes(run).items() if verb in ("report", "merge", "export")} == {
        "report": 0,
        "merge": 0,
        "export": 0,
    }


def test_pages_that_refer_to_each_other_do_not_make_a_small_file_endless(run: Path) -> None:
    """Four levels of pages, each of which refers 31 times to the next, make some million rows of ten."""
    store = run / "fake/scores.sqlite"
    sql(f"DELETE FROM qrels WHERE query_id <> {QUERY}")(run)
    before = store.stat().st_size
    repeat_a_page(store, table="qrels", levels=6)
    assert store.stat().st_size < before + 2**20
    assert codes(run) == dict.fromkeys(verbs(run), REFUSED)
    assert "than its size allows" in (run.parent / "error.txt").read_text()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=40)), min_size=1, max_size=8))
@example(changes=[(3_599, b"\x80")])  # in the schema, which SQLite then quotes in a message that is not UTF-8
def test_a_store_with_any_bytes_overwritten_ends_in_a_report_or_one_line(
    run: Path, changes: list[tuple[int, bytes]]
) -> None:
    store = run / "fake/scores.sqlite"
    data = bytearray((RECORDED / "fake/scores.sqlite").read_bytes())
    for place, written in changes:
        start = place % len(data)
        data[start : start + len(written)] = written[: len(data) - start]
    store.write_bytes(data)
    arguments = verbs(run)["export"]
    shutil.rmtree(run.parent / "exported", ignore_errors=True)
    _child(arguments, run.parent / "error.txt")
