"""Token ids of texts, kept on disk, so that no engine, query, run or process encodes a text twice.

A cache is one SQLite file below `cache_folder("tokens")`, named by the hash of everything that decides an id. No score
depends on it: lost or damaged ids are encoded again, and so is every text if nothing can be written.
"""

import hashlib
import json
import logging
import sqlite3
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager

from engines.storage import cache_folder

FORMAT = 1  # 1: first version, 2026-11
DIGEST_BYTES = 16
TEXTS_PER_SELECT = 1000  # SQLite allows at most 32,766
WAIT_S = 60.0  # how long to wait for another process that writes
DAMAGED = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}  # ERROR: no such table

# Pages of 16 KB: the ids of a document take about 1.5 KB and fill pages of 4 KB badly (NFCorpus: 5.7 MB, not 6.6).
# No write-ahead log: with one, a file in a read-only folder could not be read.
SCHEMA = """
PRAGMA page_size=16384;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS identity (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS texts (digest BLOB PRIMARY KEY, checksum INTEGER NOT NULL, ids BLOB NOT NULL);
"""

Ids = list[int]

log = logging.getLogger(__name__)


def is_text(text: str) -> bool:
    """False for a text with a lone surrogate, which has no bytes and so no ids."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class TokenCache:
    """The ids that one tokenizer gives to texts. `identity` holds everything that decides an id, as strings.

    A damaged file is replaced by a new one, with one warning. A disk that cannot be written gives one warning, too.
    """

    def __init__(self, identity: Mapping[str, str]) -> None:
        self._identity = {"format": str(FORMAT), **identity}
        name = hashlib.sha256(json.dumps(self._identity, sort_keys=True).encode()).hexdigest()
        self.path = cache_folder("tokens") / f"{name}.sqlite"
        self.keeps = True  # whether `keep` still stores ids
        self._warned = self._renewed = False
        self._connection: sqlite3.Connection | None = None
        with self._survived():
            self._open()

    def find(self, texts: Sequence[str]) -> dict[str, Ids]:
        """The ids of those texts that are stored with a correct checksum."""
        digests = {_digest(text): text for text in texts if is_text(text)}
        wanted, ids = list(digests), dict[str, Ids]()
        with self._survived():
            for start in range(0, len(wanted), TEXTS_PER_SELECT):
                for digest, checksum, packed in self._rows(wanted[start : start + TEXTS_PER_SELECT]):
                    if digest in digests and isinstance(packed, bytes) and checksum == _checksum(digest, packed):
                        ids[digests[digest]] = list(struct.unpack(f"<{len(packed) // 4}I", packed))
                    else:
                        self._warn_of_damage()
        return ids

    def keep(self, ids: Mapping[str, Sequence[int]]) -> None:
        """Store the ids of texts, all of them valid text; existing rows are overwritten."""
        rows = []
        for text, numbers in ids.items():
            digest, packed = _digest(text), struct.pack(f"<{len(numbers)}I", *numbers)
            rows.append((digest, _checksum(digest, packed), packed))
        with self._survived():
            if self._connection is not None and self.keeps:
                with self._connection:
                    self._connection.executemany("INSERT OR REPLACE INTO texts VALUES (?, ?, ?)", rows)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self.keeps = None, False

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # a load generator prepares in one thread and scores in another; SQLite serialises the calls
        connection = sqlite3.connect(self.path, timeout=WAIT_S, isolation_level="IMMEDIATE", check_same_thread=False)
        self._connection = connection
        connection.execute("PRAGMA synchronous=OFF")  # a kill loses nothing; damage by a power cut is noticed
        with closing(connection.execute("PRAGMA user_version")) as version:
            if version.fetchone() == (FORMAT,):
                return
        connection.executescript(SCHEMA)
        connection.executemany("INSERT OR REPLACE INTO identity VALUES (?, ?)", self._identity.items())
        connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.commit()

    def _rows(self, digests: Sequence[bytes]) -> list[tuple[bytes, int, bytes]]:
        if self._connection is None:
            return []
        marks = ", ".join("?" * len(digests))
        return self._connection.execute(
            f"SELECT digest, checksum, ids FROM texts WHERE digest IN ({marks})", digests
        ).fetchall()

    @contextmanager
    def _survived(self) -> Iterator[None]:
        """Errors of the disk cost one warning and the work of this block, and nothing more."""
        try:
            yield
        except (OSError, sqlite3.Error, UnicodeDecodeError) as error:
            if _is_damage(error) and not self._renewed:
                self._warn_of_damage()
                self._renew()
            else:
                self._go_on_without(error)

    def _renew(self) -> None:
        """Replace a damaged file by an empty one. A process that still has the old file open may damage it again."""
        self.close()
        self.keeps = self._renewed = True
        with self._survived():
            for path in (self.path, self.path.with_name(f"{self.path.name}-journal")):
                path.unlink(missing_ok=True)
            self._open()

    def _go_on_without(self, error: Exception) -> None:
        """Store nothing from now on; stored ids may still be read."""
        if self.keeps:
            log.warning("crispbench: new token ids are not stored on disk, at %s: %s", self.path, error)
        self.keeps = False

    def _warn_of_damage(self) -> None:
        if not self._warned:
            log.warning("crispbench: %s is damaged: lost ids are encoded again", self.path)
        self._warned = True


def _is_damage(error: Exception) -> bool:
    if isinstance(error, UnicodeDecodeError):  # SQLite's own message, which quotes the file
        return True
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def _checksum(digest: bytes, packed: bytes) -> int:
    return zlib.crc32(packed, zlib.crc32(digest))
