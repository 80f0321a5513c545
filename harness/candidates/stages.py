"""First stages as a config names them: one record per source, with only the options of that source."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt, ValidationInfo, model_validator

import engines
from engines.base import BadOptions, Options, read_options
from engines.spelling import expected
from engines.storage import resolve, shadowed, tried

PLACE = "{benchmark}"  # in the path of a run file: the benchmark's name


class BM25Stage(Options):
    """BM25 over the whole corpus."""

    kind: ClassVar[str] = "bm25"  # kind of the engine that searches

    source: Literal["bm25"] = "bm25"
    k: PositiveInt = 100  # largest number of candidates per query
    k1: float = Field(default=0.9, ge=0)  # Anserini's defaults
    b: float = Field(default=0.4, ge=0, le=1)

    @property
    def given(self) -> Mapping[str, Any]:
        """The engine's options as results record them."""
        return {"k1": self.k1, "b": self.b}

    @property
    def options(self) -> Options:
        """The engine's validated options."""
        return engines.options(self.kind, self.given)


class DenseStage(Options):
    """A bi-encoder over the whole corpus. All options except `source` and `k` are those of the engine bi_encoder."""

    kind: ClassVar[str] = "bi_encoder"

    source: Literal["dense"] = "dense"
    k: PositiveInt = 100
    given: Mapping[str, Any]  # the engine's options as the config has them
    options: Options  # the same options, validated

    @model_validator(mode="before")
    @classmethod
    def _split(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, Mapping):
            return values
        folder = (info.context or {}).get("config_folder")
        stage = {name: values[name] for name in ("source", "k") if name in values}
        given = {name: value for name, value in values.items() if name not in stage}
        return {**stage, "given": given, "options": engines.options(cls.kind, given, folder)}


class NativeStage(Options):
    """The candidates that come with the benchmark."""

    source: Literal["native"] = "native"
    k: PositiveInt = 100


class RunStage(Options):
    """The candidates of a TREC run file."""

    source: Literal["run"] = "run"
    k: PositiveInt = 100
    path: str = Field(min_length=1)  # the benchmark's name replaces {benchmark} in it

    def file(self, benchmark: str) -> Path:
        """The run file for a benchmark of this name."""
        return resolve(self.path.replace(PLACE, benchmark), self.config_folder)


FirstStage = BM25Stage | DenseStage | NativeStage | RunStage
STAGES: Mapping[str, type[BM25Stage | DenseStage | NativeStage | RunStage]] = {
    "bm25": BM25Stage,
    "dense": DenseStage,
    "native": NativeStage,
    "run": RunStage,
}


def preflight(stage: FirstStage) -> Sequence[str]:
    """Look for what a first stage needs, without searching. Returns notes.

    Raises BadOptions for a run file that does not exist, and what the preflight of its engine raises.
    """
    match stage:
        case BM25Stage() | DenseStage():
            return engines.preflight(stage.kind, stage.options)
        case RunStage() if PLACE not in stage.path:
            if not resolve(stage.path, stage.config_folder).is_file():
                raise BadOptions(
                    f"candidates: {stage.path}: no such file, tried {tried(stage.path, stage.config_folder)}"
                )
            return shadowed(stage.path, stage.config_folder)
    return ()


def read_stage(document: object, config_folder: Path | None = None) -> FirstStage:
    """The first stage under `candidates` in a config; the default source is BM25. Raises BadOptions."""
    if isinstance(document, BM25Stage | DenseStage | NativeStage | RunStage):
        return document
    if not isinstance(document, Mapping):
        raise BadOptions(f"candidates = {document!r:.200}: expected a mapping such as {{source: bm25, k: 100}}")
    source = document.get("source", "bm25")
    if not isinstance(source, str) or source not in STAGES:
        raise BadOptions(f"candidates: source {source!r:.100} is not known; {expected(source, STAGES)}")
    return read_options(STAGES[source], document, "candidates", config_folder)
