"""A checkpoint of sentence-transformers: its options, what they need, and the library with the checked path."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pydantic import PositiveInt

from engines.base import Options, require, require_installed
from engines.model_files import locate, require_model
from engines.model_settings import check_sentence_transformer
from engines.torch.device_names import DeviceName, require_device

EXTRA = "sentence-transformers"
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class CheckpointOptions(Options):
    """The options that bi-encoders and cross-encoders share."""

    model: str  # a folder, a name on the hub, or package:NAME/FOLDER for a model that an installed package carries
    revision: str | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: DeviceName = "auto"
    batch_size: PositiveInt = 32


class Checked(NamedTuple):
    """A checkpoint whose settings name nothing that could run."""

    library: Any  # the module sentence_transformers
    path: str  # a folder, or a name on the hub


def preflight(options: CheckpointOptions) -> Sequence[str]:
    """Look for packages, device and files before anything is loaded, as `Engine.preflight` does and raises."""
    require_installed("torch", "sentence_transformers", extra=EXTRA)
    require_device(options.device)
    return require_model(
        options.model,
        options.config_folder,
        revision=options.revision,
        files=("config.json", "modules.json"),
        extra=EXTRA,
    )


def check(options: CheckpointOptions) -> Checked:
    """Check the checkpoint's settings before the library reads them. Raises EngineUnavailable."""
    library = require("sentence_transformers", extra=EXTRA)
    require("transformers.utils.logging", extra=EXTRA).disable_progress_bar()
    path = locate(options.model, options.config_folder)
    check_sentence_transformer(path, options.revision)
    return Checked(library, path)
