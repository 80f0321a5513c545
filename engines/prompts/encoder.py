"""A template bound to a tokenizer: from (query, document) pairs to token ids, cut to the length limit."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

from engines.base import EngineUnavailable, ScoringFailed, not_utf8
from engines.prompts.template import SLOT, Template
from engines.prompts.token_cache import TokenCache, is_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer


CHUNK = 2**20  # characters of documents that are encoded and stored at once: the most that a kill costs


class Prompt(NamedTuple):
    """One query's prompts as token ids: prompt i is `prefix + tails[i]`."""

    prefix: list[int]
    tails: list[list[int]]
    truncated: int  # number of documents that were cut
    special_text: int  # number of texts that held a special-token string


class PromptEncoder:
    """A template bound to a tokenizer and a length limit. Prepared documents are not tokenised again."""

    def __init__(self, template: Template, tokenizer: "Tokenizer", *, max_tokens: int, instruction: str = "") -> None:
        self.template = template
        self.max_tokens = max_tokens  # limit of the whole prompt
        self.tokenizer_sha256 = _sha256(tokenizer)  # with its own settings
        self._tokenizer = own = _without_settings(tokenizer)
        document = template.document_piece
        self._head = template.pieces[:document]
        self._before, self._after = template.pieces[document].split("{document}")
        labels = template.labels.positive, template.labels.negative
        fixed = [piece for piece in template.pieces if not SLOT.search(piece)]
        self._fixed = {text: list(own.encode(text, add_special_tokens=False).ids) for text in (*fixed, *labels)}
        own.encode_special_tokens = True  # special tokens as text: from here on only content is encoded
        added = tokenizer.get_added_tokens_decoder().values()
        specials = sorted((token.content for token in added if token.special), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, specials)) or r"(?!)")
        self._instruction = instruction
        self._cache: TokenCache | None = None  # opened by the first prepare
        self._after_ids = self._encode_content([self._after])[0]
        self._suffix = self._encode_pieces(template.pieces[document + 1 :], "")
        template.instruction_line(instruction)  # fails now and not at the first query

    def label_ids(self) -> tuple[int, int]:
        """Token ids of the positive and the negative label. Raises EngineUnavailable if one is not a single token."""
        ids = []
        for label in (self.template.labels.positive, self.template.labels.negative):
            encoded = self._fixed[label]
            if len(encoded) != 1:
                raise EngineUnavailable(f"label {label!r} is {len(encoded)} tokens in this tokenizer, expected one")
            ids.append(encoded[0])
        return ids[0], ids[1]

    def encode(self, query: str, documents: Sequence[str]) -> Prompt:
        """Token ids of one query and its documents. Raises ScoringFailed if the query leaves no room."""
        prefix = self._encode_pieces(self._head, query)
        room = self.max_tokens - len(prefix) - len(self._suffix)
        if room <= len(self._after_ids) + len(self._encode_content([self._before])[0]):
            raise ScoringFailed(
                f"the query takes {len(prefix)} tokens with its prefix and leaves no room for a document in "
                f"max_tokens = {self.max_tokens}: raise max_tokens"
            )
        ids = self._encode_documents(documents, self._after)
        long = [i for i, tail in enumerate(ids) if len(tail) > room]
        if self._after:  # a cut document is tokenised without it
            for i, whole in zip(long, self._encode_documents([documents[i] for i in long], ""), strict=True):
                ids[i] = whole
        for i in long:
            ids[i] = ids[i][: room - len(self._after_ids)] + self._after_ids
        tails = [tail + self._suffix for tail in ids]
        if not all(tails):
            raise ScoringFailed(
                f"template {self.template.name} leaves an empty document without a token from which a score is read"
            )
        special_text = sum(bool(self._special.search(text)) for text in (query, *documents))
        return Prompt(prefix, tails, len(long), special_text)

    def prepare(self, documents: Iterable[str]) -> None:
        """Store the ids of documents on disk, where `encode` of any encoder with this tokenizer finds them.

        Documents are read once, a chunk at a time. If nothing can be stored, nothing is encoded. A document that is not
        valid text is left to `encode`, where its query fails.
        """
        self._cache = self._cache or self._open_cache()
        prefix = self._encode_pieces(self._head, "")  # a query leaves less room, but most are short
        room = self.max_tokens - len(prefix) - len(self._suffix)
        for chunk in _chunks(document for document in documents if is_text(document)):
            if not self._cache.keeps:
                return
            lengths = self._keep(self._cache, chunk, self._after)
            if self._after:
                self._keep(self._cache, [document for document in chunk if lengths[document] > room], "")

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()
        self._cache = None

    def _encode_pieces(self, pieces: Sequence[str], query: str) -> list[int]:
        ids: list[int] = []
        for piece in pieces:
            if piece in self._fixed:
                ids += self._fixed[piece]
            else:
                ids += self._encode_content([self.template.fill(piece, query=query, instruction=self._instruction)])[0]
        return ids

    def _encode_documents(self, documents: Sequence[str], after: str) -> list[list[int]]:
        """Ids of documents and the text around them. New ids are not stored: the clock is running."""
        texts = [self._before + document + after for document in documents]
        known = self._cache.find(texts) if self._cache else {}
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, self._encode_content(new), strict=True))
        return [known[text] for text in texts]

    def _open_cache(self) -> TokenCache:
        return TokenCache(
            {
                "tokenizer": _sha256(self._tokenizer),
                "tokenizers": version("tokenizers"),
                "special_tokens": "as text",
            }
        )

    def _keep(self, cache: TokenCache, documents: Sequence[str], after: str) -> dict[str, int]:
        """Store the ids of documents that are not stored yet; returns the tokens of each document."""
        texts = {self._before + document + after: document for document in documents}
        ids = cache.find(list(texts))
        new = [text for text in texts if text not in ids]
        if new:
            encoded = dict(zip(new, self._encode_content(new), strict=True))
            cache.keep(encoded)
            ids |= encoded
        return {document: len(ids[text]) for text, document in texts.items()}

    def _encode_content(self, texts: list[str]) -> list[list[int]]:
        try:
            encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError) as error:
            raise not_utf8(error) from None
        return [list(encoding.ids) for encoding in encoded]


def _without_settings(tokenizer: "Tokenizer") -> "Tokenizer":
    """Another tokenizer with the same ids, which neither truncates nor pads.

    Both share the tokenizer's model, which takes nearly all of the memory: a copy of Qwen2's adds 110 MB.
    """
    from tokenizers import Tokenizer

    own = Tokenizer(tokenizer.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        setattr(own, part, getattr(tokenizer, part))
    own.add_tokens([token for _, token in sorted(tokenizer.get_added_tokens_decoder().items())])
    return own


def _sha256(tokenizer: "Tokenizer") -> str:
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def _chunks(documents: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    characters = 0
    for document in documents:
        chunk.append(document)
        characters += len(document)
        if characters >= CHUNK:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
