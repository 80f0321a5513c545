"""RUN/ENGINE folders with scores of the fake engine and with latency recordings of known times."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from harness.config import read_config
from harness.latency.load import Timing
from harness.latency.recording import Recorder
from harness.run.loop import score_engine
from harness.run.tasks import Selection, prepare
from tests import recordings
from tests.conftest import write_beir
from tests.recordings import MACHINE as MACHINE

REQUESTS = 80  # enough for p50 and p95, too few for p99
PAIRS = 10
SETTINGS = {
    "queries": REQUESTS, "warmup": 10, "seed": 0, "rate": 5.0, "arrivals": "poisson", "workers": 8,
    "slo_ms": None, "min_duration_s": 0.1,
}  # fmt: skip
WORDS = [f"{first}{second}" for first in "bcdfghjklm" for second in ("a", "e", "i", "o", "u", "ay")]  # 60
ENGINES = {
    "good": {"kind": "fake"},
    "again": {"kind": "fake"},
    "wild": {"kind": "fake", "noise": 9.0},
    "failing": {"kind": "fake", "fail_on": "bay"},
}


def score(folder: Path) -> Path:
    """Writes data, `config.yaml` and the run `r` of 60 queries with all engines. Returns the folder."""
    data = write_beir(
        folder / "words",
        {f"d-{word}": f"a {word} thing" for word in WORDS},
        {f"q-{word}": f"thing {word}" for word in WORDS},
        {f"q-{word}": {f"d-{word}": 1} for word in WORDS},
    )
    entries = {
        "name": "r",
        "engines": ENGINES,
        "benchmarks": [{"source": "beir", "path": str(data)}],
        "candidates": {"k": 9},
        "latency": {"scenario": "single-stream", "queries": 40, "warmup": 2, "min_duration_s": 0.0},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(entries), encoding="utf-8")
    config = read_config(folder / "config.yaml")
    tasks = prepare(config, Selection())
    for name, entry in config.engines.items():
        score_engine(name, entry, tasks, folder / "r" / name, fresh=False)
    return folder


def record(
    folder: Path, seconds: float, scenario: str = "single-stream", *, requests: int = REQUESTS, **header: Any
) -> Path:
    """One launch whose requests take 0.9 to 1.1 times `seconds` in uncorrelated order; p50 is `seconds`."""
    whole = {
        "options": {"model": "m"},
        "description": {"model": "m", "precision": "bf16", "template": "t", "template_sha256": "a" * 64},
        "benchmark": "words",
        "name": scenario,
        "scenario": scenario,
        "settings": SETTINGS,
        "distinct_queries": requests,
        **header,
    }
    with Recorder(folder / "latency" / f"{scenario}.jsonl", recordings.header(**whole)) as recorder:
        for timing in timings(seconds, requests, scenario):
            recorder.add(timing)
        recorder.end(recordings.end())
    return folder


def timings(seconds: float, requests: int, scenario: str) -> list[Timing]:
    if scenario == "offline":
        return [Timing("", 0.0, 0.0, seconds * requests, PAIRS * requests, None)]
    ranks = np.random.default_rng(0).permutation(requests)
    services = seconds * (0.9 + 0.2 * (ranks + 1) / requests)
    return [
        Timing(f"q{number}", number * 10.0, number * 10.0, number * 10.0 + float(service), PAIRS, None)
        for number, service in enumerate(services)
    ]


def record_launches(folder: Path, seconds: Sequence[float], **header: Any) -> list[Path]:
    """Records one folder per launch."""
    return [record(folder / str(number) / "e", one_s, **header) for number, one_s in enumerate(seconds, start=1)]


def changed(document: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    return {**document, **fields}
