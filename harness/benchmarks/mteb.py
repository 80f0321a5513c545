"""Text retrieval and reranking tasks of mteb, by mteb's own names and through its own loader.

Documents stay in the memory-mapped tables of `datasets`. The candidates of a reranking task are passed on in their
order, best first. mteb and datasets are imported when a task is loaded.
"""

import difflib
import itertools
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engines import hub
from harness.benchmarks.base import (
    LARGE_SHARE,
    NO_ID,
    BenchmarkError,
    BenchmarkSource,
    BenchmarkUnavailable,
    content_hash,
    count_warning,
    oddities,
    require,
    require_same_collection,
    sample,
)
from harness.benchmarks.judgements import grade_of
from harness.benchmarks.languages import analysis_of
from harness.benchmarks.stored import StoredDocuments
from harness.records import Benchmark, Qrels

TYPES = ("Retrieval", "Reranking", "InstructionRetrieval", "InstructionReranking")
PROVENANCE = re.compile(
    r"(?P<path>[^@]+)@(?P<revision>[^+]+)\+sha256:[0-9a-f]+ "
    r"\((?P<task>[^ ,)]+)(?: (?P<subset>[^,)]+))?(?:, (?P<sample>[^)]+))?\)"
)
COMMIT = re.compile(r"[0-9a-f]{40}")


class Provenance(NamedTuple):
    """The data on the hub from which a benchmark is made, as its revision records it."""

    path: str
    revision: str
    task: str
    subset: str  # empty if the task has only one
    sample: str  # such as "12 of 323 queries"; empty: all queries

    def with_hash(self, digest: str) -> str:
        """The benchmark's revision: `mteb/nfcorpus@ec0fa4+sha256:693b02 (NFCorpus)`."""
        task = f"{self.task} {self.subset}".strip() + (f", {self.sample}" if self.sample else "")
        return f"{self.path}@{self.revision}+sha256:{digest} ({task})"

    @classmethod
    def read(cls, revision: str) -> "Provenance | None":
        """Read a revision that `with_hash` wrote; None for a benchmark that is not a task of mteb."""
        match = PROVENANCE.fullmatch(revision)
        return cls(**match.groupdict("")) if match else None


class MtebTask(BenchmarkSource):
    """One subset and split of a task of mteb."""

    name: str  # mteb's name, such as NFCorpus
    split: str | None = None  # None: the only split that mteb evaluates the task on
    subset: str | None = None  # None: the only subset; languages are subsets in mteb
    label: str | None = None  # name in reports; None: `name`, followed by the subset if there are several
    remove_self: bool | None = None  # None: mteb's `ignore_identical_ids`
    analysis: str | None = None  # None: the analysis for the language that mteb states

    def preflight(self) -> Sequence[str]:
        self._choose()
        return ()

    def load(self) -> Benchmark:
        task, subset, split = self._choose()
        part = _load(task, subset, split)
        metadata, warnings = task.metadata, list(_revision_warning(task, part["corpus"]))
        documents = StoredDocuments(part["corpus"])
        warnings += _repeated_warning(documents, self.name)
        judged = _judged(part, self.name)
        bad = next((key for key in itertools.chain(judged.queries, documents) if NO_ID.search(key)), None)
        if bad is not None:
            raise BenchmarkError(f"mteb task {self.name}: id {bad[:60]!r} holds a NUL or half of a surrogate pair")
        require_same_collection(f"mteb task {self.name}", judged.qrels, documents)
        warnings += judged.warnings
        kept = sample(judged.queries, self.queries)
        queries = {query_id: text for query_id, text in judged.queries.items() if query_id in kept}
        qrels = {query_id: judged.qrels[query_id] for query_id in queries}
        native = _native_candidates(part["top_ranked"], queries, documents, self.name)
        languages = metadata.hf_subsets_to_langscripts
        several = len(languages) > 1
        source = Provenance(
            path=metadata.dataset["path"],
            revision=metadata.revision,
            task=self.name,
            subset=subset if several else "",
            sample=f"{len(queries)} of {len(judged.queries)} queries" if len(queries) < len(judged.queries) else "",
        )
        return Benchmark(
            name=self.label or (f"{self.name}.{subset}" if several else self.name),
            revision=source.with_hash(content_hash(queries, documents, qrels)),
            queries=queries,
            documents=documents,
            qrels=qrels,
            split=split,
            analysis=self.analysis or analysis_of(languages[subset]),
            remove_self=bool(task.ignore_identical_ids) if self.remove_self is None else self.remove_self,
            warnings=(*warnings, *oddities(queries, documents, qrels), *native.warnings),
            alarms=judged.alarms,
            candidates=native.lists,
            available=len(judged.queries),
        )

    def _choose(self) -> tuple[Any, str, str]:
        """The task, its subset and its split, without reading data. Raises BenchmarkError."""
        mteb = require("mteb", extra="mteb")
        try:
            task = mteb.get_task(self.name)
        except KeyError:
            raise BenchmarkError(f"mteb has no task {self.name!r}; {_near(self.name, mteb)}") from None
        _require_text_ranking(task)
        subset = _one(self.subset, list(task.metadata.hf_subsets_to_langscripts), "subset", self.name)
        # only splits that mteb names: for any other name, its loader takes the data's split if there is only one
        split = _one(self.split, list(task.metadata.eval_splits), "split", self.name)
        return mteb.get_task(self.name, hf_subsets=[subset], eval_splits=[split]), subset, split


class JudgedTask(NamedTuple):
    """The judged queries of a task with their grades."""

    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    warnings: tuple[str, ...]
    alarms: tuple[str, ...]


def _near(name: str, mteb: Any) -> str:
    tasks = mteb.get_tasks(
        task_types=list(TYPES),
        modalities=["text"],
        exclusive_modality_filter=True,
        exclude_superseded=False,
        exclude_private=False,
        exclude_beta=False,
    )
    names = {task.metadata.name.lower(): task.metadata.name for task in tasks}
    near = difflib.get_close_matches(name.lower(), names, n=5, cutoff=0.5)
    if not near:
        return f"none of its {len(names)} text retrieval and reranking tasks has a similar name"
    return f"similar are {', '.join(names[match] for match in near)}"


def _require_text_ranking(task: Any) -> None:
    metadata = task.metadata
    members = getattr(metadata, "tasks", None)
    if members:
        names = ", ".join(member.metadata.name for member in members)
        raise BenchmarkError(f"{metadata.name} is the average of other tasks; list them instead: {names}")
    if metadata.type not in TYPES or list(metadata.modalities) != ["text"]:
        raise BenchmarkError(
            f"{metadata.name} is a task of type {metadata.type} on {', '.join(metadata.modalities)}; "
            f"expected {', '.join(TYPES)} on text"
        )


def _one(wanted: str | None, names: Sequence[str], option: str, task: str) -> str:
    """The wanted subset or split, or the only one if none is wanted. Raises BenchmarkError."""
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is not None and wanted in names:
        return wanted
    problem = f"needs a `{option}`" if wanted is None else f"has no {option} {wanted!r}"
    raise BenchmarkError(f"mteb task {task} {problem}; it has {', '.join(names)}")


def _load(task: Any, subset: str, split: str) -> Mapping[str, Any]:
    datasets, library = require("datasets", extra="mteb"), require("huggingface_hub", extra="mteb")
    hub.absence("mteb")  # without an answer, libraries look into the cache at once
    datasets.utils.logging.set_verbosity_error()  # _revision_warning reports the one warning that matters
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
        library.utils.disable_progress_bars()
    try:
        task.load_data()
        task.convert_v1_dataset_format_to_v2(num_proc=None)
        part: Mapping[str, Any] = task.dataset[subset][split]
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise BenchmarkUnavailable(f"mteb task {task.metadata.name}: {_explained(error, task)}") from error
    return part


def _explained(error: Exception, task: Any) -> str:
    path = task.metadata.dataset["path"]
    absent = hub.absence("mteb")
    if absent:
        return (
            f"{path} is not in the cache, and {absent}; load it once where the hub can be reached, "
            f"or point HF_HOME to a cache that has it"
        )
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    reason = reason if len(reason) <= 200 else f"{reason[:200]}..."
    if isinstance(error, ConnectionError):
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        return f"{path} cannot be reached at {endpoint} ({reason}); check the network or set HF_ENDPOINT to a mirror"
    return f"{path} cannot be loaded ({reason}); it may need an account (HF_TOKEN) or be gone"


def _revision_warning(task: Any, corpus: Any) -> tuple[str, ...]:
    """Without a network, `datasets` takes the latest cached copy, even if mteb pins a different revision."""
    files = [Path(entry["filename"]) for entry in getattr(corpus, "cache_files", ())]
    cached = {match[0] for file in files if (match := COMMIT.fullmatch(file.parent.name))}
    if cached <= {task.metadata.revision} or not COMMIT.fullmatch(task.metadata.revision):
        return ()
    return (f"the cached data has revision {', '.join(sorted(cached))}, but mteb pins {task.metadata.revision}",)


def _repeated_warning(documents: StoredDocuments, name: str) -> tuple[str, ...]:
    for doc_id, row in documents.repeated:
        if documents.text(row) != documents[doc_id]:
            raise BenchmarkError(f"mteb task {name}: document id {doc_id!r} has two different texts")
    return count_warning([doc_id for doc_id, _ in documents.repeated], "documents that occur in the corpus twice")


def _judged(part: Mapping[str, Any], name: str) -> JudgedTask:
    """Judged queries in the order of the data, and their grades. Raises BenchmarkError."""
    texts = dict(query_texts(part["queries"]))
    given: Qrels = {str(query_id): grades for query_id, grades in part["relevant_docs"].items() if grades}
    qrels = {
        query_id: {str(doc_id): _grade(grade, query_id, name) for doc_id, grade in given[query_id].items()}
        for query_id in texts
        if query_id in given
    }
    if given and not qrels:
        raise BenchmarkError(
            f"mteb task {name}: none of its {len(given):,} judged queries has a text (the first judged is "
            f"{next(iter(given))[:60]!r}, the first with a text {next(iter(texts), 'none')[:60]!r}); check `split`"
        )
    if not any(grade > 0 for grades in qrels.values() for grade in grades.values()):
        raise BenchmarkError(f"mteb task {name}: no grade above 0 for any of {len(qrels)} queries; check `split`")
    lost = sorted(given.keys() - texts.keys())
    warnings = count_warning(lost, "judged queries without a text, which are left out as mteb leaves them out")
    share = len(lost) / len(given)
    alarm = f"{len(lost):,} of {len(given):,} judged queries ({share:.0%}) have no text and are left out"
    kept = {query_id: texts[query_id] for query_id in qrels}
    return JudgedTask(kept, qrels, warnings, (alarm,) if share >= LARGE_SHARE else ())


def _grade(value: object, query_id: str, name: str) -> int:
    grade = grade_of(str(value))
    if grade is None:
        raise BenchmarkError(
            f"mteb task {name}: grade {value!r:.60} of query {query_id[:60]!r} is not a whole number below a million"
        )
    return grade


def query_texts(table: Any) -> Iterable[tuple[str, str]]:
    """Ids and texts as mteb's own models read them, with instructions appended and conversations joined."""
    dataloaders, types = (require(module, extra="mteb") for module in ("mteb._create_dataloaders", "mteb.types"))
    texts = dataloaders._retrieval_texts(table, types.PromptType.query)
    return ((str(query_id), text or "") for query_id, text in zip(table["id"], texts, strict=True))


class NativeCandidates(NamedTuple):
    """The candidates that come with a task; None for a retrieval task."""

    lists: dict[str, tuple[str, ...]] | None
    warnings: tuple[str, ...]


def _native_candidates(
    top_ranked: Mapping[str, Sequence[str]] | None,
    queries: Mapping[str, str],
    documents: Mapping[str, str],
    name: str,
) -> NativeCandidates:
    if top_ranked is None:
        return NativeCandidates(None, ())
    lists: dict[str, tuple[str, ...]] = {}
    repeated = []
    for query_id in queries:
        doc_ids = [str(doc_id) for doc_id in top_ranked.get(query_id, ())]
        unknown = next((doc_id for doc_id in doc_ids if doc_id not in documents), None)
        if unknown is not None:
            raise BenchmarkError(f"mteb task {name}: candidate {unknown!r} of query {query_id!r} is not in the corpus")
        lists[query_id] = tuple(dict.fromkeys(doc_ids))
        if len(lists[query_id]) < len(doc_ids):
            repeated.append(query_id)
    return NativeCandidates(lists, count_warning(repeated, "queries that list a candidate twice; it is used once"))
