"""Bi-encoders in sentence-transformers: cosine of normalised embeddings, each document encoded once per model.

Prepared with candidates it scores them; prepared with a whole corpus it is a first stage that searches the corpus. In
both cases the documents' vectors are kept on disk, where the next engine with the same model finds them.
"""

import hashlib
from collections.abc import Collection, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveInt

from engines.base import (
    Counts,
    Description,
    EngineUnavailable,
    Options,
    Retriever,
    ScoringFailed,
    by_query,
    first_line,
    not_utf8,
)
from engines.model_files import hub_commit, is_demonstration, weights_revision
from engines.sentence_transformers import checkpoint
from engines.sentence_transformers.checkpoint import CheckpointOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from engines.sentence_transformers.vectors import Rows, Vectors, VectorStore


CHUNK = 512  # documents that `prepare` encodes and stores at once: the most that a kill costs
BLOCK = 512  # vectors that `search` reads at once: they fit into the cache
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "sentence-transformers",
)  # their versions change a vector's last bits
SETTINGS = {
    ".json",
    ".txt",
    ".model",
    ".py",
}  # configurations, vocabularies and code: all files in a model's folder except weights


class BiEncoderOptions(CheckpointOptions):
    query_prompt: str = ""  # put before each query, as E5 and BGE expect it
    document_prompt: str = ""
    max_tokens: PositiveInt | None = None  # None: the model's own limit


class BiEncoder(Retriever):
    options_type: ClassVar[type[Options]] = BiEncoderOptions
    options: BiEncoderOptions
    prepares = "candidates"

    @classmethod
    def preflight(cls, options: BiEncoderOptions) -> Sequence[str]:
        return checkpoint.preflight(options)

    def __init__(self, options: BiEncoderOptions) -> None:
        super().__init__(options)
        from engines.torch.device import described

        library, path = checkpoint.check(options)
        try:
            self._model = library.SentenceTransformer(
                path,
                revision=options.revision,
                device=None if options.device == "auto" else options.device,
                model_kwargs={"dtype": checkpoint.DTYPES[options.precision], "use_safetensors": True},
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineUnavailable(f"model {options.model!r} cannot be loaded: {first_line(error)}") from None
        if options.max_tokens is not None:
            self._model.max_seq_length = options.max_tokens
        self._counts = Counts(encoded_texts=0, reused_vectors=0)
        self._store: VectorStore | None = None  # opened by the first prepare
        self._rows: Rows | None = None  # rows of the prepared documents in the store, ascending
        self._positions: Rows  # for each document the position of its row in `_rows`
        revision = weights_revision(path) or hub_commit(self._model)
        self._identity = self._identify(path, revision) if revision else None
        self._description = Description(
            model=options.model,
            revision=revision or options.revision or "",
            precision=options.precision,
            max_tokens=self._model.max_seq_length,
            device=described(self._model.device),
            demonstration=any(is_demonstration(getattr(module, "config", None)) for module in self._model.modules()),
            details={"sentence_transformers": str(library.__version__)},
        )

    def prepare(self, documents: Collection[str], *, analysis: str) -> None:
        import numpy as np

        self._rows = None
        self._store = store = self._store or self._opened()
        rows = [np.empty(0, dtype=np.int64)]
        waiting = iter(documents)
        while chunk := list(islice(waiting, CHUNK)):
            rows.append(self._keep(chunk, store))
        self._rows, self._positions = np.unique(np.concatenate(rows), return_inverse=True)

    def search(self, query: str, k: int) -> list[int]:
        """Exact search: the cosine with every document, block by block."""
        import numpy as np

        if self._rows is None or self._store is None:
            raise ScoringFailed("the bi-encoder has no corpus: call prepare first")
        if not len(self._rows):
            return []
        query_vector = self._encode([query], self.options.query_prompt)[0]
        blocks = (self._rows[start : start + BLOCK] for start in range(0, len(self._rows), BLOCK))
        distinct = np.concatenate([_cosines(self._store.read(block), query_vector) for block in blocks])
        scores = distinct[self._positions]  # equal texts have equal scores
        positions = np.arange(len(scores))
        if k < len(scores):  # only documents that can be among the best are sorted
            positions = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
        best = positions[np.argsort(-scores[positions], kind="stable")][:k]
        return [int(position) for position in best]

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Documents that were not prepared are encoded in every call and not stored: the clock is running."""
        rows = {text: row for row, text in enumerate(dict.fromkeys(document for _, document in pairs))}
        vectors = self._vectors(list(rows))
        scores: list[float] = []
        for query, documents in by_query(pairs):
            query_vector = self._encode([query], self.options.query_prompt)[0]
            scores += _cosines(vectors[[rows[document] for document in documents]], query_vector).tolist()
        return scores

    def describe(self) -> Description:
        return self._description

    def counts(self) -> Counts:
        return self._counts

    def close(self) -> None:
        self._model.to("meta")  # frees the weights even if someone still holds the engine
        if self._store is not None:
            self._store.close()
        self._store = self._rows = None

    def _identify(self, path: str, revision: str) -> dict[str, str]:
        """Everything that decides a document's vector."""
        return {
            "model": self.options.model,
            "revision": revision,
            "settings": _settings_hash(path),
            "precision": self.options.precision,
            "max_tokens": str(self._model.max_seq_length),
            "document_prompt": self.options.document_prompt,
            "device": self._model.device.type,
            **{name: version(name) for name in PACKAGES},
        }

    def _opened(self) -> "VectorStore":
        from engines.sentence_transformers.vectors import VectorStore

        dimensions = self._model.get_embedding_dimension() or self._encode([""], "").shape[1]
        return VectorStore(self._identity, dimensions)

    def _keep(self, documents: Sequence[str], store: "VectorStore") -> "Rows":
        """Rows of the documents in the store; documents that it lacks are encoded and stored."""
        import numpy as np

        from engines.sentence_transformers.vectors import ABSENT

        digests = _digests(documents)
        texts = dict(zip(digests, documents, strict=True))
        rows = dict(zip(texts, store.find(list(texts)), strict=True))
        new = [digest for digest, row in rows.items() if row == ABSENT]
        self._counts += Counts(reused_vectors=len(texts) - len(new))
        if new:
            vectors = self._encode([texts[digest] for digest in new], self.options.document_prompt)
            rows.update(zip(new, store.append(new, vectors), strict=True))
        return np.array([rows[digest] for digest in digests], dtype=np.int64)

    def _vectors(self, documents: Sequence[str]) -> "Vectors":
        """Vectors of the documents, from the store or encoded now."""
        import numpy as np

        from engines.sentence_transformers.vectors import ABSENT

        if self._store is None:
            return self._encode(documents, self.options.document_prompt)
        rows = self._store.find(_digests(documents))
        vectors = self._store.read(rows)
        absent = np.flatnonzero(rows == ABSENT).tolist()
        if absent:
            vectors[absent] = self._encode([documents[index] for index in absent], self.options.document_prompt)
        return vectors

    def _encode(self, texts: Sequence[str], prompt: str) -> "Vectors":
        """Unit vectors [texts, dimensions]."""
        self._counts += Counts(encoded_texts=len(texts))
        try:
            vectors: Tensor = self._model.encode(
                list(texts),
                prompt=prompt or None,
                batch_size=self.options.batch_size,
                normalize_embeddings=True,
                convert_to_tensor=True,
                show_progress_bar=False,
            )
        except (UnicodeEncodeError, TypeError) as error:
            raise not_utf8(error) from None
        if not vectors.isfinite().all():
            raise ScoringFailed(f"the model's embeddings in {self.options.precision} are not finite: use bf16 or fp32")
        embedded: Vectors = vectors.float().cpu().numpy()
        return embedded


def _digests(documents: Sequence[str]) -> list[bytes]:
    from engines.sentence_transformers.vectors import digest

    try:
        return [digest(document) for document in documents]
    except UnicodeEncodeError as error:
        raise not_utf8(error) from None


def _cosines(documents: "Vectors", query: "Vectors") -> "NDArray[np.float32]":
    """Cosines [documents]. With `@` the last bits depend on a row's position, so equal vectors would not tie."""
    import numpy as np

    cosines: NDArray[np.float32] = np.einsum("ij,j->i", documents, query)
    return cosines


def _settings_hash(folder: str) -> str:
    """Hash of the files that decide a vector beside the weights; of no file for a hub model, whose commit decides."""
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(folder).rglob("*") if path.suffix in SETTINGS and path.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
