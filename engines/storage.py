"""Paths in a config, the cache folder, and files that are replaced as a whole.

Engines and the harness share this leaf, so that a path in a config means the same to both.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.base import BadOptions


def resolve(path: str | Path) -> Path:
    """A path in a config: relative to the working directory; a leading `~` is the home folder.

    Every path in a config passes through here and nowhere else: folders of benchmarks, run files, folders of models
    and tokenizers, template files, certificate authorities. Raises BadOptions for an unknown `~NAME`.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise BadOptions(f"path {str(path)!r}: {error}".rstrip(".") + "; write the folder out") from None


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
