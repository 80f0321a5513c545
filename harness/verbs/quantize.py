"""crispbench quantize: an FP8 checkpoint, calibrated on the prompts of a benchmark as this harness would score them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engines.base import Pair
from engines.torch.export_fp8 import Calibration, ExportOptions, check_out, export_fp8
from harness import progress
from harness.benchmarks import load as load_benchmark
from harness.candidates.first_stage import FirstStage, retrieve
from harness.records import Benchmark, Candidates

__all__ = ["CalibrationPlan", "ExportOptions", "quantize"]

BENCHMARK = "stdlib-topics"
QUERIES = 128  # with four documents each: ModelOpt's own examples calibrate with 512 texts
DOCUMENTS = 4
FIRST_STAGE = FirstStage(k=30)


class CalibrationPlan(NamedTuple):
    """What to calibrate on."""

    benchmark: str = BENCHMARK
    queries: int = QUERIES


def quantize(options: ExportOptions, out: Path, asked: CalibrationPlan) -> dict[str, Any]:
    """Write the FP8 checkpoint of a model to the new folder `out`; returns its report.

    Raises BadOptions, BenchmarkError, EngineUnavailable or ScoringFailed, and then leaves nothing at `out`.
    """
    check_out(out)
    benchmark = _load(asked)
    candidates = retrieve(benchmark, FIRST_STAGE)
    calibration = Calibration(_pairs(benchmark, candidates), _source(benchmark, candidates))
    with progress.bar(f"calibrating on {benchmark.name}", len(calibration.pairs), "prompts") as done:
        report: dict[str, Any] = export_fp8(options, calibration, out, on_prompt=done)
    return report


def _load(asked: CalibrationPlan) -> Benchmark:
    """An embedded benchmark by its name, a BEIR folder by its path, or a task of mteb."""
    if asked.benchmark.startswith("stdlib-"):
        return load_benchmark("stdlib", {"name": asked.benchmark, "queries": asked.queries})
    if Path(asked.benchmark).is_dir():
        return load_benchmark("beir", {"path": asked.benchmark, "queries": asked.queries})
    return load_benchmark("mteb", {"name": asked.benchmark, "queries": asked.queries})


def _pairs(benchmark: Benchmark, candidates: Candidates) -> list[Pair]:
    """Of each query the first candidate, the last and some between: relevant and irrelevant ones."""
    return [
        Pair(benchmark.queries[query_id], benchmark.documents[doc_id])
        for query_id, doc_ids in candidates.lists.items()
        for doc_id in spread(doc_ids, DOCUMENTS)
    ]


def spread(items: Sequence[str], count: int) -> list[str]:
    """`count` items at even distances with the first and the last among them; all if there are not more."""
    if len(items) <= count:
        return list(items)
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]


def _source(benchmark: Benchmark, candidates: Candidates) -> dict[str, Any]:
    return {
        "benchmark": benchmark.name,
        "benchmark_revision": benchmark.revision,
        "queries": len(benchmark.queries),
        "candidates": f"{candidates.source}, {DOCUMENTS} spread over the best {candidates.k}",
        "candidates_sha256": candidates.sha256,
    }
