"""The times of one launch, as a check compares them: of a recording, or of a run that scored each query once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness.ab.records import Metric
from harness.figures import percentiles
from harness.figures.percentiles import Estimate, estimates
from harness.latency import summary
from harness.latency.recording import Header
from harness.manifest import Manifest
from harness.records import Sample
from harness.run.folder import WORKERS
from harness.store import Store

PERCENTILES: tuple[Metric, ...] = ("p50", "p95", "p99")


class LaunchTime(NamedTuple):
    """A percentile of the time of a request, or the mean time of a pair."""

    seconds: float | None
    reason: str = ""  # reason for a time that is None


@dataclass(frozen=True)
class TimedLaunch:
    """One launch of an engine. Launches are compared if their work and their machines are equal."""

    source: Header | Manifest  # the record that identifies the engine
    work: Mapping[str, Any]  # what was timed
    machine: Mapping[str, Any]  # as `harness.machine.record` returns it; a run records fewer fields
    times: Mapping[Metric, LaunchTime]
    invalid: str = ""  # reason why these times cannot be used


def of_recording(path: Path) -> TimedLaunch:
    """The launch that a recording of `crispbench latency` holds. Raises StoreError."""
    recorded = summary.read(path)
    header, settings = recorded.header, recorded.header.settings
    open_loop = {"rate": settings.rate, "arrivals": settings.arrivals, "workers": settings.workers}
    causes = "; ".join(recorded.causes)
    return TimedLaunch(
        source=header,
        work={
            "benchmark": header.benchmark,
            **header.benchmark_entry.decisive,
            "queries": header.requests,
            "warmup": settings.warmup,
            "seed": settings.seed,
            **(open_loop if header.scenario == "server" else {}),
        },
        machine=header.machine,
        times=_times(recorded.response, recorded.pairs_per_s),
        invalid="" if recorded.verdict == "VALID" else f"a recording is {recorded.verdict}: {causes}",
    )


def of_run(folder: Path) -> dict[str, TimedLaunch]:
    """The launch of every benchmark that a RUN/ENGINE folder has scored. Raises StoreError.

    A run scores each query once, one at a time, after a warm-up query. It records the machine, but not what else the
    machine did.
    """
    with Store.read(folder) as store:
        manifest = store.manifest()
        return {} if manifest is None else {name: _scored(store, manifest, name, folder) for name in store.benchmarks()}


def _scored(store: Store, manifest: Manifest, benchmark: str, folder: Path) -> TimedLaunch:
    samples = store.samples(benchmark)
    counted = percentiles.measured(samples)
    unscored = len(store.qrels(benchmark).keys() - {sample.query_id for sample in samples})
    return TimedLaunch(
        source=manifest,
        work={"benchmark": benchmark, **manifest.benchmarks[benchmark].decisive, "queries": len(counted)},
        machine={**manifest.machine.document(), "versions": dict(manifest.versions)},
        times=_times(estimates([sample.service_s for sample in counted]), percentiles.throughput(counted)),
        invalid=_not_one_launch(samples, manifest, unscored, over_ray=(folder / WORKERS).is_file()),
    )


def _not_one_launch(samples: Sequence[Sample], manifest: Manifest, unscored: int, *, over_ray: bool) -> str:
    """The reason why the times of a run are not those of one process that scored every query; empty if they are."""
    if manifest.machines:
        return "the run was merged from different machines"
    if over_ray:
        return "workers of Ray scored its queries side by side"
    if unscored:
        return f"{unscored} of its queries have no scores"
    processes = sum(sample.warmup and bool(sample.pairs) for sample in samples)
    return f"its queries were scored by {processes} processes" if processes > 1 else ""


def _times(response: Mapping[str, Estimate], pairs_per_s: float | None) -> dict[Metric, LaunchTime]:
    times = {name: LaunchTime(response[name].estimate, response[name].reason) for name in PERCENTILES if response}
    pair_s = LaunchTime(None, "a launch answered no request") if pairs_per_s is None else LaunchTime(1 / pairs_per_s)
    return {**times, "throughput": pair_s}
