"""Records as `crispbench run` and `crispbench latency` write them; tests override single fields."""

from pathlib import Path
from typing import Any

from engines.base import Description
from harness.latency.recording import FORMAT, End, Header
from harness.manifest import BenchmarkRecord, CandidatesRecord, Machine, Manifest
from harness.records import Sample, Score
from harness.store import Store

MACHINE = {
    "system": "Linux x86_64", "cpu": "EPYC", "cores": "2", "memory_gib": "24", "gpu": "none", "gpu_driver": "none",
    "versions": {},
}  # fmt: skip
QUIET = {
    "load_average": [0.1, 0.1, 0.1],
    "memory_available_gib": 8.0,
    "busy_s": 100.0,
    "own_s": 1.0,
    "cpu_limited_s": 0.0,
    "heat_events": 0,
}
CANDIDATES = {
    "source": "bm25", "k": 10, "parameters": {}, "sha256": "ab" * 32, "recall": 0.9, "oracle": 0.8, "random": 0.2,
}  # fmt: skip
ENTRY = {
    "revision": "r1", "split": "test", "queries": 100, "documents": 1000, "analysis": "english", "remove_self": False,
    "warnings": [], "candidates": CANDIDATES,
}  # fmt: skip
SETTINGS = {"queries": 100, "min_duration_s": 5.0}
HEADER = {
    "format": FORMAT,
    "engine": "e",
    "kind": "torch",
    "options": {},
    "description": {},
    "concurrent": False,
    "ceiling": None,
    "benchmark": "b",
    "benchmark_entry": ENTRY,
    "name": "server",
    "scenario": "server",
    "part_of": None,
    "settings": SETTINGS,
    "distinct_queries": 100,
    "warmup": [],
    "machine": MACHINE,
    "before": QUIET,
    "started": "2026-11-25T08:00:00+00:00",
}
GPU = {
    "name": "H100",
    "sm_mhz": [1980.0, 1980.0],
    "sm_variation": 0.0,
    "memory_mhz": 2619.0,
    "power_w": 400.0,
    "temperature_c": 60.0,
    "slowed_by": [],
    "memory_peak_gib": 10.0,
    "energy_j": 8000.0,
}
TELEMETRY = {"samples": 100, "cpu_mhz": [3000.0, 3000.0], "gpus": []}
END = {
    "seconds": 10.0,
    "after": QUIET,
    "cores": 2,
    "others_cores": 0.0,
    "counts": {},
    "died": [],
    "telemetry": TELEMETRY,
}
MERGED = ("benchmark_entry", "candidates", "settings", "telemetry")  # parts that are merged field by field


def header(**changes: Any) -> Header:
    return Header.read(_changed(HEADER, changes))


def end(**changes: Any) -> End:
    return End.read(_changed(END, changes))


def entry(**changes: Any) -> BenchmarkRecord:
    return BenchmarkRecord.read(_changed(ENTRY, changes))


def candidates(**changes: Any) -> CandidatesRecord:
    return CandidatesRecord.read(CANDIDATES | changes)


def machine(**changes: str) -> Machine:
    return Machine.read(MACHINE | changes)


def warmup(error: str | None = None) -> dict[str, Any]:
    """The document of one request of the warm-up."""
    return {
        "query_id": "q", "scheduled_s": 0.0, "sent_s": 0.0, "done_s": 1.0, "pairs": 1, "tokens": None, "error": error
    }  # fmt: skip


def _changed(whole: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = {name: _changed(whole[name], changes[name]) for name in MERGED if name in changes}
    return whole | changes | merged


BEST_FIRST, BEST_SECOND = (3.0, 2.0, 1.0), (2.0, 3.0, 1.0)  # nDCG@10 is 1 and 1 / log2(3) = 0.6309


def write(folder: Path, lost: int = 0, **changes: Any) -> Path:
    """Write a RUN/ENGINE folder: queries have the documents a (relevant), b and c; `lost` queries rank b first."""
    fields = {"queries": 60, "scored": None, "benchmarks": ("small",), "entry": {}, "description": {}}
    fields |= {"shift": 0.0, "kind": "torch", **changes}
    stated = {"model": "m", "score_kind": "logit_diff"} if fields["kind"] == "torch" else {"model": "m"}
    queries, benchmarks = fields["queries"], fields["benchmarks"]
    manifest = Manifest(
        engine=folder.name,
        kind=fields["kind"],
        options={},
        description=Description.read({**stated, **fields["description"]}),
        versions={"numpy": "2"},
        machine=machine(),
        benchmarks=dict.fromkeys(benchmarks, entry(**{"queries": queries, **fields["entry"]})),
    )
    with Store.open(folder, manifest) as store:
        for benchmark in benchmarks:
            store.save_qrels(benchmark, {f"q{number:03}": {"a": 1, "b": 0} for number in range(queries)})
            for number in range(fields["scored"] or queries):
                values = BEST_SECOND if number < lost else BEST_FIRST
                ranked = zip("abc", (1, 2, 3), values, strict=True)
                scores = [Score(doc, rank, value + fields["shift"]) for doc, rank, value in ranked]
                store.commit(benchmark, Sample(f"q{number:03}", 0.01, 3, False), scores)
    return folder
