"""Whole runs against a server that dies, limits its clients or sends other numbers, as a user meets them."""

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.server import Call, Server

QUERIES = 5  # of the animals


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def run(
    server: Server, animals: Path, config: Callable[..., Path], crispbench: Callable[..., Any], tmp_path: Path
) -> Callable[..., Any]:
    """Runs the animals against the server into one folder, with these options of the engine."""

    def run(**options: Any) -> Any:
        entry = {"kind": "remote", "dialect": "jina", "url": server.url, "model": "served", **options}
        benchmarks = [{"source": "beir", "path": str(animals), "name": "animals"}]
        path = config(engines={"far": entry}, benchmarks=benchmarks, candidates={"k": 3})
        return crispbench("run", path, "--out", tmp_path / "out", "--json")

    return run


def missing(answer: Any) -> int:
    return len(json.loads(answer.out)["engines"]["far"]["benchmarks"]["animals"]["missing"])


def test_a_server_that_dies_is_given_up_and_the_same_command_scores_the_rest(
    run: Callable[..., Any], server: Server, tmp_path: Path
) -> None:
    def plan(call: Call) -> str | None:
        if len(server.posts) == 1:
            return None
        death = threading.Thread(target=server.die)  # the server waits for the thread that ends it
        death.start()
        death.join()
        return "reset"

    server.plan = plan
    options = {"retry_budget_s": 0.1}
    first = run(**options)
    assert (first.code, missing(first)) == (5, QUERIES - 1)
    (line,) = [line for line in first.err.splitlines() if "given up" in line]
    assert line.startswith("crispbench: engine far: given up after 3 queries in a row without scores")
    assert len(server.posts) == 2  # the query that was answered, and the one during which the server died
    server.plan = lambda call: None
    server.revive()
    second = run(**options)
    assert (second.code, missing(second)) == (0, 0)
    assert len(server.posts) == 2 + QUERIES - 1


@pytest.mark.parametrize(
    "changed",
    [
        {"retry_budget_s": 60, "timeout_s": 9, "attempts": 3},
        {"requests_per_minute": 6000, "api_key_env": "CRISPBENCH_TEST_KEY"},
    ],
)
def test_a_run_goes_on_with_more_patience_or_another_key(
    changed: dict[str, Any], run: Callable[..., Any], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRISPBENCH_TEST_KEY", "a-key")
    posts = itertools.count(1)
    server.plan = lambda call: "400" if next(posts) == 2 else None
    assert run(retry_budget_s=30, batch_size=1).code == 5
    answered = len(server.posts)
    server.plan = lambda call: None
    assert run(batch_size=1, **changed).code == 0
    assert len(server.posts) == answered + 3  # the query that failed, and no other


def test_another_number_of_requests_at_a_time_does_not_go_on_with_a_run(run: Callable[..., Any]) -> None:
    assert run().code == 0
    refused = run(concurrency=1)
    assert refused.code == 4 and "options.concurrency was 'nothing' and is 1" in refused.err


def test_after_a_run_without_any_score_the_corrected_config_takes_its_place(
    run: Callable[..., Any], server: Server
) -> None:
    server.plan = lambda call: "raw logits"
    refused = run()
    assert (refused.code, missing(refused)) == (5, QUERIES)
    assert "set score_kind to logit" in refused.err
    corrected = run(score_kind="logit")
    assert (corrected.code, missing(corrected)) == (0, 0)


def test_only_the_first_query_is_refused_for_its_number_of_documents(
    run: Callable[..., Any], server: Server, tmp_path: Path
) -> None:
    server.max_inputs, server.names_limit = 2, True
    assert run(concurrency=1).code == 0
    sizes = [len(call.body["documents"]) for call in server.posts]
    assert sizes == [3, *[2, 1] * QUERIES]
    report = (tmp_path / "out/report/report.md").read_text(encoding="utf-8")
    assert "0 requests were repeated and 1 split; all of them for the warm-up query, which is in no latency" in report
