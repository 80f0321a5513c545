"""`crispbench latency` from config to files, with real engines; the machine need not be quiet."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from engines import BadOptions, EngineUnavailable
from harness.config import ConfigError, Latency, read_config
from harness.latency import verb
from harness.latency.recording import read
from harness.latency.scenarios import measured_requests, ordered, warmup_requests
from harness.latency.summary import summarise
from harness.latency.verb import LatencyOptions, LatencyResult
from harness.outcome import Outcome
from harness.run.tasks import Selection, prepare

ROOT = Path(__file__).parents[1]


@pytest.fixture
def latency(animals: Path, config: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a config over the animals benchmark with these latency settings."""

    def write(engines: Mapping[str, Any] | None = None, **settings: Any) -> Path:
        return config(
            engines=engines or {"fake": {"kind": "fake"}},
            benchmarks=[{"source": "beir", "path": str(animals)}],
            candidates={"k": 3},
            latency={"min_duration_s": 0, "warmup": 2, **settings},
        )

    return write


def measure(path: Path, out: Path, options: LatencyOptions = LatencyOptions()) -> tuple[LatencyResult, list[str]]:  # noqa: B008
    messages: list[str] = []
    return verb.latency(path, options, out=out, say=messages.append), messages


def test_every_scenario_writes_raw_timings_and_a_summary(latency: Callable[..., Path], tmp_path: Path) -> None:
    path = latency(scenario=["single-stream", "server", "offline"], queries=40, rate=400)
    outcome, _ = measure(path, tmp_path / "run")
    folder = tmp_path / "run/fake/latency"
    assert sorted(file.name for file in folder.iterdir()) == [
        f"{scenario}.{kind}" for scenario in ("offline", "server", "single-stream") for kind in ("json", "jsonl")
    ]
    for scenario, answers in (("single-stream", 40), ("server", 40), ("offline", 1)):
        raw, document = read(folder / f"{scenario}.jsonl"), json.loads((folder / f"{scenario}.json").read_text())
        assert len(raw.timings) == answers and all(timing.error is None for timing in raw.timings)
        assert sum(timing.pairs for timing in raw.timings) == 40 * 3
        assert document == json.loads(json.dumps(summarise(raw).document()))
        assert (document["engine"], document["scenario"], document["benchmark"]) == ("fake", scenario, "animals")
        assert (document["distinct_queries"], document["settings"]["queries"]) == (5, 40)
        assert document["machine"]["cpu"] and document["end"]["telemetry"]["samples"] >= 1
        assert len(document["warmup"]) == 2
    assert outcome.document()["engines"]["fake"].keys() == {"single-stream", "server", "offline"}


def test_summaries_and_page_are_reproduced_from_the_raw_timings(latency: Callable[..., Path], tmp_path: Path) -> None:
    measure(latency(queries=40), tmp_path / "run")
    files = [tmp_path / "run" / name for name in ("fake/latency/single-stream.json", "report/latency/index.html")]
    before = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    verb.write_page(tmp_path / "run", ["fake"])
    assert [file.read_bytes() for file in files] == before


def test_the_page_keeps_the_order_of_the_config_and_a_fixed_order_of_scenarios(
    latency: Callable[..., Path], tmp_path: Path
) -> None:
    path = latency(
        {"z": {"kind": "fake"}, "a": {"kind": "fake"}}, scenario=["offline", "server", "single-stream"], rate=99
    )
    measure(path, tmp_path / "run")
    times, _, efficiency = (tmp_path / "run/report/latency/latency.md").read_text().partition(": efficiency")
    assert "| z |" in efficiency
    lines = [line.split(" | ")[:2] for line in times.splitlines() if line.startswith(("| z |", "| a |"))]
    assert [(name[2:], scenario) for name, scenario in lines if scenario != "service"] == [
        (name, scenario) for name in ("z", "a") for scenario in ("single-stream", "server", "offline")
    ]


def test_the_command_line_overrides_the_config(latency: Callable[..., Path], tmp_path: Path) -> None:
    path = latency({"a": {"kind": "fake"}, "b": {"kind": "fake"}}, scenario="server", queries=30, rate=500)
    outcome, _ = measure(path, tmp_path / "run", LatencyOptions(["b"], ["single-stream"]))
    assert [(summary.engine, summary.scenario) for summary in outcome.summaries] == [("b", "single-stream")]
    outcome, _ = measure(path, tmp_path / "run", LatencyOptions(["a"], slo_ms=50))
    (summary,) = outcome.summaries
    assert summary.objective is not None and summary.objective.slo_s == 0.05
    assert {file.parent.parent.name for file in (tmp_path / "run").glob("*/latency/*.json")} == {"a", "b"}


def test_an_unknown_scenario_is_refused_with_the_valid_ones(latency: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(BadOptions, match=r"latency: scenario\.0 = 'multi': input should be 'single-stream', 'server'"):
        measure(latency(), tmp_path / "run", LatencyOptions(scenarios=["multi"]))


def test_the_order_does_not_depend_on_the_order_of_the_first_stage(latency: Callable[..., Path]) -> None:
    (task,) = prepare(read_config(latency()), Selection())
    reversed_lists = dict(reversed(task.candidates.lists.items()))
    reordered = replace(task, candidates=replace(task.candidates, lists=reversed_lists))
    assert list(reversed_lists) != list(task.candidates.lists)
    assert ordered(reordered, Latency()) == ordered(task, Latency())


def test_the_order_depends_on_the_seed_and_warm_up_uses_its_end(latency: Callable[..., Path]) -> None:
    config = read_config(latency())
    (task,) = prepare(config, Selection())
    orders = {seed: [request.query_id for request in ordered(task, Latency(seed=seed))] for seed in range(20)}
    assert orders[3] == [request.query_id for request in ordered(task, Latency(seed=3))]
    assert len({tuple(order) for order in orders.values()}) > 10
    assert all(sorted(order) == sorted(task.candidates.lists) for order in orders.values())
    order = ordered(task, Latency())
    names = [request.query_id for request in order]
    measured = measured_requests(order, Latency(queries=7))
    assert [request.query_id for request in measured] == [*names, *names[:2]]
    assert measured_requests(order, Latency()) == order
    assert [request.query_id for request in warmup_requests(order, Latency(warmup=2))] == [names[-1], names[-2]]


def test_a_request_holds_a_query_and_its_unchanged_candidates(latency: Callable[..., Path]) -> None:
    (task,) = prepare(read_config(latency()), Selection())
    for query_id, pairs in ordered(task, Latency()):
        assert [pair.document for pair in pairs] == [
            task.benchmark.documents[d] for d in task.candidates.lists[query_id]
        ]
        assert {pair.query for pair in pairs} == {task.benchmark.queries[query_id]}


def test_an_engine_that_needs_a_corpus_is_measured(latency: Callable[..., Path], tmp_path: Path) -> None:
    outcome, _ = measure(latency({"bm25": {"kind": "bm25"}}, queries=30), tmp_path / "run")
    assert (len(outcome.summaries[0].answered), outcome.summaries[0].errors) == (30, 0)


def test_an_engine_that_cannot_be_loaded_is_named_and_the_others_are_measured(
    latency: Callable[..., Path], tmp_path: Path, moody: Any
) -> None:
    moody.missing_package = True
    path = latency({"moody": {"kind": "moody"}, "fake": {"kind": "fake"}}, queries=30)
    outcome, messages = measure(path, tmp_path / "run")
    assert [summary.engine for summary in outcome.summaries] == ["fake"]
    assert any("engine moody: moodypackage cannot be imported" in line for line in messages)
    assert outcome.outcome == "invalid" and "moody" in outcome.document()["unavailable"]
    with pytest.raises(EngineUnavailable, match="no engine could be measured"):
        measure(path, tmp_path / "run", LatencyOptions(["moody"]))


def test_a_failing_engine_is_invalid_and_its_error_is_reported(latency: Callable[..., Path], tmp_path: Path) -> None:
    outcome, messages = measure(latency({"fake": {"kind": "fake", "fail_on": "cat"}}, queries=40), tmp_path / "run")
    (summary,) = outcome.summaries
    assert (summary.verdict, summary.errors, outcome.outcome) == ("INVALID", 8, "invalid")
    assert any("8 of 40 requests failed" in line and "'animal cat'" in line for line in messages)


def test_an_unknown_benchmark_or_engine_is_an_error_before_anything_is_loaded(
    latency: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"'fkae' is not in the config; did you mean 'fake'"):
        measure(latency(), tmp_path / "run", LatencyOptions(["fkae"]))
    with pytest.raises(ConfigError, match=r"'plants' is not in the config; expected one of animals"):
        measure(latency(benchmark="plants"), tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scenario": "multi-stream"}, "latency.scenario.0 = 'multi-stream': input should be 'single-stream'"),
        ({"scenario": []}, "latency.scenario = "),
        ({"rate": 0}, "latency.rate = 0: input should be greater than 0"),
        ({"query": 5}, "unknown option 'latency.query'; did you mean 'queries'? expected one of arrivals"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_valid_ones(
    latency: Callable[..., Path], settings: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        read_config(latency(**settings))
    assert message in str(error.value)


def test_quality_is_shown_beside_latency_only_for_the_same_run(
    latency: Callable[..., Path], tmp_path: Path, crispbench: Callable[..., Any]
) -> None:
    path = latency(queries=30)
    assert crispbench("run", path, "--out", tmp_path / "run").code == 0
    outcome, _ = measure(path, tmp_path / "run")
    (summary,) = outcome.summaries
    quality = verb.quality(tmp_path / "run", summary)
    measures = json.loads((tmp_path / "run/fake/measures.json").read_text())["benchmarks"]["animals"]["measures"]
    assert quality is not None and quality == measures["nDCG@10"]
    assert f"{quality['value']:.4f}" in (tmp_path / "run/report/latency/latency.md").read_text()
    assert verb.quality(tmp_path, summary) is None  # a folder without a run
    entry = summary.header.benchmark_entry
    other_lists = replace(entry, candidates=replace(entry.candidates, sha256="of other candidates"))
    other_header = replace(summary.header, benchmark_entry=other_lists)
    assert verb.quality(tmp_path / "run", replace(summary, header=other_header)) is None
    noisy, _ = measure(latency({"fake": {"kind": "fake", "noise": 0.5}}, queries=30), tmp_path / "run")
    assert verb.quality(tmp_path / "run", noisy.summaries[0]) is None  # a different engine with the same name


@pytest.fixture
def reranker() -> Iterator[str]:
    """The address of a server that answers POST /v2/rerank as Cohere does, once two requests are open together."""
    together = threading.Barrier(2, timeout=60)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.reply({})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            together.wait()
            results = [{"index": index, "relevance_score": 1 / (index + 2)} for index in range(len(body["documents"]))]
            self.reply({"results": results})

        def reply(self, document: Any) -> None:
            data = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


def test_a_remote_engine_gets_concurrent_requests(latency: Callable[..., Path], tmp_path: Path, reranker: str) -> None:
    entry = {"kind": "remote", "dialect": "cohere", "url": reranker, "model": "m", "concurrency": 8}
    path = latency({"api": entry}, scenario="server", queries=40, rate=200, workers=8, warmup=0)
    outcome, _ = measure(path, tmp_path / "run")
    (summary,) = outcome.summaries
    assert (len(summary.answered), summary.errors) == (40, 0)
    assert summary.end is not None and summary.end.counts.retries == 0
    assert summary.unchecked == ("the server's machine",)


def test_an_engine_with_less_concurrency_than_workers_is_refused(latency: Callable[..., Path], tmp_path: Path) -> None:
    entry = {"kind": "remote", "dialect": "cohere", "url": "http://127.0.0.1:1", "model": "m", "concurrency": 4}
    with pytest.raises(ConfigError, match=r"engine 'api' has concurrency = 4, but latency\.workers is 8"):
        measure(latency({"api": entry}, scenario="server", workers=8), tmp_path / "run")


def test_a_killed_measurement_is_incomplete_and_the_next_one_starts_from_zero(
    latency: Callable[..., Path], tmp_path: Path
) -> None:
    path, out = latency({"fake": {"kind": "fake", "delay_s": 0.02}}, queries=2000), tmp_path / "run"
    raw = out / "fake/latency/single-stream.jsonl"
    code = (
        "import sys; from pathlib import Path; from harness.latency.verb import LatencyOptions, latency\n"
        "if __name__ == '__main__':\n"
        "    latency(Path(sys.argv[1]), LatencyOptions(), out=Path(sys.argv[2]), say=print)\n"
    )
    (tmp_path / "victim.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "victim.py"), str(path), str(out)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as victim:
        until_s = time.monotonic() + 120
        while not raw.exists() or len(raw.read_text().splitlines()) < 10:
            assert victim.poll() is None and time.monotonic() < until_s
            time.sleep(0.02)
        victim.send_signal(signal.SIGKILL)
    document = json.loads(raw.with_suffix(".json").read_text())
    assert document["verdict"] == "INCOMPLETE"  # the summary written at the start
    (summary,) = [summarise(read(raw))]
    assert summary.verdict == "INCOMPLETE" and "of 2000 answers; it cannot be resumed" in summary.causes[0]
    measure(latency(queries=30), out)
    assert len(read(raw).timings) == 30 and summarise(read(raw)).verdict != "INCOMPLETE"


def test_a_measurement_of_an_engine_that_is_gone_ends_early_and_is_invalid(
    latency: Callable[..., Path], tmp_path: Path, moody: Any
) -> None:
    moody.answers = {f"animal {word}": ZeroDivisionError("a bug") for word in ("cat", "dog", "bird", "fish", "worm")}
    outcome, _ = measure(latency({"moody": {"kind": "moody"}}, queries=3000, warmup=0), tmp_path / "run")
    (summary,) = outcome.summaries
    assert (summary.verdict, outcome.outcome) == ("INVALID", "invalid")
    assert any("3 of 3 requests failed" in cause and "ZeroDivisionError: a bug" in cause for cause in summary.causes)
    assert len(moody.queries) == 3


@pytest.mark.parametrize(
    ("verdicts", "objectives", "expected"),
    [
        (["VALID", "VALID"], [None, None], "pass"),
        (["VALID", "INVALID"], ["pass", "fail"], "invalid"),
        (["VALID", "INCOMPLETE"], [None, None], "invalid"),
        (["VALID", "VALID"], ["fail", "inconclusive"], "fail"),
        (["VALID", "VALID"], ["pass", "inconclusive"], "inconclusive"),
        (["VALID", "VALID"], [None, "pass"], "pass"),
    ],
)
def test_invalid_outranks_fail_and_fail_outranks_inconclusive(
    verdicts: list[str], objectives: list[str | None], expected: str
) -> None:
    from types import SimpleNamespace as Stub

    summaries: Any = [
        Stub(verdict=verdict, objective=objective and Stub(verdict=Outcome(objective)))
        for verdict, objective in zip(verdicts, objectives, strict=True)
    ]
    assert LatencyResult(Path("run"), summaries, (), {}).outcome == expected
