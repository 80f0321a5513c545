"""Runs of disjoint benchmarks or queries, made on several machines, joined into one run folder.

It knows neither engines nor how the work was shared out: what the stores hold is what there is.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from engines.base import BadOptions
from harness import progress
from harness.figures.measures import MEASURES
from harness.records import Failure, Manifest, Oddities, Qrels, Sample, Score
from harness.run.folder import INDEX, RunIndex
from harness.run.report import report
from harness.run.verb import RunResult
from harness.store import FILE, NotComparable, Store, StoreError, differences

DEVICE = "device"  # of an engine's description: the one field of it that is the machine's


@dataclass(frozen=True)
class MergeOptions:
    """How run folders are joined."""

    allow_machine: bool = False  # machines may differ; all times are then left out
    fresh: bool = False  # replace the run folder if it exists


def merge(runs: Sequence[Path], options: MergeOptions, *, out: Path) -> RunResult:
    """Join run folders into the new run folder `out`, which appears when it is complete. The runs stay as they are.

    The engines must have the same configuration in all runs. Benchmarks and queries that several runs have must be
    the same and have the same scores to the last bit. The machines must be alike, unless `allow_machine`.
    Raises BadOptions for folders that cannot be used, NotComparable naming what differs, StoreError.
    """
    _check(out, runs, fresh=options.fresh)
    indexes = [RunIndex.read(run) for run in runs]
    names = list(dict.fromkeys(name for index in indexes for name in index.engines))
    sources = {name: [run / name for run in runs if (run / name / FILE).is_file()] for name in names}
    if not any(sources.values()):
        raise StoreError(f"none of the {len(runs)} runs has scores: see why with `crispbench report {runs[0]}`")
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
            published=list({str(found): found for index in indexes for found in index.published}.values()),
            measures=_measures(indexes),
            merged=[{"run": str(run)} | _part(index) for run, index in zip(runs, indexes, strict=True)],
        ).write(folder)
        written = report(folder)
    files = [out / path.relative_to(folder) for path in written.files]
    return RunResult.of(replace(written, folder=out, files=files), names)


def _check(out: Path, runs: Sequence[Path], *, fresh: bool) -> None:
    places = [run.resolve() for run in runs]
    twice = next((run for run, place in zip(runs, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise BadOptions(f"run {twice} is named twice: name each run once")
    target = out.resolve()
    if any(place == target or place in target.parents or target in place.parents for place in places):
        raise BadOptions(f"{out} is one of the runs, holds one or lies in one: name another folder for the merged run")
    if out.exists() and not fresh:
        raise BadOptions(f"{out} exists: name a folder that does not, or replace this run with --fresh")
    if out.exists() and not (out / INDEX).is_file():
        raise BadOptions(f"{out} is no run folder, so --fresh does not replace it: name another folder")


def _part(index: RunIndex) -> dict[str, str]:
    return {} if index.part is None else {"part": index.part}


def _measures(indexes: Sequence[RunIndex]) -> list[str]:
    """Every measure of any of the runs; none by name if all have the standard ones."""
    if not any(index.measures for index in indexes):
        return []
    standard = [str(measure) for measure in MEASURES]
    return list(dict.fromkeys(name for index in indexes for name in index.measures or standard))


@contextmanager
def _draft(out: Path, runs: Sequence[Path], *, fresh: bool) -> Iterator[Path]:
    """A folder that takes the name of `out` at the end, or is removed. Its own name is that of `out` from the start."""
    out.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield place / out.name
        _check(out, runs, fresh=fresh)
        if out.exists():
            out.rename(place / "before")
        (place / out.name).rename(out)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _merge_engine(folders: Sequence[Path], out: Path, *, allow_machine: bool) -> None:
    documents = {folder: document for folder in folders if (document := _document(folder)) is not None}
    if not documents:  # all were killed before they wrote the first thing
        return
    manifest = _manifest(documents, allow_machine=allow_machine)
    with Store.open(out, manifest) as merged:
        for benchmark in manifest.benchmarks:
            held = [folder for folder, document in documents.items() if benchmark in document["benchmarks"]]
            _merge_benchmark(benchmark, held, merged)


def _document(folder: Path) -> dict[str, Any] | None:
    with Store.read(folder) as store:
        return store.manifest()


def _manifest(documents: Mapping[Path, Mapping[str, Any]], *, allow_machine: bool) -> Manifest:
    """One for all. Raises NotComparable if they differ in more than their benchmarks, or machines if allowed."""
    first, *others = documents
    for other in others:
        differing = differences(*(_judged(documents[each], allow_machine=allow_machine) for each in (first, other)))
        if differing:
            hint = " (--allow-machine merges unlike machines, without their times)" if _of_machine(differing) else ""
            raise NotComparable(
                f"{other} has another configuration than {first}: {'; '.join(differing[:5])}"
                f"{f' and {len(differing) - 5} more' if len(differing) > 5 else ''}{hint}"
            )
    whole = dict(documents[first])
    whole.pop("format")
    whole["benchmarks"] = {name: entry for each in documents.values() for name, entry in each["benchmarks"].items()}
    machines: list[Mapping[str, str]] = []
    for document in documents.values():
        machines += [each for each in document.get("machines") or [document["machine"]] if each not in machines]
    if len(machines) > 1:
        described = [document["description"] for document in documents.values()]
        whole |= {"machines": machines, "machine": _joined(machines)}
        whole["description"] = {
            **whole["description"],
            **_joined([{DEVICE: each.get(DEVICE, "")} for each in described]),
        }
    return Manifest(**whole)


def _judged(document: Mapping[str, Any], *, allow_machine: bool) -> Mapping[str, Any]:
    """What must be the same in two manifests."""
    if not allow_machine:
        return document
    description = {name: value for name, value in document["description"].items() if name != DEVICE}
    return {**document, "machine": {}, "machines": [], "description": description}


def _of_machine(differing: Sequence[str]) -> bool:
    return all(phrase.startswith(("machine", f"description.{DEVICE} ")) for phrase in differing)


def _joined(machines: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Each field with all of its values: `NVIDIA H100 | NVIDIA H200`."""
    names = dict.fromkeys(name for machine in machines for name in machine)
    values = {name: dict.fromkeys(machine.get(name, "") for machine in machines) for name in names}
    return {name: " | ".join(filter(None, found)) for name, found in values.items()}


def _merge_benchmark(benchmark: str, folders: Sequence[Path], merged: Store) -> None:
    sources = {folder: _source(folder, benchmark) for folder in folders}
    _merge_judgements(benchmark, {folder: source.qrels for folder, source in sources.items()}, merged)
    examined = next((source.oddities for source in sources.values() if source.oddities is not None), None)
    if examined is not None:  # equal candidates and texts have equal oddities: the manifests agree on both
        merged.save_oddities(benchmark, examined)
    for folder, source in sources.items():
        if source.preparation_s is not None:
            merged.prepared(benchmark, source.preparation_s)
        held = merged.scored(benchmark)
        for sample, scores in _scored(folder, benchmark):
            if sample.query_id not in held:
                merged.commit(benchmark, sample, scores)
            elif held[sample.query_id] != scores:
                first = next(other for other in folders if sample.query_id in _done(other, benchmark))
                raise NotComparable(
                    f"query {sample.query_id!r} of {benchmark} has other scores in {folder} than in {first} "
                    f"({_unequal(held[sample.query_id], scores)}): leave one of the runs out"
                )
    done = merged.done(benchmark)
    for failure in (failure for source in sources.values() for failure in source.failures):
        if failure.query_id not in done:
            merged.fail(benchmark, failure)


def _merge_judgements(benchmark: str, found: Mapping[Path, Qrels], merged: Store) -> None:
    judged = [folder for folder, qrels in found.items() if qrels]  # the others were killed before they saved theirs
    for folder in judged:
        if found[folder] != found[judged[0]]:
            raise NotComparable(f"{folder} has other judgements of {benchmark} than {judged[0]}: leave one of them out")
    if judged:
        merged.save_qrels(benchmark, found[judged[0]])


class _Source(NamedTuple):
    """What one store holds of a benchmark beside its scores."""

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
    """In the order of scoring. A generator: so an error of reading names this store, one of writing the other."""
    with Store.read(folder) as store:
        samples, scores = store.samples(benchmark), store.scored(benchmark)  # samples first: a run may go on meanwhile
        for sample in samples:
            yield sample, scores[sample.query_id]


def _done(folder: Path, benchmark: str) -> set[str]:
    with Store.read(folder) as store:
        return store.done(benchmark)


def _unequal(one: Sequence[Score], other: Sequence[Score]) -> str:
    pairs = zip_longest(one, other, fillvalue=Score("nothing", 0, 0.0))
    first, second = next((left, right) for left, right in pairs if left != right)
    return f"{second.doc_id} {second.value!r}, {first.doc_id} {first.value!r}"


def _whole(folder: Path) -> bool:
    """Whether an engine's folder has scores for every query of every benchmark."""
    if not (folder / FILE).is_file():
        return False
    with Store.read(folder) as store:
        return all(store.qrels(name).keys() <= store.done(name) for name in store.benchmarks())
