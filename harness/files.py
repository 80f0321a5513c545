"""The default folder of results, and writing a file as a whole, from JSON data or from bytes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.storage import replacing

RESULTS = Path("results")


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    replace_file(path, text.encode())


def replace_file(path: Path, data: bytes) -> Path:
    """Replace a file as a whole: readers see the old file or the new one, never a part."""
    with replacing(path) as draft:
        draft.write_bytes(data)
    return path
