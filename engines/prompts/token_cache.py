"""Token ids of texts, kept on disk: what one engine, query, run or process has encoded, none encodes again.

A cache is one SQLite file below `cache_folder("tokens")`, named by the hash of all that decides an id. No score depends
on it: what is lost or damaged is encoded again, and where nothing can be written, everything is. It knows no template.
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
ASKED = 1000  # texts of one SELECT; SQLite takes 32,766 at most
WAIT_S = 60.0  # for another process that writes
DAMAGED = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}  # ERROR: no such table

# Pages of 16 KB: ids of a document are about 1.5 KB, which fill pages of 4 KB badly (NFCorpus: 5.7 MB, not 6.6).
# No write-ahead log: with one, a file in a folder without permission to write could not be read.
SCHEMA = """
PRAGMA page_size=16384;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS identity (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS texts (digest BLOB PRIMARY KEY, checksum INTEGER NOT NULL, ids BLOB NOT NULL);
"""

Ids = list[int]

log = logging.getLogger(__name__)


def is_text(text: str) -> bool:
    """False for what holds a lone surrogate: it has no bytes, so no ids."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class TokenCache:
    """The ids that one tokenizer gives to texts. `identity` holds, in words, everything that decides an id.

    One warning is given for a damaged file, which is made anew, and one for a disk that takes nothing more.
    """

    def __init__(self, identity: Mapping[str, str]) -> None:
        self._identity = {"format": str(FORMAT), **identity}
        name = hashlib.sha256(json.dumps(self._identity, sort_keys=True).encode()).hexdigest()
        self.path = cache_folder("tokens") / f"{name}.sqlite"
        self.keeps = True  # whether what `keep` is given will be found
        self._warned = self._renewed = False
        self._connection: sqlite3.Connection | None = None
        with self._survived():
            self._open()

    def find(self, texts: Sequence[str]) -> dict[str, Ids]:
        """The ids of those texts that are kept, if their checksum is right."""
        digests = {_digest(text): text for text in texts if is_text(text)}
        asked, found = list(digests), dict[str, Ids]()
        with self._survived():
            for start in range(0, len(asked), ASKED):
                for digest, checksum, packed in self._rows(asked[start : start + ASKED]):
                    if digest in digests and isinstance(packed, bytes) and checksum == _checksum(digest, packed):
                        found[digests[digest]] = list(struct.unpack(f"<{len(packed) // 4}I", packed))
                    else:
                        self._warn_of_damage()
        return found

    def keep(self, ids: Mapping[str, Sequence[int]]) -> None:
        """Keep the ids of texts that are none of those without bytes; a row that is there is written over."""
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
        # a load generator scores in another thread than the one that prepared; SQLite takes its calls one by one
        connection = sqlite3.connect(self.path, timeout=WAIT_S, isolation_level="IMMEDIATE", check_same_thread=False)
        self._connection = connection
        connection.execute("PRAGMA synchronous=OFF")  # a kill loses nothing by it; a power cut may, which is noticed
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
        places = ", ".join("?" * len(digests))
        return self._connection.execute(
            f"SELECT digest, checksum, ids FROM texts WHERE digest IN ({places})", digests
        ).fetchall()

    @contextmanager
    def _survived(self) -> Iterator[None]:
        """Whatever the disk does costs one warning and what the block was to do, and no more."""
        try:
            yield
        except (OSError, sqlite3.Error, UnicodeDecodeError) as error:
            if _is_damage(error) and not self._renewed:
                self._warn_of_damage()
                self._renew()
            else:
                self._go_on_without(error)

    def _renew(self) -> None:
        """An empty file in the place of a damaged one; a process that still has that one open may damage it again."""
        self.close()
        self.keeps = self._renewed = True
        with self._survived():
            for path in (self.path, self.path.with_name(f"{self.path.name}-journal")):
                path.unlink(missing_ok=True)
            self._open()

    def _go_on_without(self, error: Exception) -> None:
        """What is kept may still be read."""
        if self.keeps:
            log.warning("crispbench: new token ids are not kept on disk, at %s: %s", self.path, error)
        self.keeps = False

    def _warn_of_damage(self) -> None:
        if not self._warned:
            log.warning("crispbench: %s is damaged: what is lost is encoded again", self.path)
        self._warned = True


def _is_damage(error: Exception) -> bool:
    if isinstance(error, UnicodeDecodeError):  # SQLite's own message, which quotes the file
        return True
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def _checksum(digest: bytes, packed: bytes) -> int:
    return zlib.crc32(packed, zlib.crc32(digest))
