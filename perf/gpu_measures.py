"""One arm of perf/gpu.py: an engine with one set of options, its times, and its scores against those of another arm."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from engines import Engine, Pair, load
from engines.base import Ceiling
from perf.gpu_texts import TextPlan

Scores = Sequence[Sequence[float]]  # [queries][documents]
WARM_UPS = 2  # calls before the clock starts
SMALL = 10  # documents in a small query, where kernel launches may cost more than the arithmetic


class GpuArm(NamedTuple):
    size: str
    name: str
    options: Mapping[str, Any]  # of the engine
    queries: int  # largest number; few for an arm whose scores alone matter

    @property
    def precision(self) -> str:
        return str(self.options["precision"])


class Figures(NamedTuple):
    """Speed of one arm. A figure that the device cannot report is None."""

    size: str
    arm: str
    kernels: str
    queries: int
    pairs: int
    tokens_per_pair: float
    load_s: float
    p50_s: float  # single stream: one query with its documents at a time
    p95_s: float | None  # None: fewer than 20 queries
    small_p50_s: float  # single stream with 10 documents
    pairs_per_s: float  # offline: all queries in one call
    tokens_per_s: float
    useful_flops_per_s: float  # operations that the pairs need one by one
    computed_flops_per_s: float
    mfu: float | None  # computed operations as a share of the ceiling in this precision
    single_stream_mfu: float | None
    watts: float | None
    joules_per_pair: float | None
    peak_gib: float | None


class Result(NamedTuple):
    figures: Figures
    scores: list[list[float]]
    description: Mapping[str, str]
    seconds: list[float]  # raw time of every single-stream query


class Ceilings:
    """The machine's ceiling by model size and precision. Each one is measured once."""

    def __init__(self) -> None:
        self.measured: dict[str, Ceiling | None] = {}

    def of(self, arm: GpuArm, engine: Engine) -> Ceiling | None:
        key = f"{arm.size} {arm.precision}"
        if key not in self.measured:
            self.measured[key] = engine.ceiling()
        return self.measured[key]


def measure(arm: GpuArm, plans: Sequence[TextPlan], ceilings: Ceilings, meter: "Meter") -> Result:
    """Time an arm: single stream first, then all queries at once."""
    queries = [[Pair(plan.query, document) for document in plan.documents] for plan in plans[: arm.queries]]
    meter.reset_peak()
    started_s = time.perf_counter()
    with load("torch", arm.options) as engine:
        engine.prepare(list({pair.document for pairs in queries for pair in pairs}), analysis="english")
        load_s = time.perf_counter() - started_s
        ceiling = ceilings.of(arm, engine)
        for pairs in [*(pairs[:SMALL] for pairs in queries), *[queries[0]] * WARM_UPS, queries[-1]]:
            engine.score(pairs)  # every small query too: each may need a graph that is not captured yet
        small = [_timed(lambda: engine.score(pairs[:SMALL])) for pairs in queries]  # noqa: B023  # called at once
        before = engine.counts()
        scores, seconds = [], []
        for pairs in queries:
            began_s = time.perf_counter()
            scores.append(engine.score(pairs))
            seconds.append(time.perf_counter() - began_s)
        counts = engine.counts() - before
        everything = [pair for pairs in queries for pair in pairs]
        joules = meter.joules()
        offline_s = _timed(lambda: engine.score(everything))
        spent_j = None if joules is None else (meter.joules() or 0.0) - joules
        description = engine.describe()
    peak = ceiling.flops_per_s if ceiling else None
    assert counts.tokens is not None and counts.flops is not None and counts.computed_flops is not None  # kind torch
    figures = Figures(
        size=arm.size,
        arm=arm.name,
        kernels=description.details.get("kernels", "packed"),
        queries=len(queries),
        pairs=len(everything),
        tokens_per_pair=counts.tokens / len(everything),
        load_s=load_s,
        p50_s=statistics.median(seconds),
        p95_s=statistics.quantiles(seconds, n=20)[-1] if len(seconds) >= 20 else None,
        small_p50_s=statistics.median(small),
        pairs_per_s=len(everything) / offline_s,
        tokens_per_s=counts.tokens / offline_s,
        useful_flops_per_s=counts.flops / offline_s,
        computed_flops_per_s=counts.computed_flops / offline_s,
        mfu=counts.computed_flops / offline_s / peak if peak else None,
        single_stream_mfu=counts.computed_flops / sum(seconds) / peak if peak else None,
        watts=None if spent_j is None else spent_j / offline_s,
        joules_per_pair=None if spent_j is None else spent_j / len(everything),
        peak_gib=meter.peak_gib(),
    )
    return Result(figures, scores, description.document(), seconds)


def _timed(work: Callable[[], object]) -> float:
    """Seconds of one call. `Engine.score` returns numbers, so no work is left on the device when it returns."""
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


class Meter:
    """Energy and memory of a CUDA device; None on another device, or where the driver does not report them."""

    def __init__(self, device: str) -> None:
        self._cuda = device.startswith("cuda")
        self._handle: Any = None
        if self._cuda:
            try:
                import pynvml

                pynvml.nvmlInit()
                self._nvml: Any = pynvml
                self._handle = pynvml.nvmlDeviceGetHandleByIndex(0)
                pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
            except Exception as error:  # NVMLError cannot be named where the package is missing
                print(f"energy is not measured ({error}): install nvidia-ml-py", flush=True)
                self._handle = None

    def joules(self) -> float | None:
        """Energy in joules since the driver was loaded."""
        if self._handle is None:
            return None
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000

    def reset_peak(self) -> None:
        if self._cuda:
            import torch

            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        if not self._cuda:
            return None
        import torch

        return torch.cuda.max_memory_allocated() / 2**30


class ScoreAgreement(NamedTuple):
    """Scores of one arm against those of another over the same pairs."""

    arm: str
    reference: str
    queries: int
    largest_difference: float
    spread: float  # standard deviation of the reference's scores, the scale of a difference
    tau: float  # Kendall's tau-a, mean over queries


def agreement(arm: str, scores: Scores, reference: str, other: Scores) -> ScoreAgreement:
    """Compare two arms over the queries that both have scored."""
    both = list(zip(scores, other, strict=False))
    ours, theirs = (np.concatenate([np.asarray(pair[side]) for pair in both]) for side in (0, 1))
    taus = [tau(first, second) for first, second in both]
    return ScoreAgreement(
        arm, reference, len(both), float(abs(ours - theirs).max()), float(theirs.std()), float(np.mean(taus))
    )


def tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's tau-a: concordant minus discordant pairs, over all pairs; a tie counts as neither."""
    a, b = (np.sign(np.subtract.outer(np.asarray(values), np.asarray(values))) for values in (first, second))
    count = len(first)
    return float((a * b).sum() / (count * (count - 1)))
