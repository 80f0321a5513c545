"""BM25 indexes on disk, built in memory that does not grow with the text and reused for the same documents.

An index is a folder below `cache_folder("bm25")`, named by the hash of its documents in their order and of everything
that decides a weight. It holds the arrays of bm25s in that library's own files, which are memory-mapped, and the
positions of terms and documents. Old indexes stay: to free space, delete any or all of the folders.
"""

import hashlib
import json
import logging
import shutil
import tempfile
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fcntl import LOCK_EX, flock
from io import BufferedWriter
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from engines.base import EngineUnavailable, ScoringFailed, require
from engines.bm25 import analysis
from engines.storage import cache_folder

FORMAT = 1  # 1: first version, 2026-11
RUN = 2**20  # terms of text, and later postings, that are sorted at once: about 60 MB
DIGEST_BYTES = 16  # first bytes of sha256; a collision among 10^8 texts has a probability of 10^-23
DIGEST = f"S{DIGEST_BYTES}"
ABSENT = -1
MANIFEST = "manifest.json"

Identity = Mapping[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexSettings:
    """The settings that decide the weights of given documents; the stored weights include k1 and b."""

    analysis: str
    k1: float
    b: float


class Index:
    """A memory-mapped index in a folder. The folder may be deleted; its space is free once the index is dropped."""

    def __init__(self, folder: Path) -> None:
        self._bm25 = require("bm25s", extra="bm25").BM25.load(folder, mmap=True, load_vocab=False)
        self._size = int(self._bm25.scores["num_docs"])
        self._terms, self._documents = _Positions(folder, "terms"), _Positions(folder, "documents")

    def scores(self, terms: Sequence[str]) -> NDArray[np.float32]:
        """Scores of all documents, in their order; a term that no document holds adds nothing."""
        known = [int(term) for term in self._terms.find(terms) if term != ABSENT]
        if not known:  # bm25s fails on a query without terms
            return np.zeros(self._size, dtype=np.float32)
        scores: NDArray[np.float32] = self._bm25.get_scores(known)
        return scores

    def positions(self, documents: Sequence[str]) -> NDArray[np.int64]:
        """The first position of each document in the index; ABSENT for a document that is not in it."""
        return self._documents.find(documents)


class _Positions:
    """Positions of many texts, on disk: digests of the texts in ascending order, and the position of each text."""

    def __init__(self, folder: Path, name: str) -> None:
        self._digests = np.load(folder / f"{name}.digests.npy", mmap_mode="r")
        self._positions = np.load(folder / f"{name}.positions.npy", mmap_mode="r")

    @staticmethod
    def save(folder: Path, name: str, digests: bytearray) -> None:
        keys = np.frombuffer(digests, dtype=DIGEST)
        order = np.argsort(keys, kind="stable")  # the first of equal texts comes first
        np.save(folder / f"{name}.digests.npy", keys[order])
        np.save(folder / f"{name}.positions.npy", order.astype(np.int32))

    def find(self, texts: Sequence[str]) -> NDArray[np.int64]:
        wanted = np.array([_digest(text)[:DIGEST_BYTES] for text in texts], dtype=DIGEST)
        positions = np.full(len(texts), ABSENT, dtype=np.int64)
        if len(self._digests):
            nearest = np.minimum(np.searchsorted(self._digests, wanted), len(self._digests) - 1)
            there = self._digests[nearest] == wanted
            positions[there] = self._positions[nearest[there]]
        return positions


def _digest(text: str) -> bytes:
    """sha256 of a text, 32 bytes. A lone surrogate has one too: BM25 need not refuse it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def open_index(documents: Collection[str], settings: IndexSettings) -> Index:
    """The stored index of these documents, which are read once, or a new index, for which they are read again.

    Processes that need the same new index wait for the one that builds it. If the cache folder cannot be written, the
    index is in a temporary folder until it is closed. Raises EngineUnavailable if that cannot be written either.
    """
    identity = _identity(documents, settings)
    folder = cache_folder("bm25") / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    stored = _stored(folder, identity)
    if stored is not None:
        return stored
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock")):
            return _stored(folder, identity) or _renewed(folder, documents, settings, identity)
    except OSError as error:
        log.warning("crispbench: the BM25 index is kept until the end of the run only: %s", error)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            _build(Path(temporary), documents, settings, identity)
            return Index(Path(temporary))
    except OSError as error:
        raise EngineUnavailable(
            f"the BM25 index cannot be written: {error}; set CRISPBENCH_CACHE or TMPDIR to a folder with room"
        ) from None


def _identity(documents: Iterable[str], settings: IndexSettings) -> Identity:
    """Everything that decides an index."""
    size, corpus = 0, hashlib.sha256()
    for document in documents:
        size += 1
        corpus.update(_digest(document))
    code = b"".join(Path(__file__).with_name(name).read_bytes() for name in ("analysis.py", "index.py"))
    return {
        "format": FORMAT,
        "documents": size,
        "sha256": corpus.hexdigest(),
        **asdict(settings),
        "bm25s": require("bm25s", extra="bm25").__version__,
        "PyStemmer": require("Stemmer", extra="bm25").version(),
        "unicode": unicodedata.unidata_version,  # decides which characters are letters
        "code": hashlib.sha256(code).hexdigest(),
    }


def _stored(folder: Path, identity: Identity) -> Index | None:
    """The index in a folder; None if it is missing or has changed. Every byte is hashed, 1 s per GB."""
    try:
        if (folder / MANIFEST).read_bytes() != _manifest(folder, identity):
            return None
        return Index(folder)
    except OSError:
        return None


def _manifest(folder: Path, identity: Identity) -> bytes:
    hashes = {}
    for path in folder.iterdir():
        if path.name != MANIFEST:
            with path.open("rb") as file:
                hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return (json.dumps({**identity, "files": hashes}, indent=1, sort_keys=True) + "\n").encode()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """A lock for one process at a time; a killed process releases it."""
    with path.open("wb") as file:
        flock(file, LOCK_EX)
        yield


def _renewed(folder: Path, documents: Iterable[str], settings: IndexSettings, identity: Identity) -> Index:
    """Build beside the folder and rename, so that a folder of this name is always complete. The lock is held."""
    if folder.exists():
        log.warning("crispbench: the BM25 index in %s has changed since it was written: it is built again", folder)
        shutil.rmtree(folder)
    draft = folder.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)  # left by a killed build
    draft.mkdir()
    try:
        _build(draft, documents, settings, identity)
        return Index(draft.rename(folder))
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _build(folder: Path, documents: Iterable[str], settings: IndexSettings, identity: Identity) -> None:
    """Raises OSError if the disk is full, ScoringFailed if the second reading gives other documents."""
    with tempfile.TemporaryDirectory(dir=folder) as drafts:
        text = _read(documents, analysis.analyzer(settings.analysis), Path(drafts))
        if text.sha256 != identity["sha256"]:
            raise ScoringFailed(
                f"the second reading gave other documents ({len(text.lengths)}) than the first "
                f"({identity['documents']}): BM25 needs a collection that can be read twice"
            )
        _Positions.save(folder, "documents", text.documents)
        _Positions.save(folder, "terms", text.terms)
        _merge(text, folder, settings)
    parameters = {"k1": settings.k1, "b": settings.b, "method": "lucene", "num_docs": len(text.lengths)}
    (folder / "params.index.json").write_text(json.dumps(parameters), encoding="utf-8")
    (folder / MANIFEST).write_bytes(_manifest(folder, identity))


# Building. Text becomes runs of postings (term, document, count), each sorted and small enough for memory. Then the
# runs are merged, one range of terms at a time. Files are written from front to back: a full disk is then an OSError,
# while filling a memory-mapped file would end in SIGBUS.


class _Text(NamedTuple):
    """The result of reading the documents."""

    sha256: str
    documents: bytearray  # digests, in the order of the documents
    terms: bytearray  # digests, in the order of their numbers
    lengths: NDArray[np.int32]  # terms of each document
    runs: "list[_Run]"


class _Run(NamedTuple):
    keys: NDArray[np.int64]  # term << 32 | document, ascending; memory-mapped
    counts: NDArray[np.int32]  # of the term in the document


def _read(documents: Iterable[str], terms_of: analysis.Analyzer, drafts: Path) -> _Text:
    numbers: defaultdict[str, int] = defaultdict(count().__next__)
    corpus, digests = hashlib.sha256(), bytearray()
    lengths, terms = array("i"), array("i")
    first, bounds = 0, [0]  # `terms` belong to the documents from `first` on; a run lies between two bounds
    with (drafts / "keys").open("wb") as keys, (drafts / "counts").open("wb") as counts:
        for document in documents:
            digest = _digest(document)
            corpus.update(digest)
            digests += digest[:DIGEST_BYTES]
            before = len(terms)
            terms.extend(map(numbers.__getitem__, terms_of(document)))
            lengths.append(len(terms) - before)
            if len(terms) >= RUN:
                bounds.append(bounds[-1] + _write_run(keys, counts, terms, lengths, first))
                first, terms = len(lengths), array("i")
        bounds.append(bounds[-1] + _write_run(keys, counts, terms, lengths, first))
    known = bytearray()
    for term in numbers:
        known += _digest(term)[:DIGEST_BYTES]
    runs = _open_runs(drafts, bounds) if known else []
    return _Text(corpus.hexdigest(), digests, known, np.array(lengths, dtype=np.int32), runs)


def _write_run(
    keys: BufferedWriter, counts: BufferedWriter, terms: "array[int]", lengths: "array[int]", first: int
) -> int:
    documents = np.repeat(np.arange(first, len(lengths)), lengths[first:])
    postings, times = np.unique(np.array(terms, dtype=np.int64) << 32 | documents, return_counts=True)
    keys.write(postings.tobytes())
    counts.write(times.astype(np.int32).tobytes())
    return len(postings)


def _open_runs(drafts: Path, bounds: Sequence[int]) -> list[_Run]:
    """Two memory maps for all runs: one map per run would need as many open files."""
    keys, counts = np.memmap(drafts / "keys", np.int64, "r"), np.memmap(drafts / "counts", np.int32, "r")
    return [_Run(keys[start:end], counts[start:end]) for start, end in pairwise(bounds)]


def _merge(text: _Text, folder: Path, settings: IndexSettings) -> None:
    """Write the postings by term and document, with their weights, as bm25s saves them."""
    frequencies = np.zeros(len(text.terms) // DIGEST_BYTES, dtype=np.int64)  # number of documents with each term
    for run in text.runs:
        frequencies += np.bincount(run.keys >> 32, minlength=len(frequencies))
    starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(frequencies)])
    weights = _Weights(text.lengths, frequencies, settings)
    np.save(folder / "indptr.csc.index.npy", starts)
    with (folder / "data.csc.index.npy").open("wb") as data, (folder / "indices.csc.index.npy").open("wb") as indices:
        _write_header(data, np.float32, starts[-1])
        _write_header(indices, np.int32, starts[-1])
        for first, last in _ranges(starts):
            keys, counts = _between(text.runs, first << 32, last << 32)
            terms, documents = keys >> 32, keys & 0xFFFFFFFF
            data.write(weights.of(terms, documents, counts).tobytes())
            indices.write(documents.astype(np.int32).tobytes())


def _ranges(starts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of terms [first, last) with at most RUN postings each, or with a single term."""
    first = 0
    while first < len(starts) - 1:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + RUN, side="right")) - 1)
        yield first, last
        first = last


def _between(runs: Sequence[_Run], low: int, high: int) -> _Run:
    """The postings of all runs with keys in [low, high), as one run in memory."""
    bounds = [slice(*np.searchsorted(run.keys, [low, high])) for run in runs]
    keys = np.concatenate([run.keys[part] for run, part in zip(runs, bounds, strict=True)])
    counts = np.concatenate([run.counts[part] for run, part in zip(runs, bounds, strict=True)])
    order = np.argsort(keys, kind="stable")  # a stable sort merges sorted parts quickly
    return _Run(keys[order], counts[order])


class _Weights:
    """Weights of postings, with the formulas and float types of bm25s."""

    def __init__(self, lengths: NDArray[np.int32], frequencies: NDArray[np.int64], settings: IndexSettings) -> None:
        self._scoring = require("bm25s.scoring", extra="bm25")
        self._lengths, self._settings = lengths, settings
        self._mean_length = lengths.mean() if len(lengths) else 0
        idf = self._scoring._select_idf_scorer("lucene")
        distinct, index = np.unique(frequencies, return_inverse=True)
        self._idf = np.array([idf(int(value), N=len(lengths)) for value in distinct], dtype=np.float32)[index]

    def of(
        self, terms: NDArray[np.int64], documents: NDArray[np.int64], counts: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        frequency_part = self._scoring._select_tfc_scorer("lucene")(
            tf_array=counts.astype(np.float32),
            l_d=self._lengths[documents],
            l_avg=self._mean_length,
            k1=self._settings.k1,
            b=self._settings.b,
        )
        return np.asarray(self._idf[terms] * frequency_part, dtype=np.float32)


def _write_header(file: BufferedWriter, dtype: DTypeLike, size: int) -> None:
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (int(size),)}
    np.lib.format.write_array_header_1_0(file, described)
