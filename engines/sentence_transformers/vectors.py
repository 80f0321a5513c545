"""Vectors of texts, kept on disk, so that no engine, benchmark, run or process computes a vector twice.

A store is a folder with two append-only files with the same number of rows: `keys` (digest of the text; CRC-32 of
digest and vector) and `vectors` (float32). A row exists once both files hold all of it: the next append overwrites what
a kill left. Only the digests are in memory, 24 bytes per row.
"""

import hashlib
import json
import logging
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fcntl import LOCK_EX, LOCK_UN, flock
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.base import EngineUnavailable
from engines.storage import cache_folder, replacing

FORMAT = 1  # 1: first version, 2026-11
DIGEST_BYTES = 16
KEY = np.dtype([("digest", f"V{DIGEST_BYTES}"), ("checksum", "<u4")])
UNSORTED = 2**18  # rows in a dictionary, 150 bytes per row, before all rows are sorted again
SPAN = 2**48  # number of the first row of the temporary files
ABSENT = -1

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]  # [rows, dimensions]

log = logging.getLogger(__name__)


def digest(text: str) -> bytes:
    """The key of a text. Raises UnicodeEncodeError for a lone surrogate, which has no bytes."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


class VectorStore:
    """The vectors of texts by one model.

    `identity` holds everything that decides a vector, as strings; its hash names the folder. With None, and as soon as
    the folder cannot be written, vectors go to temporary files, which vanish even if the process is killed.
    """

    def __init__(self, identity: Mapping[str, str] | None, dimensions: int) -> None:
        self._dimensions = dimensions
        self._open = ExitStack()
        self._parts: list[_Part] = []  # the shared files, then the temporary ones
        self._temporary = False
        if identity is None:
            self._add_temporary()
            return
        try:
            self._add_shared({"format": FORMAT, "dimensions": dimensions, **identity})
        except OSError as error:
            self._go_on_without(error)

    def find(self, digests: Sequence[bytes]) -> Rows:
        """The row of each digest; ABSENT where there is no row with a correct checksum."""
        rows = np.full(len(digests), ABSENT, dtype=np.int64)
        for number, part in enumerate(self._parts):
            missing = np.flatnonzero(rows == ABSENT)
            rows_in_part = part.find([digests[index] for index in missing.tolist()])
            rows[missing] = np.where(rows_in_part == ABSENT, ABSENT, rows_in_part + number * SPAN)
        return rows

    def read(self, rows: Rows) -> Vectors:
        """A copy of the rows that `find` gave; NaN for ABSENT."""
        vectors = np.full((len(rows), self._dimensions), np.nan, dtype=np.float32)
        for number, part in enumerate(self._parts):
            here = rows // SPAN == number
            if here.all():
                return part.vectors[rows % SPAN]
            vectors[here] = part.vectors[rows[here] % SPAN]
        return vectors

    def append(self, digests: Sequence[bytes], vectors: Vectors) -> Rows:
        """The rows that hold the vectors; rows that another process has written meanwhile are used as they are.

        Raises EngineUnavailable if temporary files have no room either.
        """
        try:
            return self._parts[-1].append(digests, vectors) + (len(self._parts) - 1) * SPAN
        except OSError as error:
            self._go_on_without(error)
            return self.append(digests, vectors)

    def close(self) -> None:
        self._parts = []
        self._open.close()

    def _add_shared(self, manifest: Mapping[str, Any]) -> None:
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        folder = cache_folder("embeddings") / hashlib.sha256(text.encode()).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "manifest.json").exists():
            with replacing(folder / "manifest.json") as draft:
                draft.write_text(text, encoding="utf-8")
        keys, vectors = (self._open.enter_context(_opened(folder / name)) for name in ("keys", "vectors"))
        self._parts.append(_Part(keys, vectors, self._dimensions))

    def _add_temporary(self) -> None:
        self._temporary = True
        try:
            keys, vectors = (self._open.enter_context(tempfile.TemporaryFile(buffering=0)) for _ in range(2))
        except OSError as error:
            raise _no_room(error) from None
        self._parts.append(_Part(keys, vectors, self._dimensions))

    def _go_on_without(self, error: OSError) -> None:
        if self._temporary:
            raise _no_room(error) from None
        log.warning("crispbench: new embeddings are kept until the end of the run only: %s", error)
        self._add_temporary()


class _Part:
    """One pair of files, `keys` and `vectors`."""

    def __init__(self, keys: FileIO, vectors: FileIO, dimensions: int) -> None:
        self._files = keys, vectors
        self._dimensions = dimensions
        self._warned = False
        self._size = 0  # number of rows read so far
        self._keys = np.empty(0, dtype=KEY)
        self.vectors: Vectors = np.empty((0, dimensions), dtype=np.float32)
        self._sorted = np.empty(0, dtype=f"S{DIGEST_BYTES}")  # digests of the oldest rows, ascending
        self._order: Rows = np.empty(0, dtype=np.int64)  # the rows of `_sorted`
        self._recent: dict[bytes, int] = {}  # digests and rows of the others

    def find(self, digests: Sequence[bytes]) -> Rows:
        self._refresh()
        rows = self._newest(digests)
        for index in np.flatnonzero(rows != ABSENT).tolist():
            row = rows[index]
            if _checksum(digests[index], self.vectors[row]) != self._keys["checksum"][row]:
                rows[index] = ABSENT
                self._warn()
        return rows

    def append(self, digests: Sequence[bytes], vectors: Vectors) -> Rows:
        """Raises OSError if nothing can be written, or if it cannot be read again."""
        with self._locked():
            new = np.flatnonzero(self.find(digests) == ABSENT).tolist()
            keys = np.array([(digests[index], _checksum(digests[index], vectors[index])) for index in new], dtype=KEY)
            _write(self._files[1], vectors[new].tobytes(), self._size * 4 * self._dimensions)
            _write(self._files[0], keys.tobytes(), self._size * KEY.itemsize)  # last: a key promises its vector
            rows = self.find(digests)
        if (rows == ABSENT).any():
            raise OSError(f"{self._files[1].name!r} does not keep what is written")
        return rows

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes, and other engines in this process, from appending meanwhile."""
        if not all(file.writable() for file in self._files):
            raise PermissionError(f"{self._files[1].name!r} can only be read")
        flock(self._files[0], LOCK_EX)
        try:
            yield
        finally:
            flock(self._files[0], LOCK_UN)

    def _refresh(self) -> None:
        """Read the keys of rows that any process has appended since."""
        sizes = [os.fstat(file.fileno()).st_size for file in self._files]
        known, size = self._size, min(sizes[0] // KEY.itemsize, sizes[1] // (4 * self._dimensions))
        if size <= known:
            return
        self._keys = np.asarray(np.memmap(self._files[0], KEY, "r", shape=(size,)))
        self.vectors = np.asarray(np.memmap(self._files[1], np.float32, "r", shape=(size, self._dimensions)))
        self._size = size
        digests = self._keys["digest"]
        if size - len(self._order) <= UNSORTED:
            self._recent.update(zip(digests[known:].tolist(), range(known, size), strict=True))
            return
        self._recent = {}
        self._order = np.argsort(digests.view(self._sorted.dtype), kind="stable")
        self._sorted = digests.view(self._sorted.dtype)[self._order]

    def _newest(self, digests: Sequence[bytes]) -> Rows:
        """The last row with each digest: it was written because the earlier ones are damaged."""
        rows = np.array([self._recent.get(digest, ABSENT) for digest in digests], dtype=np.int64)
        if len(self._order):
            wanted = np.array(digests, dtype=self._sorted.dtype)
            positions = np.searchsorted(self._sorted, wanted, side="right") - 1
            sorted_rows = np.where(self._sorted[positions] == wanted, self._order[positions], ABSENT)
            rows = np.maximum(rows, sorted_rows)
        return rows

    def _warn(self) -> None:
        if not self._warned:
            log.warning("crispbench: %s is damaged: lost vectors are computed again", self._files[1].name)
        self._warned = True


def _no_room(error: OSError) -> EngineUnavailable:
    return EngineUnavailable(f"embeddings cannot be written to disk: {error}; set TMPDIR to a folder with room")


def _opened(path: Path) -> FileIO:
    """A file opened to read and write, or only to read where it cannot be written."""
    try:
        return open(path, "r+b", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o666))
    except OSError:
        return open(path, "rb", buffering=0)


def _checksum(key: bytes, vector: NDArray[np.float32]) -> int:
    return zlib.crc32(vector.data, zlib.crc32(key))


def _write(file: FileIO, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(file.fileno(), left, offset)
        left, offset = left[written:], offset + written
