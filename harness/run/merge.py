"""`crispbench merge`: join runs of disjoint benchmarks or queries from several machines into one run folder.

It uses only the content of the stores, and needs neither the engines nor the way in which the work was divided.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from engines.base import BadOptions, Device
from harness import progress
from harness.figures.measures import MEASURES
from harness.fingerprint import differences
from harness.manifest import Machine, Manifest
from harness.records import Failure, Oddities, Qrels, Sample, Score
from harness.run.folder import INDEX, RunIndex
from harness.run.report import report
from harness.run.verb import RunResult
from harness.store import FILE, NotComparable, Store, StoreError

NO_MACHINE = Machine(*[""] * 6)


@dataclass(frozen=True)
class MergeOptions:
    """The differences that a merge accepts, and whether it may replace a run folder."""

    allow_machine: bool = False  # accept different machines; all times are then left out
    fresh: bool = False  # replace the run folder if it exists


def merge(runs: Sequence[Path], options: MergeOptions, *, out: Path) -> RunResult:
    """Join run folders into the new run folder `out`, which appears when it is complete. The runs do not change.

    The engines must have the same configuration in all runs. Benchmarks and queries that occur in several runs must be
    the same and must have the same scores to the last bit. The machines must be equal, unless `allow_machine`.
    Raises BadOptions for folders that cannot be used, NotComparable, which names the differences, and StoreError.
    """
    _check(out, runs, fresh=options.fresh)
    indexes = [RunIndex.read(run) for run in runs]
    names = list(dict.fromkeys(name for index in indexes for name in index.engines))
    sources = {name: [run / name for run in runs if (run / name / FILE).is_file()] for name in names}
    if not any(sources.values()):
        raise StoreError(f"none of the {len(runs)} runs has scores: `crispbench report {runs[0]}` shows the reason")
    with _draft(out, runs, fresh=options.fresh) as folder:
        for name, folders in sources.items():
            if folders:
                with progress.waiting(f"merging {name}"):
                    _merge_engine(folders, folder / name, allow_machine=options.allow_machine)
        unavailable = {name: reason for index in indexes for name, reason in index.unavailable.items()}
        RunIndex(
            name=indexes[0].name,
            engines=names,
            unavailable={name: reason for name, reason in unavailable.items() if not _whole(folder / name)},
            missing=_missing(indexes, folder, names),
            published=list({str(table): table for index in indexes for table in index.published}.values()),
            measures=_measures(indexes),
            notes={name: lines for index in indexes for name, lines in index.notes.items()},
            merged=[{"run": str(run)} | _part(index) for run, index in zip(runs, indexes, strict=True)],
        ).write(folder)
        written = report(folder)
    files = [out / path.relative_to(folder) for path in written.files]
    return RunResult.of(replace(written, folder=out, files=files), names)


def _check(out: Path, runs: Sequence[Path], *, fresh: bool) -> None:
    paths = [run.resolve() for run in runs]
    twice = next((run for run, path in zip(runs, paths, strict=True) if paths.count(path) > 1), None)
    if twice is not None:
        raise BadOptions(f"run {twice} is named twice: name each run once")
    target = out.resolve()
    if any(path == target or path in target.parents or target in path.parents for path in paths):
        raise BadOptions(f"{out} is one of the runs, holds one or lies in one: name another folder for the merged run")
    if out.exists() and not fresh:
        raise BadOptions(f"{out} exists: name a new folder, or replace this run with --fresh")
    if out.exists() and not (out / INDEX).is_file():
        raise BadOptions(f"{out} is not a run folder, so --fresh does not replace it: name another folder")


def _part(index: RunIndex) -> dict[str, str]:
    return {} if index.part is None else {"part": index.part}


def _missing(indexes: Sequence[RunIndex], folder: Path, engines: Sequence[str]) -> dict[str, str]:
    """The benchmarks that a run could not load and that no other run has."""
    present = set[str]()
    for name in engines:
        if (folder / name / FILE).is_file():
            with Store.read(folder / name) as store:
                present.update(store.benchmarks())
    return {name: reason for index in indexes for name, reason in index.missing.items() if name not in present}


def _measures(indexes: Sequence[RunIndex]) -> list[str]:
    """The measures of all runs; empty if every run has the standard measures."""
    if not any(index.measures for index in indexes):
        return []
    standard = [str(measure) for measure in MEASURES]
    return list(dict.fromkeys(name for index in indexes for name in index.measures or standard))


@contextmanager
def _draft(out: Path, runs: Sequence[Path], *, fresh: bool) -> Iterator[Path]:
    """A draft of `out` in a temporary folder. It replaces `out` at the end, or is removed after an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield temporary / out.name
        _check(out, runs, fresh=fresh)
        if out.exists():
            out.rename(temporary / "before")
        (temporary / out.name).rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _merge_engine(folders: Sequence[Path], out: Path, *, allow_machine: bool) -> None:
    manifests = {folder: manifest for folder in folders if (manifest := _read(folder)) is not None}
    if not manifests:  # all runs were killed before they wrote a manifest
        return
    joined = _manifest(manifests, allow_machine=allow_machine)
    with Store.open(out, joined) as merged:
        for benchmark in joined.benchmarks:
            sources = [folder for folder, manifest in manifests.items() if benchmark in manifest.benchmarks]
            _merge_benchmark(benchmark, sources, merged)


def _read(folder: Path) -> Manifest | None:
    with Store.read(folder) as store:
        return store.manifest()


def _manifest(manifests: Mapping[Path, Manifest], *, allow_machine: bool) -> Manifest:
    """One manifest for all runs. Only the benchmarks may differ, and the machines if allowed. Raises NotComparable."""
    first, *later = manifests
    for folder in later:
        compared = [manifests[first], manifests[folder]]
        beside_machine = differences(*(_without_machine(manifest).document() for manifest in compared))
        differing = beside_machine if allow_machine else differences(*(manifest.document() for manifest in compared))
        if differing:
            hint = " (--allow-machine merges different machines, without their times)" if not beside_machine else ""
            raise NotComparable(
                f"the configuration of {folder} differs from that of {first}: {'; '.join(differing[:5])}"
                f"{f' and {len(differing) - 5} more' if len(differing) > 5 else ''}{hint}"
            )
    benchmarks = {name: entry for manifest in manifests.values() for name, entry in manifest.benchmarks.items()}
    whole = replace(manifests[first], benchmarks=benchmarks)
    machines = tuple(
        dict.fromkeys(
            machine for manifest in manifests.values() for machine in manifest.machines or (manifest.machine,)
        )
    )
    if len(machines) == 1:
        return whole
    devices = dict.fromkeys(
        manifest.description.device for manifest in manifests.values() if manifest.description.device
    )
    device = Device("gpu", " | ".join(map(str, devices))) if len(devices) > 1 else next(iter(devices), None)
    description = replace(whole.description, device=device)
    return replace(whole, machines=machines, machine=Machine.joined(machines), description=description)


def _without_machine(manifest: Manifest) -> Manifest:
    """The manifest without the fields that depend on the machine. In a description, this is only the device."""
    description = replace(manifest.description, device=None)
    return replace(manifest, machine=NO_MACHINE, machines=(), description=description)


def _merge_benchmark(benchmark: str, folders: Sequence[Path], merged: Store) -> None:
    sources = {folder: _source(folder, benchmark) for folder in folders}
    _merge_judgements(benchmark, {folder: source.qrels for folder, source in sources.items()}, merged)
    examined = next((source.oddities for source in sources.values() if source.oddities is not None), None)
    if examined is not None:  # the manifests agree on candidates and texts, so the oddities are equal too
        merged.save_oddities(benchmark, examined)
    for folder, source in sources.items():
        if source.preparation_s is not None:
            merged.prepared(benchmark, source.preparation_s)
        held = merged.scored(benchmark)
        for sample, scores in _scored(folder, benchmark):
            if sample.query_id not in held:
                merged.commit(benchmark, sample, scores)
            elif held[sample.query_id] != scores:
                first = next(earlier for earlier in folders if sample.query_id in _done(earlier, benchmark))
                raise NotComparable(
                    f"the scores of query {sample.query_id!r} of {benchmark} in {folder} differ from those in {first} "
                    f"({_unequal(held[sample.query_id], scores)}): leave one of the runs out"
                )
    done = merged.done(benchmark)
    for failure in (failure for source in sources.values() for failure in source.failures):
        if failure.query_id not in done:
            merged.fail(benchmark, failure)


def _merge_judgements(benchmark: str, qrels_of: Mapping[Path, Qrels], merged: Store) -> None:
    judged = [folder for folder, qrels in qrels_of.items() if qrels]  # the other runs were killed earlier
    for folder in judged:
        if qrels_of[folder] != qrels_of[judged[0]]:
            raise NotComparable(
                f"the judgements of {benchmark} in {folder} differ from those in {judged[0]}: leave one of the runs out"
            )
    if judged:
        merged.save_qrels(benchmark, qrels_of[judged[0]])


class _Source(NamedTuple):
    """The content of one store for a benchmark, without its scores."""

    qrels: Qrels
    failures: Sequence[Failure]
    preparation_s: float | None
    oddities: Mapping[str, Oddities] | None


def _source(folder: Path, benchmark: str) -> _Source:
    with Store.read(folder) as store:
        return _Source(
            store.qrels(benchmark), store.failures(benchmark), store.preparation_s(benchmark), store.oddities(benchmark)
        )


def _scored(folder: Path, benchmark: str) -> Iterator[tuple[Sample, list[Score]]]:
    """Samples and scores in the order of scoring. This is a generator, so that a read error names this store."""
    with Store.read(folder) as store:
        samples = store.samples(benchmark)  # before the scores: the run may still be writing
        scores = store.scored(benchmark)
        for sample in samples:
            yield sample, scores[sample.query_id]


def _done(folder: Path, benchmark: str) -> set[str]:
    with Store.read(folder) as store:
        return store.done(benchmark)


def _unequal(before: Sequence[Score], after: Sequence[Score]) -> str:
    """The first unequal scores of a query, `after` first."""
    pairs = zip_longest(before, after, fillvalue=Score("nothing", 0, 0.0))
    first, second = next(pair for pair in pairs if pair[0] != pair[1])
    return f"{second.doc_id} {second.value!r}, {first.doc_id} {first.value!r}"


def _whole(folder: Path) -> bool:
    """Whether an engine's folder has scores for every query of every benchmark."""
    if not (folder / FILE).is_file():
        return False
    with Store.read(folder) as store:
        return all(store.qrels(name).keys() <= store.done(name) for name in store.benchmarks())
