"""A model's files: where they are, which revision they have, and whether tokenizer and labels fit the weights."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from engines import hub
from engines.base import BadOptions, EngineUnavailable
from engines.prompts.template import Labels
from engines.spelling import closest
from engines.storage import places_of, resolve, shadowed, tried

if TYPE_CHECKING:
    from torch import nn

TEMPLATE = "crispbench_template"  # key of config.json: the template that a checkpoint was trained with
QUANTIZED = "quantization_report.json"  # beside an FP8 checkpoint; names the template that it was calibrated with
MOST_BYTES = 2**24  # of a JSON file that may name a template
TRAINED_WITH_DEFAULT = ("mixedbread-ai/mxbai-rerank-base-v2", "mixedbread-ai/mxbai-rerank-large-v2")
DEMONSTRATION = "crispbench_demonstration"  # key of config.json: true for a model that only shows how the harness works


def locate(model: str, config_folder: Path | None = None) -> str:
    """The folder of a model or tokenizer in a config, or its name on the hub unchanged.

    A folder is a path, or `package:NAME/FOLDER` inside an installed package. Raises EngineUnavailable, BadOptions.
    """
    if not model.startswith("package:"):
        path = resolve(model, config_folder)
        return str(path) if path.is_dir() else model
    package, _, folder = model.removeprefix("package:").partition("/")
    if not package.isidentifier():
        raise BadOptions(f"model {model!r}: expected package:NAME/FOLDER with the name of a Python package")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        distribution = package.replace("_", "-")
        raise EngineUnavailable(f"model {model!r}: package {package} is not installed: pip install {distribution}")
    return str(Path(spec.origin).parent / folder)


def require_model(
    model: str,
    config_folder: Path | None,
    *,
    extra: str,
    what: str = "model",
    revision: str | None = None,
    files: Sequence[str] = ("config.json",),
) -> tuple[str, ...]:
    """Look for a model or a tokenizer in seconds, without loading it; it must have one of `files`. Returns notes.

    Raises BadOptions for a folder that does not exist or holds something else, and EngineUnavailable for a name that
    the hub and its cache do not give now. `extra` installs the hub's library.
    """
    folder = Path(locate(model, config_folder))
    if folder.is_dir():
        if not any((folder / name).exists() for name in files):
            wanted = " or ".join(files)
            raise BadOptions(f"{what} {model!r}: the folder {folder.absolute()} has no {wanted}: name one that has it")
        return () if model.startswith("package:") else shadowed(model, config_folder)
    if model.startswith("package:"):
        raise BadOptions(f"{what} {model!r}: no such folder, tried {folder}")
    path = resolve(model, config_folder)
    if path.exists():
        raise BadOptions(f"{what} {model!r}: {path.absolute()} is a file: name the folder of the checkpoint")
    near = _near(model, config_folder)
    missing = BadOptions(f"{what} {model!r}: no such folder, tried {tried(model, config_folder)}{near}")
    if not hub.is_name(model):
        raise missing
    try:
        hub.require_files(model, files, what=what, revision=revision, extra=extra)
    except EngineUnavailable as error:
        beside = [place.parent.is_dir() for place in places_of(model, config_folder)]
        if "/" in model and any(beside):  # a path with a slip: its other folders exist
            raise missing from None
        raise EngineUnavailable(f"{error} (no folder either, tried {tried(model, config_folder)})") from None
    return ()


def _near(model: str, config_folder: Path | None) -> str:
    """The folder beside a missing one that was probably meant."""
    for place in places_of(model, config_folder):
        if place.parent.is_dir():
            near = closest(place.name, [other.name for other in place.parent.iterdir() if other.is_dir()])
            if near is not None:
                return f"; did you mean {str(place.parent / near)!r}?"
    return ""


def unset_template(model: str, config_folder: Path | None, used: str) -> tuple[str, ...]:
    """One line for an engine without `template` whose checkpoint names another one than `used`, or none."""
    named = _named_template(Path(locate(model, config_folder)))
    if named == used or (named is None and model in TRAINED_WITH_DEFAULT):
        return ()
    if named is None:
        advice = "the checkpoint's files name none: set `template` to the one that it was trained with"
    else:
        advice = f"the checkpoint's files name {named:.100}: set `template: {named:.100}`"
    return (f"`template` is not set, so {used} is used, and {advice}",)


def _named_template(folder: Path) -> str | None:
    """The template that the files of a checkpoint name; None for a model on the hub and for files that name none."""
    for name, keys in ((QUANTIZED, ("calibration", "template")), ("config.json", (TEMPLATE,))):
        path = folder / name
        if not path.is_file() or path.stat().st_size > MOST_BYTES:  # a pipe would never end
            continue
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            for key in keys:
                value = value[key]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(value, str):
            return value
    return None


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
