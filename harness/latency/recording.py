"""Raw timings of one measurement: a file of JSON lines that only grows.

First line: what is measured, how and on what. Then a line for each answered request. Last line: how it ended. A file
without its last line was killed, and stays incomplete: it is never resumed. A second process has other memory, other
clocks, cold caches and no queue; its requests beside those of the first would be one number about two machines.
"""

import fcntl
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.latency.load import Timing
from harness.store import StoreError

FORMAT = 1  # 1: first version, 2026-11


@dataclass(frozen=True)
class Recording:
    header: Mapping[str, Any]
    timings: tuple[Timing, ...]  # in the order of their schedule
    end: Mapping[str, Any] | None  # None: killed before its end


class Recorder:
    """Writes a recording; in place of an earlier one, behind a lock. Threads may share it. Raises StoreError."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise StoreError(f"{path} is being written by another measurement: wait for it or use --out") from None
        self._file.truncate(0)
        self._turn = threading.Lock()
        self._write({"format": FORMAT, **header})

    def add(self, timing: Timing) -> None:
        self._write(asdict(timing))

    def end(self, document: Mapping[str, Any]) -> None:
        """The measurement is complete."""
        self._write({"end": document})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _write(self, document: Mapping[str, Any]) -> None:
        line = json.dumps(document, ensure_ascii=False) + "\n"
        with self._turn:
            self._file.write(line)
            self._file.flush()  # to the system, not to the disk: that survives a kill and costs microseconds


def read(path: Path) -> Recording:
    """A recording, also an incomplete one; a line that was cut short is left out. Raises StoreError."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        documents = [json.loads(line) for line in lines[:-1]]  # what follows the last newline is cut short, or nothing
        header, *rest = documents
        if header["format"] != FORMAT:
            raise ValueError(f"its format is {header['format']!r}, this version reads {FORMAT}")
        end = rest.pop()["end"] if rest and "end" in rest[-1] else None
        timings = sorted((Timing(**document) for document in rest), key=lambda timing: timing.scheduled_s)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StoreError(f"{path}: no recording of `crispbench latency` ({error}); measure again") from None
    return Recording(header, tuple(timings), end)
