"""Run files as ranked lists. A large file is parsed once, and its lists are stored under the hash of its bytes."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from engines.storage import cache_folder
from harness.candidates.trec import RunOddities, read_run_file
from harness.files import replace_file

# format of the lists on disk; 1: first version, 2026-11; 2: with all oddities of the file, 2026-11-28
FORMAT = 2
REMEMBERED_BYTES = 2**15  # smallest file whose lists are stored: about 1,000 packed lines, which are read in 3 ms

log = logging.getLogger(__name__)


class Ranked(NamedTuple):
    """The documents of a run file by score, best first; equal scores keep the order of the file."""

    lists: Mapping[str, Sequence[str]]  # query_id -> doc_ids
    oddities: RunOddities


def read_ranked(path: Path) -> Ranked:
    """The lists of a run file. Those of a large file are stored as JSON, which is read 50 times as fast.

    Raises BenchmarkError.
    """
    digest = _digest(path)
    if digest is None:
        return _rank(path)
    kept = cache_folder("runs") / f"{digest}-{FORMAT}.json"
    try:
        checksum, _, content = kept.read_bytes().partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() == checksum:
            lists, oddities = json.loads(content)
            return Ranked(lists, RunOddities(*oddities))
        log.warning("crispbench: %s is damaged; %s is read again", kept, path)
    except OSError:
        pass  # the lists of this file are not stored yet
    ranked = _rank(path)
    content = json.dumps(ranked).encode()
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        replace_file(kept, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    except OSError as error:
        log.warning("crispbench: the lists of %s are not stored: %s", path, error)
    return ranked


def _digest(path: Path) -> str | None:
    """The sha256 of a large file; None for a small one, a pipe, and one that cannot be read, which `_rank` reports."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            large = path.stat().st_size >= REMEMBERED_BYTES
            return hashlib.file_digest(file, "sha256").hexdigest() if large else None
    except OSError:
        return None


def _rank(path: Path) -> Ranked:
    run, oddities = read_run_file(path)
    lists = {query_id: sorted(scores, key=scores.__getitem__, reverse=True) for query_id, scores in run.items()}
    return Ranked(lists, oddities)
