"""The default folder of results, and writing a file as a whole, from JSON data or from bytes."""

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.storage import replacing

RESULTS = Path("results")


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    replace_file(path, text.encode())


def read_json(path: Path, *, most_bytes: int) -> Any:
    """The content of a JSON file of at most that size. Raises OSError, and ValueError for another file."""
    return parse_json(read_text(path, most_bytes=most_bytes))


def read_text(path: Path, *, most_bytes: int, errors: str = "strict") -> str:
    """A text file of at most that size. Raises OSError, and ValueError for a larger one, a pipe or a device."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path.name} is no regular file")
    if status.st_size > most_bytes:
        raise ValueError(f"{path.name} has {status.st_size:,} bytes, expected at most {most_bytes:,}")
    return path.read_text(encoding="utf-8", errors=errors)


def parse_json(text: str | bytes) -> Any:
    """JSON as RFC 8259 has it, without NaN and infinities. Raises ValueError, also for brackets nested too deeply."""
    try:
        return json.loads(text, parse_constant=_not_a_number)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def _not_a_number(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no number")


def replace_file(path: Path, data: bytes) -> Path:
    """Replace a file as a whole: readers see the old file or the new one, never a part."""
    with replacing(path) as draft:
        draft.write_bytes(data)
    return path
