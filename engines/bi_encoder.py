"""Bi-encoders by sentence-transformers: cosine of normalised embeddings, each document encoded once per run.

As an engine it is shown the candidates; shown a whole corpus it is a first stage that searches all of it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby, islice
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveInt

from engines.base import EngineUnavailable, Options, Pair, Retriever, ScoringFailed, require
from engines.location import locate
from engines.revision import hub_commit, weights_revision

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
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


class BiEncoder(Retriever):
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
        self._rows: NDArray[np.int64] | None = None  # of each document of `prepare`, among those of all blocks
        self._forget()
        self._counts: Counter[str] = Counter()
        self._description = {
            "model": options.model,
            "revision": weights_revision(path) or hub_commit(self._model) or options.revision or "",
            "precision": options.precision,
            "max_tokens": str(self._model.max_seq_length),
            "device": str(self._model.device),
            "sentence_transformers": str(library.__version__),
        }

    def prepare(self, documents: Collection[str], *, analysis: str) -> None:
        import numpy as np

        self._forget()
        rows: dict[str, int] = {}
        order: list[int] = []
        waiting = iter(documents)
        while chunk := list(islice(waiting, CHUNK)):
            self._blocks += self._remember(chunk)
            order += [rows.setdefault(document, len(rows)) for document in chunk]
        self._rows = np.asarray(order, dtype=np.int64)

    def search(self, query: str, k: int) -> list[int]:
        """Exact: the cosine with every document, block by block."""
        import numpy as np

        if self._rows is None:
            raise ScoringFailed("the bi-encoder was not shown a corpus: call prepare first")
        if not self._blocks:
            return []
        asked = self._encode([query], self.options.query_prompt)[0]
        unique = np.concatenate([(block @ asked).numpy() for block in self._blocks])
        scores = unique[self._rows]  # the same text twice has the same score
        found = np.arange(len(scores))
        if k < len(scores):  # only what can be among the best is sorted
            found = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
        best = found[np.argsort(-scores[found], kind="stable")][:k]
        return [int(position) for position in best]

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
        self._forget()

    def _forget(self) -> None:
        self._vectors: dict[str, Tensor] = {}  # each a row of a block
        self._blocks: list[Tensor] = []  # [at most CHUNK, dimensions] each, of the distinct documents of `prepare`
        self._rows = None

    def _remember(self, documents: Iterable[str]) -> "list[Tensor]":
        """Encode what is new; its vectors as one block, or no block."""
        new = [document for document in dict.fromkeys(documents) if document not in self._vectors]
        if not new:
            return []
        block = self._encode(new, self.options.document_prompt)
        self._vectors.update(zip(new, block, strict=True))
        return [block]

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
