"""Candidates of earlier searches, kept on disk: a TREC run and a manifest under one key.

The key changes with everything that could change the lists, and the manifest holds the sha256 of the lists. A file
that was cut short, edited or written for another benchmark is therefore noticed and never used.
"""

import hashlib
import inspect
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.base import Engine
from engines.storage import cache_folder
from harness import machine
from harness.benchmarks import BenchmarkError
from harness.candidates.trec import read_run, write_run
from harness.figures.measures import oracle, recall
from harness.files import replace_file
from harness.records import Benchmark, Candidates

FORMAT = 1  # 1: first version, 2026-11
PACKAGES = ("python", "bm25s", "PyStemmer", "numpy", "torch", "transformers", "tokenizers", "sentence-transformers")

log = logging.getLogger(__name__)


def key(benchmark: Benchmark, stage: Mapping[str, Any], retriever: Engine) -> str:
    """64 hex digits over the benchmark, the stage's parameters, the retriever's description and its code.

    The key includes the order of the ids, which decides ties and does not change the benchmark's revision.
    """
    versions = machine.versions()
    parts = {
        "format": FORMAT,
        "benchmark": [benchmark.name, benchmark.revision, benchmark.split, benchmark.analysis, benchmark.remove_self],
        "stage": dict(stage),
        "retriever": retriever.describe().document(),
        "versions": {name: versions[name] for name in PACKAGES if name in versions},
        "code": _code(type(retriever)),
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for item in benchmark.queries.items():
        digest.update(json.dumps(item).encode())
    for doc_id in benchmark.documents:
        digest.update(json.dumps(doc_id).encode())
    return digest.hexdigest()


def read(name: str, benchmark: Benchmark) -> dict[str, tuple[str, ...]] | None:
    """The lists stored under a key; None if nothing is stored, or, with a warning, if the lists are damaged."""
    manifest_path, run_path = _paths(name)
    if not manifest_path.is_file():
        return None
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        run = read_run(run_path)
        lists = {query_id: tuple(run.pop(query_id, ())) for query_id in benchmark.queries}
        if manifest["key"] != name or run:
            raise ValueError("it belongs to other queries or another first stage")
        sha256 = Candidates("", 0, {}, lists).sha256
        if sha256 != manifest["sha256"]:
            raise ValueError(f"its lists have the sha256 {sha256[:16]}, not {manifest['sha256'][:16]}")
    except (OSError, ValueError, KeyError, TypeError, BenchmarkError) as error:
        reason = f"no {error} in its manifest" if isinstance(error, KeyError) else str(error).partition(";")[0]
        prefix = "" if str(run_path) in reason else f"{run_path}: "
        log.warning("crispbench: stored candidates for %s are not used: %s%s", benchmark.name, prefix, reason)
        return None
    return lists


def write(name: str, benchmark: Benchmark, candidates: Candidates) -> None:
    """Store candidates under a key. If the folder cannot be written, a warning is logged and the run continues."""
    manifest_path, run_path = _paths(name)
    manifest = {
        "format": FORMAT,
        "key": name,
        "benchmark": {"name": benchmark.name, "revision": benchmark.revision, "split": benchmark.split},
        "queries": len(candidates.lists),
        "source": candidates.source,
        "parameters": dict(candidates.parameters),
        "k": candidates.k,
        "sha256": candidates.sha256,
        "oracle": oracle(benchmark.qrels, candidates.lists),
        "recall": recall(benchmark.qrels, candidates.lists, candidates.k),
    }
    try:
        run_path.parent.mkdir(parents=True, exist_ok=True)
        write_run(run_path, candidates.lists, candidates.source)
        replace_file(manifest_path, (json.dumps(manifest, indent=1) + "\n").encode())
    except (BenchmarkError, UnicodeEncodeError):  # an id that a run file cannot represent
        return
    except OSError as error:
        log.warning("crispbench: candidates for %s are not stored: %s", benchmark.name, error)


def _paths(name: str) -> tuple[Path, Path]:
    folder = cache_folder("candidates")
    return folder / f"{name}.json", folder / f"{name}.trec.gz"


def _code(retriever: type[Engine]) -> str:
    """Hash of every module in the retriever's folder, because changed code may retrieve different candidates."""
    digest = hashlib.sha256()
    for path in sorted(Path(inspect.getfile(retriever)).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
