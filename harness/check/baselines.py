"""The baseline store: named baselines with their history, copied from recorded folders. Nothing is ever overwritten.

STORE/NAME/0001/ is one save: `entry.json`, and a folder per launch (`1`, `2`, ...) with what a check reads. An entry is
written as a draft and then renamed, under a lock: a killed save leaves a draft, which the next save removes, and two
writers wait for each other.
"""

import fcntl
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from engines.base import BadOptions, first_line
from engines.spelling import expected
from harness import files
from harness.check import sides
from harness.check.sides import LATENCY, CheckSide
from harness.config import Name
from harness.files import RESULTS, write_json
from harness.manifest import Manifest
from harness.run.folder import WORKERS
from harness.store import FILE, StoreError

STORE = RESULTS / "baselines"
FORMAT = 1  # 1: first version, 2026-11
ENTRY = "entry.json"
MAX_BYTES = 2**20  # of an entry
DRAFT = ".draft"
COPIED = ("manifest.json", "measures.json", WORKERS)  # copied beside the scores and the recordings


@dataclass(frozen=True)
class BaselineEntry:
    """One save of a baseline: its place in the store, and the content of its entry.json."""

    name: str
    number: int  # from 1
    folder: Path
    saved: str  # ISO 8601, UTC
    commit: str | None  # ends with "+" if files were changed; None if unknown
    engine: str
    machine: Mapping[str, Any]  # as `harness.machine.record` returns it
    launches: int
    sources: tuple[str, ...]  # the folders that were copied

    @property
    def folders(self) -> list[Path]:
        """The copies, one per launch."""
        return [self.folder / str(number) for number in range(1, self.launches + 1)]

    def document(self) -> dict[str, Any]:
        """The content of entry.json."""
        return {
            "format": FORMAT,
            "saved": self.saved,
            "commit": self.commit,
            "engine": self.engine,
            "machine": dict(self.machine),
            "launches": self.launches,
            "sources": list(self.sources),
        }

    @classmethod
    def read(cls, folder: Path) -> "BaselineEntry":
        """The entry in a folder of the store. Raises StoreError."""
        try:
            document = files.read_json(folder / ENTRY, most_bytes=MAX_BYTES)
            if document["format"] != FORMAT:
                raise ValueError(f"its format is {document['format']!r}, this version reads {FORMAT}")
            return cls(
                name=folder.parent.name,
                number=int(folder.name),
                folder=folder,
                saved=document["saved"],
                commit=document["commit"],
                engine=document["engine"],
                machine=document["machine"],
                launches=document["launches"],
                sources=tuple(document["sources"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{folder / ENTRY} is not an entry of a baseline ({first_line(error)}); move the folder away"
            ) from None


@dataclass(frozen=True)
class StoredLaunches:
    """The launches that a name of the store stands for in a check: those of its last entries, newest first."""

    folders: list[Path]
    saved: str
    commit: str | None
    history: Sequence[BaselineEntry] = ()  # all saves of the name, oldest first


def save(store: Path, name: str, folders: Sequence[Path]) -> BaselineEntry:
    """Append an entry with a copy of the folders, each a launch of one engine.

    Raises BadOptions for a name that is not a single path component, StoreError for a folder that is incomplete or
    invalid (a check against it could never pass), NotComparable if the folders are not launches of one engine on one
    machine.
    """
    _require_name(name)
    if not folders:
        raise BadOptions("no folder: expected at least one RUN/ENGINE folder")
    side = sides.read(folders)
    sides.require_one_engine(side)
    _require_sound(side)
    history_folder = store / name
    history_folder.mkdir(parents=True, exist_ok=True)
    with _lock(history_folder):
        for draft in history_folder.glob(f"{DRAFT}*"):  # left by a killed save, because the lock is ours
            shutil.rmtree(draft)
        number = max((entry.number for entry in entries(store, name)), default=0) + 1
        draft = history_folder / f"{DRAFT}-{number:04}"
        entry = _entry(name, number, history_folder / f"{number:04}", folders, side)
        for launch, folder in enumerate(folders, start=1):
            _copy(folder, draft / str(launch))
        write_json(draft / ENTRY, entry.document())
        draft.rename(entry.folder)
    return entry


def entries(store: Path, name: str) -> list[BaselineEntry]:
    """The entries of a baseline, oldest first; empty if the name has no entries. Raises StoreError."""
    folders = [path for path in (store / name).glob("[0-9]*") if path.name.isdigit()]
    return [BaselineEntry.read(path) for path in sorted(folders, key=lambda path: int(path.name))]


def names(store: Path) -> list[str]:
    """Names with at least one entry, in alphabetical order."""
    return sorted(path.name for path in store.glob("*") if path.is_dir() and entries(store, path.name))


def history(store: Path, name: str) -> list[BaselineEntry]:
    """The entries of a name, oldest first. Raises BadOptions, which lists the known names, if it has no entries."""
    _require_name(name)
    saved = entries(store, name)
    if not saved:
        raise BadOptions(f"{store} has no baseline {name!r}; {expected(name, names(store) or ['none'])}")
    return saved


def find(store: Path, text: str, last: int = 1) -> StoredLaunches | None:
    """The baseline that `NAME` or `NAME@NUMBER` stands for; None if the store has no such name.

    Raises BadOptions for a number that the baseline does not have, StoreError for an entry that cannot be read.
    """
    name, _, number = text.partition("@")
    try:
        _require_name(name)
        saved = every = entries(store, name)
    except BadOptions:
        return None
    if not saved:
        return None
    if number:
        saved = [entry for entry in saved if str(entry.number) == number.lstrip("0")]
        if not saved:
            raise BadOptions(f"baseline {name!r} has no entry {number!r}: see `crispbench baseline history {name}`")
    chosen = saved[::-1][:last]
    folders = [folder for entry in chosen for folder in entry.folders]
    return StoredLaunches(folders, chosen[0].saved, chosen[0].commit, every)


def _require_name(name: str) -> None:
    try:
        TypeAdapter[str](Name).validate_python(name)
    except ValidationError:
        raise BadOptions(
            f"baseline name {name!r}: expected letters, digits, '.', '_' and '-', the first a letter or digit"
        ) from None


def _require_sound(side: CheckSide) -> None:
    for scenario, launches in side.launches.items():
        cause = sides.invalid(launches)
        if cause:
            raise StoreError(f"{side.folders[0]}: {scenario}: {cause}; a baseline has to be valid, so measure again")
    for row in side.recorded.rows.values() if side.recorded else ():
        if row.verdict != "complete":
            raise StoreError(
                f"{side.folders[0]} is {row.verdict} on {row.benchmark}: a baseline has to be complete; "
                "repeat its `crispbench run`, which resumes"
            )


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # a save takes moments: wait for the other writer
        yield


def _copy(folder: Path, target: Path) -> None:
    (target / LATENCY).mkdir(parents=True)
    for name in COPIED:
        if (folder / name).is_file():
            shutil.copy2(folder / name, target / name)
    for path in sides.recordings(folder):
        shutil.copy2(path, target / LATENCY / path.name)
    if (folder / FILE).is_file():
        _copy_scores(folder / FILE, target / FILE)


def _copy_scores(source: Path, target: Path) -> None:
    """Copy with SQLite's backup, which includes everything that a killed run left in the write-ahead log."""
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as original,
            closing(sqlite3.connect(target)) as copy,
        ):
            original.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as error:
        raise StoreError(f"{source}: {error}; nothing was saved") from None


def _entry(name: str, number: int, folder: Path, folders: Sequence[Path], side: CheckSide) -> BaselineEntry:
    source = side.source
    if isinstance(source, Manifest):
        machine: Mapping[str, Any] = {**source.machine.document(), "versions": source.versions}
    else:
        machine = source.machine
    return BaselineEntry(
        name=name,
        number=number,
        folder=folder,
        saved=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=machine.get("commit") or _commit(),
        engine=source.engine,
        machine=machine,
        launches=len(folders),
        sources=tuple(str(folder) for folder in folders),
    )


def _commit() -> str | None:
    """The commit of the working directory, with "+" if files were changed; None outside a checkout."""
    try:
        commit, changes = (
            subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.strip() + ("+" if changes else "")
