"""`crispbench quantize`: an FP8 checkpoint, calibrated on prompts of a benchmark as this harness would score them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.base import Pair
from engines.torch.export_fp8 import Calibration, ExportOptions, check_out, export_fp8, preflight
from harness import progress
from harness.benchmarks import load as load_benchmark
from harness.benchmarks import stdlib
from harness.candidates.first_stage import retrieve
from harness.candidates.stages import BM25Stage
from harness.outcome import Outcome
from harness.records import Benchmark, Candidates

DOCUMENTS = 4  # documents per query
FIRST_STAGE = BM25Stage(k=30)


@dataclass(frozen=True)
class QuantizeOptions:
    """The prompts on which a checkpoint is calibrated."""

    benchmark: str = "stdlib-topics"  # an embedded benchmark, a BEIR folder or a task of mteb
    queries: int = 128  # times DOCUMENTS is 512 prompts, as many as ModelOpt's own examples use
    template: str = "mxbai-v2-seq"  # name or YAML file of the prompt with which the checkpoint will be used
    max_tokens: int | None = None  # limit of the whole prompt, cut to fit; None: the template's
    revision: str | None = None  # revision of a model on the hub


@dataclass(frozen=True)
class QuantizeResult:
    """The new checkpoint."""

    folder: Path
    calibration: Mapping[str, Any]  # content of its quantization_report.json

    @property
    def outcome(self) -> Outcome:
        return Outcome.PASS

    def document(self) -> dict[str, Any]:
        return {"checkpoint": str(self.folder), **self.calibration}

    def lines(self) -> list[str]:
        calibrated, layers = self.calibration["calibration"], self.calibration["weight_scale"]["count"]
        prompts = f"{calibrated['prompts']} prompts of {calibrated['benchmark']}"
        return [f"{self.folder}: {layers} layers in FP8, calibrated on {prompts}"]


def quantize(model: str, options: QuantizeOptions, *, out: Path) -> QuantizeResult:
    """Write the FP8 checkpoint of a model to the new folder `out`. The model is a folder or a name on the hub.

    Raises BadOptions, BenchmarkError, EngineUnavailable or ScoringFailed; `out` does not exist after an error.
    """
    check_out(out)
    export = ExportOptions(
        model=model, revision=options.revision, template=options.template, max_tokens=options.max_tokens
    )
    preflight(export)
    benchmark = _load(options)
    candidates = retrieve(benchmark, FIRST_STAGE)
    calibration = Calibration(_pairs(benchmark, candidates), _source(benchmark, candidates))
    with progress.bar(f"calibrating on {benchmark.name}", len(calibration.pairs), "prompts") as done:
        return QuantizeResult(out, export_fp8(export, calibration, out, on_prompt=done))


def _load(options: QuantizeOptions) -> Benchmark:
    """An embedded benchmark by its name, a BEIR folder by its path, or a task of mteb."""
    if options.benchmark in stdlib.NAMES:
        return load_benchmark("stdlib", {"name": options.benchmark, "queries": options.queries})
    if Path(options.benchmark).is_dir():
        return load_benchmark("beir", {"path": options.benchmark, "queries": options.queries})
    return load_benchmark("mteb", {"name": options.benchmark, "queries": options.queries})


def _pairs(benchmark: Benchmark, candidates: Candidates) -> list[Pair]:
    """The first and last candidates of every query and some between, so that relevant and irrelevant ones occur."""
    return [
        Pair(benchmark.queries[query_id], benchmark.documents[doc_id])
        for query_id, doc_ids in candidates.lists.items()
        for doc_id in spread(doc_ids, DOCUMENTS)
    ]


def spread(items: Sequence[str], count: int) -> list[str]:
    """`count` items at even distances, including the first and the last; all items if there are fewer."""
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
