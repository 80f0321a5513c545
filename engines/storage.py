"""Where engines and the harness keep what they can compute again, and how a file is replaced as a whole."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder(name: str) -> Path:
    """`name` under $CRISPBENCH_CACHE, by default under ~/.cache/crispbench; it need not exist."""
    root = os.environ.get("CRISPBENCH_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "crispbench") / name


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft to write to in the same folder, which takes the name `path` when the block ends.

    Readers see the old file or the new one, never a part, also when the writer is killed. Of two writers at once, the
    one that ends last wins. The draft has the suffixes of `path` and a name that no other process has; it is removed
    when the block raises.
    """
    draft = path.with_name(f".{secrets.token_hex(8)}.{path.name}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
