"""What a model in a local folder is known by: a hash of its weights."""

import hashlib
from pathlib import Path


def weights_revision(folder: str) -> str:
    """`sha256:` and 16 hex digits over the folder's safetensors files in path order; empty if it holds none."""
    files = sorted(Path(folder).rglob("*.safetensors"))
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:16]}" if files else ""
