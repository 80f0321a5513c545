"""A sweep and a search over real HTTP, from config to files; unsuitable engines are refused before loading."""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.config import ConfigError, read_config
from harness.figures.percentiles import estimates
from harness.latency.load import Timing
from harness.latency.page import load_curve
from harness.latency.page.load_curve import Searched
from harness.latency.recording import read
from harness.latency.search import Probe, RateFound
from harness.latency.summary import Summary
from harness.latency.verb import LatencyOptions, LatencyResult, latency
from harness.outcome import Outcome
from tests.engines.server import Call, Server
from tests.test_latency_report import measured

ROOT = Path(__file__).parents[1]


class Slots:
    """Counts the requests that are open in a server at the same time."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self._turn = threading.Lock()

    def __call__(self, call: Call) -> None:
        with self._turn:
            self.inside += 1
            self.most = max(self.most, self.inside)
        threading.Event().wait(0.01)
        with self._turn:
            self.inside -= 1


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def config_for(animals: Path, config: Callable[..., Path], server: Server) -> Callable[..., Path]:
    def write(engines: Mapping[str, Any] | None = None, **settings: Any) -> Path:
        api = {"kind": "remote", "dialect": "cohere", "url": server.url, "model": "m", "concurrency": 32}
        return config(
            engines=engines or {"api": api},
            benchmarks=[{"source": "beir", "path": str(animals)}],
            candidates={"k": 3},
            latency={"min_duration_s": 0, "warmup": 1, "queries": 40, **settings},
        )

    return write


def measure(path: Path, out: Path, options: LatencyOptions = LatencyOptions()) -> tuple[LatencyResult, list[str]]:  # noqa: B008
    messages: list[str] = []
    return latency(path, options, out=out, say=messages.append), messages


def test_a_sweep_keeps_the_given_number_of_requests_open_at_every_level(
    config_for: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    server.plan = slots = Slots()
    (tmp_path / "run/api/latency").mkdir(parents=True)
    (tmp_path / "run/api/latency/sweep-64.jsonl").write_text("an earlier sweep")
    outcome, _ = measure(config_for(scenario="sweep", sweep=[1, 4, 1]), tmp_path / "run")
    folder = tmp_path / "run/api/latency"
    assert sorted(path.name for path in folder.glob("*.jsonl")) == ["sweep-1.jsonl", "sweep-4.jsonl"]
    assert slots.most == 4
    assert outcome.document()["engines"]["api"].keys() == {"sweep-1", "sweep-4"}
    rates: list[float] = []
    for level in (1, 4):
        recorded = read(folder / f"sweep-{level}.jsonl")
        assert len(recorded.timings) == 40 and all(timing.error is None for timing in recorded.timings)
        assert (recorded.header.part_of, recorded.header.settings.workers) == ("sweep", level)
        overlapping = max(
            sum(open_one.sent_s <= timing.sent_s < open_one.done_s for open_one in recorded.timings)
            for timing in recorded.timings
        )
        assert overlapping == level
        rates.append(load_curve.level(outcome.summaries[len(rates)]).requests_per_s or 0)
    assert [summary.pairs_per_s for summary in outcome.summaries] == pytest.approx([3 * rate for rate in rates])
    page = (tmp_path / "run/report/latency/latency.md").read_text()
    assert "| api | 4 | 40 |" in page and "(load.png)" in page and "| api | sweep" not in page
    assert rates[0] < 100 and rates[1] > rates[0]  # every request takes at least 10 ms


def test_a_search_records_every_probe_and_claims_no_rate_without_evidence(
    config_for: Callable[..., Path], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.latency.search.LEAST", 30)
    path = config_for(scenario="search", rate=60, workers=16, slo_ms=5000, search={"probes": 2}, queries=30)
    outcome, messages = measure(path, tmp_path / "run")
    folder = tmp_path / "run/api/latency"
    probes = [read(path) for path in sorted(folder.glob("search-*.jsonl"))]
    assert (probes[0].header.part_of, probes[0].header.scenario) == ("search", "server")
    assert probes[0].header.settings.rate == 60
    assert len(probes[0].timings) == 36  # 1.2 times the smallest number that can pass
    rate = outcome.rates["api"]
    assert rate.rate is None  # 36 requests can never show a p99
    assert rate.outcome in ("inconclusive", "invalid") and outcome.outcome == rate.outcome
    assert outcome.document()["found"]["api"]["rate"] is None
    assert any("api: p99 within 5000 ms was not met at any rate" in line for line in messages)
    page = (tmp_path / "run/report/latency/latency.md").read_text()
    assert "api: p99 within 5000 ms was not met at any rate" in page and "| api | 60 | 36 |" in page


@pytest.mark.parametrize("scenario", ["sweep", "search"])
def test_a_serial_engine_is_refused(
    config_for: Callable[..., Path], tmp_path: Path, scenario: str, crispbench: Callable[..., Any]
) -> None:
    path = config_for({"fake": {"kind": "fake"}}, scenario=["single-stream", scenario], slo_ms=100)
    answer = crispbench("latency", path, "--out", tmp_path / "run")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert f"'fake' (kind 'fake') takes one call at a time, so a {scenario} would measure only its queue" in answer.err
    assert not (tmp_path / "run").exists()


def test_missing_settings_of_a_search_or_a_sweep_are_reported_before_anything_is_loaded(
    config_for: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"search needs latency\.slo_ms, the time limit"):
        measure(config_for(scenario="search"), tmp_path / "run")
    with pytest.raises(
        ConfigError, match=r"engine 'api' has concurrency = 32, but the largest of latency\.sweep is 64"
    ):
        measure(config_for(scenario="sweep", sweep=[1, 64]), tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sweep": []}, "latency.sweep = "),
        ({"sweep": [0]}, "latency.sweep.0 = 0: input should be greater than 0"),
        (
            {"search": {"widht": 0.1}},
            "unknown option 'latency.search.widht'; did you mean 'width'? expected one of longest",
        ),
        (
            {"price_per_hour": {"ap": 1.2}},
            "latency.price_per_hour names engine 'ap'; did you mean 'api'? expected one of api",
        ),
        ({"price_per_hour": -1}, "= -1: input should be greater than 0"),
        ({"processes": 0}, "latency.processes = 0"),
    ],
)
def test_a_wrong_setting_is_named(config_for: Callable[..., Path], settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_config(config_for(**settings))
    assert message in str(error.value)


def test_a_measurement_with_a_killed_process_is_invalid_and_names_it(
    config_for: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    def kill(call: Call) -> None:
        if len(server.posts) == 30:
            victims = [child for child in multiprocessing.active_children() if child.name == "load process 1 of 2"]
            os.kill(victims[0].pid or 0, signal.SIGKILL)

    server.plan = kill
    path = config_for(scenario="server", rate=40, workers=8, processes=2, queries=4000, price_per_hour=1.5)
    outcome, messages = measure(path, tmp_path / "run")
    (summary,) = outcome.summaries
    assert outcome.outcome == "invalid" and len(summary.header.warmup) == 1
    assert summary.causes[0] == "load process 1 of 2 was killed by signal 9"
    assert any("load process 1 of 2 was killed by signal 9" in line for line in messages)
    document = json.loads((tmp_path / "run/api/latency/server.json").read_text())
    assert document["verdict"] == "INVALID" and 20 <= document["answered"] < 4000  # the answers so far are kept
    assert (document["settings"]["processes"], document["settings"]["price_per_hour"]) == (2, 1.5)


def swept(workers: int, seconds: float, engine: str = "api") -> Summary:
    """40 answers, evenly spaced over `seconds` from the first to the last; neighbours differ by 2 ms."""
    summary = measured(engine, "sweep", 40, part_of="sweep", settings={"workers": workers}).summary
    at_s = [n * seconds / 39 for n in range(40)]
    took_s = [0.1 * workers + (0.001 if n % 2 else -0.001) for n in range(40)]
    answers = tuple(
        Timing(f"q{n}", done - took, done - took, done, 10, None)
        for n, (done, took) in enumerate(zip(at_s, took_s, strict=True))
    )
    return replace(summary, answered=answers, response=estimates(took_s))


def test_throughput_is_computed_from_the_gaps_between_answers() -> None:
    level = load_curve.level(swept(4, seconds=3.9))
    assert level.under_way == 4
    assert level.requests_per_s == pytest.approx(10)
    assert level.pairs_per_s == pytest.approx(100)


def test_the_tables_show_every_level_and_every_probed_rate() -> None:
    quality = {"value": 0.35124, "lo": 0.3, "hi": 0.4}
    searched = Searched(
        "api",
        "NFCorpus",
        250,
        [Probe(8, 800, Outcome.PASS), Probe(16, 800, Outcome.FAIL)],
        RateFound(8, 16, Outcome.INCONCLUSIVE, "why"),
    )
    levels, rates = load_curve.sections([(swept(1, 39.0), quality), (swept(8, 7.8), None)], [searched])
    lines = [[cell.text for cell in line] for line in levels.table.cells]
    assert [line[:5] for line in lines] == [["api", "1", "40", "1.00", "10.0"], ["api", "8", "40", "5.00", "50.0"]]
    assert lines[0][5] == "99.0 ms [99.0 ms, 101 ms]" and lines[0][8].startswith("- n_eff")
    assert [line[-2] for line in lines] == ["0.3512", "-"]
    assert "api has the highest throughput of these, 5.00 requests/s with 8 under way." in levels.sentence
    assert [[cell.text for cell in line] for line in rates.table.cells] == [
        ["api", "8", "800", "pass"],
        ["api", "16", "800", "fail"],
    ]
    assert rates.sentence == "api: p99 within 250 ms was met up to 8/s (inconclusive: why)."
    assert list(load_curve.sections([], [])) == []


def test_the_load_curve_is_drawn_and_reproducible() -> None:
    quality = {"value": 0.35124, "lo": 0.3, "hi": 0.4}
    made = [
        (swept(1, 39.0), quality),
        (swept(8, 7.8), quality),
        (swept(1, 50.0, "b"), None),
        (swept(8, 9.0, "b"), None),
    ]
    (plot,) = load_curve.draw(made)
    assert plot.name == "load" and b"<svg" in plot.svg and plot.png[:4] == b"\x89PNG"
    assert load_curve.draw(made)[0].svg == plot.svg  # equal figures give equal bytes
    assert load_curve.draw([]) == []


def test_levels_are_parts_of_a_sweep_and_scenarios_are_not() -> None:
    assert load_curve.is_part(swept(1, 39.0))
    assert not load_curve.is_part(measured("api", "server", name="server").summary)
