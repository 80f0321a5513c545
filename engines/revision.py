"""What a model is known by: a hash of the weights in a local folder, or the hub's commit."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def weights_revision(folder: str) -> str:
    """`sha256:` and 16 hex digits over the folder's safetensors files in path order; empty if it holds none."""
    files = sorted(Path(folder).rglob("*.safetensors"))
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:16]}" if files else ""


def hub_commit(model: "nn.Module") -> str | None:
    """The hub's commit that a part of the model was loaded from; None for a folder."""
    configs = (getattr(module, "config", None) for module in model.modules())
    return next((commit for config in configs if (commit := getattr(config, "_commit_hash", None))), None)
