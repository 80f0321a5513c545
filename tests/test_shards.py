"""A run over Ray gives the same result as one process, even after kills. Tested against a real local cluster."""

import json
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.base import Description, EngineUnavailable
from harness.config import read_config
from harness.manifest import Machine
from harness.run import shards
from harness.run.loop import Identity
from harness.run.tasks import Selection, prepare

pytest.importorskip("ray", reason="the extra `ray` is not installed")

ROOT = Path(__file__).parents[1]
QUERIES = 40
PATIENCE_S = 120
Config = Callable[..., Path]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a head node with room for four workers; it is ended by its process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_AUTH_MODE", "token")
    patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray = str(Path(sys.executable).with_name("ray"))
    folder = Path("/tmp") / f"ray-{os.getpid()}"  # short: the paths of Ray's sockets may have 107 characters
    words = ["--head", f"--port={port}", "--num-cpus=4", "--include-dashboard=false"]
    with (tmp_path_factory.mktemp("ray") / "log").open("w") as log:
        head = subprocess.Popen(
            [ray, "start", *words, f"--temp-dir={folder}", "--block"],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not answers(port):
            assert head.poll() is None and time.monotonic() < deadline, Path(log.name).read_text()
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        patch.undo()
        for process_id in [head.pid, *descendants(head.pid)]:  # an orderly stop takes half a minute
            os.kill(process_id, signal.SIGKILL)
        head.wait()


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def command(beir: Callable[..., Path], config: Config) -> Callable[..., list[str]]:
    """`command(folder, options of the engine)`: a run of 40 queries with two workers."""
    documents = {f"d{number}": f"word{number} word{number % 7}" for number in range(60)}
    queries = {f"q{number}": f"word{number} word{number % 7}" for number in range(QUERIES)}
    path = beir("words", documents, queries, {f"q{number}": {f"d{number}": 1} for number in range(QUERIES)})

    def build(folder: Path, *words: str, **options: Any) -> list[str]:
        written = config(
            engines={"fake": {"kind": "fake", "noise": 0.2, **options}},
            benchmarks=[{"source": "beir", "path": str(path)}],
            candidates={"k": 8},
            ray={"workers": 2},
        )
        return [sys.executable, "-m", "harness", "run", str(written), "--out", str(folder), *words]

    return build


def ran(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)


def measures(folder: Path) -> bytes:
    return (folder / "fake/measures.json").read_bytes()


def committed(folder: Path, table: str = "samples") -> int:
    path = folder / "fake/scores.sqlite"
    if not path.is_file():
        return 0
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    except sqlite3.OperationalError:  # its first table does not exist yet
        return 0
    finally:
        connection.close()


def descendants(process_id: int, name: str = "") -> list[int]:
    """Process ids below a process, from /proc, whose command begins with `name`."""
    parents, process_ids = {process_id}, []
    rows = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            rows.append((int(path.name), int((path / "stat").read_text().rpartition(")")[2].split()[1]), path))
        except (OSError, ValueError, IndexError):
            continue
    for _ in range(5):
        parents |= {child for child, parent, _ in rows if parent in parents}
    for child, _, path in rows:
        if child in parents - {process_id}:
            try:
                process_ids += [child] if (path / "cmdline").read_bytes().startswith(name.encode()) else []
            except OSError:
                continue
    return process_ids


def workers(cluster: str) -> list[int]:
    """Process ids of the workers of this cluster, whose raylet has the cluster's port on its command line."""
    process_ids = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if b"raylet/raylet" in line and b":" + cluster.rpartition(":")[2].encode() in line:
            process_ids += descendants(int(path.name), "ray::Worker")
    return process_ids


def test_two_workers_give_the_measures_and_the_manifest_of_one_process(
    cluster: str, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert ran(command(alone)).returncode == 0
    answer = ran(command(shared, "--ray", cluster))
    assert answer.returncode == 0, answer.stderr
    assert measures(shared) == measures(alone)
    assert (shared / "fake/manifest.json").read_bytes() == (alone / "fake/manifest.json").read_bytes()
    record = json.loads((shared / "fake/workers.json").read_text())
    assert sum(worker["queries"] for worker in record["workers"]) == QUERIES


def test_both_workers_take_part_and_the_report_names_their_number(
    cluster: str, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    answer = ran(command(tmp_path / "run", "--ray", cluster, delay_s=0.02))
    assert answer.returncode == 0, answer.stderr
    record = json.loads((tmp_path / "run/fake/workers.json").read_text())
    assert len({worker["place"] for worker in record["workers"]}) == 2
    assert "2 workers" in (tmp_path / "run/report/report.md").read_text()


def test_a_killed_worker_loses_no_query_and_changes_no_digit(
    cluster: str, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert ran(command(alone, delay_s=0.1)).returncode == 0
    with subprocess.Popen(
        command(shared, "--ray", cluster, delay_s=0.1), cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as run:
        wait_for(lambda: committed(shared) > 0, run)
        os.kill(workers(cluster)[0], signal.SIGKILL)
        _, errors = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, errors
    assert "its queries are scored again" in errors
    assert measures(shared) == measures(alone)


def test_a_lost_node_loses_no_query_and_changes_no_digit(
    cluster: str, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    """A worker takes three of the head's four CPUs, so the second worker starts on the node that is lost."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert ran(command(alone, delay_s=0.2)).returncode == 0
    words = command(shared, "--ray", cluster, delay_s=0.2)
    config = Path(words[4])
    config.write_text(config.read_text().replace("workers: 2", "workers: 2\n  cpus: 3"))
    ray = str(Path(sys.executable).with_name("ray"))
    node = subprocess.Popen(
        [ray, "start", f"--address={cluster}", "--num-cpus=3", "--block"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as run:
            wait_for(lambda: bool(descendants(node.pid, "ray::Worker.score")), run)
            for process_id in [*descendants(node.pid), node.pid]:
                os.kill(process_id, signal.SIGKILL)
            _, errors = run.communicate(timeout=PATIENCE_S)
    finally:
        node.kill()
        node.wait()
    assert run.returncode == 0, errors
    assert "its queries are scored again" in errors
    assert measures(shared) == measures(alone)


def test_a_killed_driver_resumes_with_the_same_command(
    cluster: str, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert ran(command(alone, delay_s=0.1)).returncode == 0
    words = command(shared, "--ray", cluster, delay_s=0.1)
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as run:
        wait_for(lambda: committed(shared) > 0, run)
        run.kill()
    kept = committed(shared)
    assert 0 < kept < QUERIES
    answer = ran(words)
    assert answer.returncode == 0, answer.stderr
    assert measures(shared) == measures(alone)
    scored = json.loads((shared / "fake/workers.json").read_text())["workers"]
    assert sum(worker.get("queries", 0) for worker in scored) == QUERIES - kept


def test_a_query_that_kills_every_worker_fails_and_the_others_are_scored(
    cluster: str, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    answer = ran(command(tmp_path / "run", "--ray", cluster, die_on="word13 "))
    assert answer.returncode == 5, answer.stderr
    assert committed(tmp_path / "run") == QUERIES - 1, answer.stderr
    assert committed(tmp_path / "run", "failures") == 1
    assert "3 workers died" in (tmp_path / "run/report/report.md").read_text()


def test_a_query_that_cannot_be_scored_fails_as_in_one_process(
    cluster: str, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert ran(command(alone, fail_on="word13 ")).returncode == 5
    assert ran(command(shared, "--ray", cluster, fail_on="word13 ")).returncode == 5
    assert measures(shared) == measures(alone)


def test_a_missing_cluster_is_reported_in_one_line(command: Callable[..., list[str]], tmp_path: Path) -> None:
    answer = ran(command(tmp_path / "run", "--ray", "nowhere"))
    assert answer.returncode == 5
    assert answer.stderr.count("\n") == 1 and "'nowhere' cannot be reached" in answer.stderr


def test_shards_hold_every_candidate_and_no_text_twice(command: Callable[..., list[str]], tmp_path: Path) -> None:
    path = Path(command(tmp_path / "run")[4])
    (task,) = prepare(read_config(path), Selection())
    seen: dict[str, list[str]] = {}
    for shard in shards.shards(task, list(task.candidates.lists), most=7):
        assert len(set(shard.documents)) == len(shard.documents)
        for query in shard.queries:
            seen[query.query_id] = [shard.documents[position] for position in query.positions]
    texts = task.benchmark.documents
    assert seen == {query: [texts[doc] for doc in docs] for query, docs in task.candidates.lists.items()}
    assert [len(shard.queries) for shard in shards.shards(task, seen, most=7)] == [7, 7, 7, 7, 7, 5]


def test_a_shard_that_lost_its_worker_is_split_into_its_queries() -> None:
    queries = [shards.Query("a", "one", [1, 0]), shards.Query("b", "two", [2])]
    shard = shards.Shard("benchmark", "english", queries, ["x", "y", "z"])
    first, second = shard.singles()
    assert (first.queries, first.documents, first.deaths) == ([shards.Query("a", "one", range(2))], ["y", "x"], 1)
    assert (second.queries, second.documents, second.deaths) == ([shards.Query("b", "two", range(1))], ["z"], 1)


def test_a_different_worker_is_reported_with_the_first_differing_field() -> None:
    machine = Machine("Linux", "A", "2", "24", "none", "none")
    first = Identity(Description(precision="bf16"), {"torch": "2.13"}, machine)
    assert shards.differing(first, first) == ""
    second = first._replace(machine=replace(machine, cpu="B"))
    assert shards.differing(first, second) == "machine.cpu = 'B', but the first worker has 'A'"


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'crispbench\[ray\]'"), shards.connected("local"):
        raise AssertionError("not reached")


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
