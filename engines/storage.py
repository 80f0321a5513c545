"""Where engines and the harness keep what they can compute again: indexes, embeddings, candidates."""

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """`name` under $CRISPBENCH_CACHE, by default under ~/.cache/crispbench; it need not exist."""
    root = os.environ.get("CRISPBENCH_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "crispbench") / name
