"""Bi-encoders by sentence-transformers: cosine of normalised embeddings, each document encoded once per run."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveInt

from engines.base import BadOptions, Engine, EngineUnavailable, Options, Pair, ScoringFailed, require
from engines.revision import weights_revision

if TYPE_CHECKING:
    from torch import Tensor


CHUNK = 512  # documents taken at once in prepare, so that whoever gives them sees how far it is
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class BiEncoderOptions(Options):
    model: str  # a folder, a name on the hub, or package:NAME/FOLDER for a model that an installed package carries
    revision: str | None = None
    device: str = "auto"
    query_prompt: str = ""  # put before each query, as E5 and BGE want it
    document_prompt: str = ""
    max_tokens: PositiveInt | None = None  # None: the model's own limit
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    batch_size: PositiveInt = 32


class BiEncoder(Engine):
    options_type: ClassVar[type[Options]] = BiEncoderOptions
    options: BiEncoderOptions
    prepares = "candidates"

    def __init__(self, options: BiEncoderOptions) -> None:
        super().__init__(options)
        library = require("sentence_transformers", extra="sentence-transformers")
        require("transformers.utils.logging", extra="sentence-transformers").disable_progress_bar()
        path = locate(options.model)
        try:
            self._model = library.SentenceTransformer(
                path,
                revision=options.revision,
                device=None if options.device == "auto" else options.device,
                model_kwargs={"dtype": DTYPES[options.precision], "use_safetensors": True},
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineUnavailable(
                f"model {options.model!r} cannot be loaded: {str(error).strip().splitlines()[0]}"
            ) from None
        if options.max_tokens is not None:
            self._model.max_seq_length = options.max_tokens
        self._vectors: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()
        self._description = {
            "model": options.model,
            "revision": weights_revision(path) or self._commit() or options.revision or "",
            "precision": options.precision,
            "max_tokens": str(self._model.max_seq_length),
            "device": str(self._model.device),
            "sentence_transformers": str(library.__version__),
        }

    def prepare(self, documents: Iterable[str], *, analysis: str) -> None:
        self._vectors = {}
        waiting = iter(documents)
        while chunk := list(islice(waiting, CHUNK)):
            self._remember(chunk)

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        self._remember(pair.document for pair in pairs)
        scores: list[float] = []
        for query, group in groupby(pairs, key=lambda pair: pair.query):
            asked = self._encode([query], self.options.query_prompt)[0]
            scores += [float(self._vectors[pair.document] @ asked) for pair in group]
        return scores

    def describe(self) -> Mapping[str, str]:
        return self._description

    def counts(self) -> Mapping[str, int]:
        return dict(self._counts)

    def close(self) -> None:
        self._model.to("meta")  # frees the weights, whoever still holds the engine
        self._vectors = {}

    def _commit(self) -> str | None:
        """The hub's commit that a part of the model was loaded from; None for a folder."""
        configs = (getattr(module, "config", None) for module in self._model.modules())
        return next((commit for config in configs if (commit := getattr(config, "_commit_hash", None))), None)

    def _remember(self, documents: Iterable[str]) -> None:
        new = [document for document in dict.fromkeys(documents) if document not in self._vectors]
        if new:
            self._vectors.update(zip(new, self._encode(new, self.options.document_prompt), strict=True))

    def _encode(self, texts: list[str], prompt: str) -> "Tensor":
        """Unit vectors [texts, dimensions], float32 on the CPU."""
        self._counts["encoded_texts"] += len(texts)
        try:
            vectors: Tensor = self._model.encode(
                texts,
                prompt=prompt or None,
                batch_size=self.options.batch_size,
                normalize_embeddings=True,
                convert_to_tensor=True,
                show_progress_bar=False,
            )
        except (UnicodeEncodeError, TypeError) as error:  # a lone surrogate is no text
            raise ScoringFailed(f"a text cannot be encoded as UTF-8: {error}") from None
        if not vectors.isfinite().all():
            raise ScoringFailed(f"the model's embeddings in {self.options.precision} are not finite: use bf16 or fp32")
        return vectors.float().cpu()


def locate(model: str) -> str:
    """The folder behind `package:NAME/FOLDER`, anything else as it is. Raises EngineUnavailable, BadOptions."""
    if not model.startswith("package:"):
        return model
    package, _, folder = model.removeprefix("package:").partition("/")
    if not package.isidentifier():
        raise BadOptions(f"model {model!r}: expected package:NAME/FOLDER with the name of a Python package")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        distribution = package.replace("_", "-")
        raise EngineUnavailable(f"model {model!r}: package {package} is not installed: pip install {distribution}")
    return str(Path(spec.origin).parent / folder)
