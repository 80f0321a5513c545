"""Where results are written, and how: a reader sees the old file or the new one, never a part."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path("results")


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Atomically: a reader sees the old file or the new one."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def replace_file(path: Path, data: bytes) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
