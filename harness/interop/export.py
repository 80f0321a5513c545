"""A run folder as files of other tools: TREC runs for trec_eval, task results for mteb.

Both are made from the raw scores. What these files cannot represent (missing queries, an engine with constant scores)
is reported instead, one line each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from ir_measures import AP, RR, P, R, Success, nDCG

from engines.base import BadOptions
from engines.storage import replacing
from harness.benchmarks.base import BenchmarkError, count_warning, require
from harness.benchmarks.mteb import Provenance
from harness.candidates.trec import write_run
from harness.figures.measures import PerQuery, measure, rank
from harness.interop.mteb_model import model_meta
from harness.manifest import Manifest
from harness.outcome import Outcome
from harness.records import Row
from harness.run.rows import read
from harness.store import Store

MTEB_CUTS = (1, 3, 5, 10, 20, 100, 1000)
MTEB_MEASURES = {"ndcg": nDCG, "map": AP, "recall": R, "precision": P, "mrr": RR, "hit_rate": Success}
UNKNOWN_LANGUAGE = ("und-Zyyy",)  # ISO 639 and 15924: undetermined; mteb hides the scores of an entry without languages


@dataclass(frozen=True)
class ExportResult:
    """The files that were written, and the results that they cannot represent."""

    files: list[Path]
    problems: list[str]  # missing or omitted results, one line each
    notes: list[str] = field(default_factory=list)  # facts that the files do not show, one line each

    @property
    def outcome(self) -> Outcome:
        return Outcome.INCOMPLETE if self.problems else Outcome.PASS

    def document(self) -> dict[str, Any]:
        return {"files": [str(path) for path in self.files], "problems": self.problems, "notes": self.notes}

    def lines(self) -> list[str]:
        return [str(path) for path in self.files]


class MtebTarget(NamedTuple):
    """The position of one of our benchmarks among mteb's results."""

    task: str
    revision: str
    split: str
    subset: str
    languages: Sequence[str]
    main_score: str  # ndcg_at_10


@dataclass
class Collected:
    """The content of one file of mteb: an engine on a task. A subset of the task is one of our benchmarks."""

    meta: Any
    scores: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # split -> one entry per subset
    seconds: float = 0.0


def export_trec(run_dir: Path, out: Path) -> ExportResult:
    """OUT/ENGINE/BENCHMARK.trec.gz with scores n, n-1, ..., 1, so that every evaluator keeps our order.

    A benchmark with ids that a run file cannot represent is left out and named. Raises StoreError if this is not a run
    folder.
    """
    exported = ExportResult([], [])
    for row, store in _rows(run_dir, exported.problems):
        if row.missing:
            exported.problems.append(
                f"{row.engine} on {row.benchmark}: {len(row.missing)} queries have no scores and are not in the run; "
                f"only trec_eval -c counts them"
            )
        exported.notes.extend(_empty(row, "which the run file lacks and only trec_eval -c counts"))
        path = out / row.engine / f"{quote(row.benchmark, safe='')}.trec.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_run(path, _ranked(store, row.benchmark), row.engine)
        except BenchmarkError as error:
            exported.problems.append(f"{row.engine} on {row.benchmark}: left out, {error}")
        else:
            exported.files.append(path)
    return exported


def export_mteb(run_dir: Path, out: Path) -> ExportResult:
    """OUT/results/MODEL/REVISION/experiments/.../TASK.json, as mteb's `ResultCache(OUT)` keeps them.

    A task is one file, and a subset is an entry in it. A benchmark that is not a task of mteb keeps its own name and
    revision.
    """
    mteb = require("mteb", extra="mteb")
    exported = ExportResult([], [])
    collected: dict[tuple[str, str, str], Collected] = {}
    for row, store in _rows(run_dir, exported.problems):
        source, where = Provenance.read(row.revision), f"{row.engine} on {row.benchmark}"
        if row.verdict != "complete" or (source and source.sample):
            what = source.sample if source and source.sample else "incomplete"
            exported.problems.append(f"{where}: left out, a file of mteb cannot represent {what!r}")
            continue
        manifest = store.manifest()
        assert manifest is not None  # a store with scores has one
        exported.notes.extend(_empty(row, "which count 0 in the means"))
        target = _target(row, manifest.benchmarks[row.benchmark].split, source, mteb)
        scores = mteb_scores(store.qrels(row.benchmark), _ranked(store, row.benchmark))
        if target.main_score not in scores:
            exported.problems.append(f"{where}: left out, its main score {target.main_score} is not known here")
            continue
        file = collected.setdefault((row.engine, target.task, target.revision), Collected(_meta(manifest)))
        entry = {
            "main_score": scores[target.main_score],
            "hf_subset": target.subset,
            "languages": list(target.languages),
        }
        file.scores.setdefault(target.split, []).append({**scores, **entry})
        file.seconds += sum(sample.service_s for sample in store.samples(row.benchmark))
    for (_, task, revision), file in collected.items():
        result = mteb.TaskResult(
            dataset_revision=revision,
            task_name=task,
            mteb_version=mteb.__version__,
            scores=file.scores,
            evaluation_time=file.seconds,
        )
        path = Path(mteb.ResultCache(out).get_task_result_path(quote(task, safe=" ()+"), file.meta))
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            result.to_disk(draft)
        exported.files.append(path)
    return exported


EXPORTS: Mapping[str, Callable[[Path, Path], ExportResult]] = {"trec": export_trec, "mteb": export_mteb}


def export(run_dir: Path, format: str, *, out: Path, say: Callable[[str], None]) -> ExportResult:
    """Write a run folder below the folder `out` in a format of EXPORTS. Problems and notes also pass through `say`.

    Raises BadOptions for an unknown format, StoreError if this is not a run folder.
    """
    if format not in EXPORTS:
        raise BadOptions(f"export to {format!r} is not possible; known formats are {', '.join(EXPORTS)}")
    exported = EXPORTS[format](run_dir, out)
    for line in (*exported.problems, *exported.notes):
        say(f"crispbench: {line}")
    return exported


def mteb_scores(qrels: Mapping[str, Mapping[str, int]], ranked: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """mteb's measures under mteb's names: means over the judged queries. nAUC is left out: it needs raw scores."""
    named = {f"{name}_at_{cut}": family @ cut for name, family in MTEB_MEASURES.items() for cut in MTEB_CUTS}
    per_query: PerQuery = measure(qrels, ranked, list(named.values()))
    means = {name: sum(per_query[str(parsed)].values()) / len(qrels) for name, parsed in named.items()}
    return {**means, "accuracy": means["recall_at_1"]}


def _rows(run_dir: Path, problems: list[str]) -> Iterator[tuple[Row, Store]]:
    """Every row with scores to export, and its store. The reasons for other rows are added to `problems`."""
    for row in read(run_dir):
        if not row.pairs:
            problems.append(f"{row.engine} on {row.benchmark}: left out, it has no scores")
        elif row.verdict == "invalid":
            problems.append(f"{row.engine} on {row.benchmark}: left out, its scores are all equal")
        else:
            with Store.read(run_dir / row.engine) as store:
                yield row, store


def _empty(row: Row, consequence: str) -> Sequence[str]:
    """A line on the queries without candidates, if there are any."""
    what = f"{row.engine} on {row.benchmark}: queries without any candidate, {consequence}"
    return count_warning(row.without_candidates, what)


def _ranked(store: Store, benchmark: str) -> dict[str, list[str]]:
    """The documents of every query, best first."""
    return {query_id: rank(scored) for query_id, scored in sorted(store.scores(benchmark).items())}


def _target(row: Row, split: str, source: Provenance | None, mteb: Any) -> MtebTarget:
    if source is None:
        return MtebTarget(row.benchmark, row.revision, split, "default", UNKNOWN_LANGUAGE, "ndcg_at_10")
    try:
        metadata = mteb.get_task(source.task).metadata
    except KeyError:  # the run was made with another version of mteb
        subset = source.subset or "default"
        return MtebTarget(source.task, source.revision, split, subset, UNKNOWN_LANGUAGE, "ndcg_at_10")
    languages = metadata.hf_subsets_to_langscripts
    subset = source.subset or next(iter(languages))
    return MtebTarget(source.task, source.revision, split, subset, languages[subset], metadata.main_score)


def _meta(manifest: Manifest) -> Any:
    """Runs that differ in candidates, options or versions are different experiments in mteb."""
    stages = {name: entry.candidates for name, entry in manifest.benchmarks.items()}
    shown = "+".join(sorted({f"{stage.source}-k{stage.k}" for stage in stages.values()}))
    identity = [manifest.options, manifest.versions, {name: stage.sha256 for name, stage in stages.items()}]
    return model_meta(manifest.kind, manifest.description, shown, identity)
