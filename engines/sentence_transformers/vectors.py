"""Vectors of texts, kept on disk: what one engine, benchmark, run or process has computed, none computes again.

A store is a folder with two files of equally many rows, written one behind the other and never changed: `keys` (digest
of the text; CRC-32 of digest and vector) and `vectors` (float32). A row is there once both files hold the whole of it:
what a kill left of one is written over by the next. In memory are the digests only, 24 bytes of each.
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
UNSORTED = 2**18  # rows that are looked up in a dictionary, 150 bytes each, before all are sorted again
SPAN = 2**48  # rows of the temporary files are numbered from here
ABSENT = -1

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]  # [rows, dimensions]

log = logging.getLogger(__name__)


def digest(text: str) -> bytes:
    """What a text is known by. Raises UnicodeEncodeError for a lone surrogate, which is no text."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


class VectorStore:
    """The vectors that one model gave to texts.

    `identity` holds, in words, everything that decides a vector; its hash names the folder. None if that is not known:
    then, and from the moment that the folder cannot be written, vectors go to temporary files, which no kill leaves
    behind.
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
        """The row of each; ABSENT where there is none, or none whose checksum is right."""
        rows = np.full(len(digests), ABSENT, dtype=np.int64)
        for number, part in enumerate(self._parts):
            missing = np.flatnonzero(rows == ABSENT)
            found = part.find([digests[place] for place in missing.tolist()])
            rows[missing] = np.where(found == ABSENT, ABSENT, found + number * SPAN)
        return rows

    def read(self, rows: Rows) -> Vectors:
        """A copy of the rows that `find` gave; NaN for ABSENT."""
        found = np.full((len(rows), self._dimensions), np.nan, dtype=np.float32)
        for number, part in enumerate(self._parts):
            here = rows // SPAN == number
            if here.all():
                return part.vectors[rows % SPAN]
            found[here] = part.vectors[rows[here] % SPAN]
        return found

    def append(self, digests: Sequence[bytes], vectors: Vectors) -> Rows:
        """The rows that hold the vectors from now on; those that another process has written meanwhile stay its own.

        Raises EngineUnavailable if there is no room in temporary files either.
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
    """One pair of files."""

    def __init__(self, keys: FileIO, vectors: FileIO, dimensions: int) -> None:
        self._files = keys, vectors
        self._dimensions = dimensions
        self._warned = False
        self._size = 0  # rows that are known
        self._keys = np.empty(0, dtype=KEY)
        self.vectors: Vectors = np.empty((0, dimensions), dtype=np.float32)
        self._sorted = np.empty(0, dtype=f"S{DIGEST_BYTES}")  # the digests of the first rows ...
        self._order: Rows = np.empty(0, dtype=np.int64)  # ... and which rows these are
        self._recent: dict[bytes, int] = {}  # of the others

    def find(self, digests: Sequence[bytes]) -> Rows:
        self._refresh()
        rows = self._newest(digests)
        for place in np.flatnonzero(rows != ABSENT).tolist():
            row = rows[place]
            if _checksum(digests[place], self.vectors[row]) != self._keys["checksum"][row]:
                rows[place] = ABSENT
                self._warn()
        return rows

    def append(self, digests: Sequence[bytes], vectors: Vectors) -> Rows:
        """Raises OSError where nothing can be written, or not be read again."""
        with self._locked():
            new = np.flatnonzero(self.find(digests) == ABSENT).tolist()
            keys = np.array([(digests[place], _checksum(digests[place], vectors[place])) for place in new], dtype=KEY)
            _write(self._files[1], vectors[new].tobytes(), self._size * 4 * self._dimensions)
            _write(self._files[0], keys.tobytes(), self._size * KEY.itemsize)  # last: they say that vectors are there
            rows = self.find(digests)
        if (rows == ABSENT).any():
            raise OSError(f"{self._files[1].name!r} does not keep what is written")
        return rows

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """No other process appends meanwhile; also not by another engine of this one."""
        if not all(file.writable() for file in self._files):
            raise PermissionError(f"{self._files[1].name!r} can only be read")
        flock(self._files[0], LOCK_EX)
        try:
            yield
        finally:
            flock(self._files[0], LOCK_UN)

    def _refresh(self) -> None:
        """Learn of rows that were appended since, by whichever process."""
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
        """Of rows with the same digest the last counts: it was written because the others are damaged."""
        rows = np.array([self._recent.get(each, ABSENT) for each in digests], dtype=np.int64)
        if len(self._order):
            asked = np.array(digests, dtype=self._sorted.dtype)
            places = np.searchsorted(self._sorted, asked, side="right") - 1
            sorted_rows = np.where(self._sorted[places] == asked, self._order[places], ABSENT)
            rows = np.maximum(rows, sorted_rows)
        return rows

    def _warn(self) -> None:
        if not self._warned:
            log.warning("crispbench: %s is damaged: what is lost is computed again", self._files[1].name)
        self._warned = True


def _no_room(error: OSError) -> EngineUnavailable:
    return EngineUnavailable(f"embeddings find no room on disk: {error}; set TMPDIR to a folder with room")


def _opened(path: Path) -> FileIO:
    """To read and write, or only to read where nothing can be written."""
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
