"""A template bound to a tokenizer: from (query, document) pairs to token ids, cut to the length limit."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

from engines.base import BadOptions, Counts, EngineUnavailable, ScoringFailed, not_utf8
from engines.prompts.template import MAX_TOKENS, SLOT, Template
from engines.prompts.token_cache import TokenCache, is_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer


CHUNK = 2**20  # characters of documents that are encoded and stored at once: the most that a kill costs


class Prompt(NamedTuple):
    """One query's prompts as token ids: prompt i is `prefix + tails[i]`."""

    prefix: list[int]
    tails: list[list[int]]
    counts: Counts  # what happened to the texts


class PromptEncoder:
    """A template bound to a tokenizer and a length limit. Prepared documents are not tokenised again.

    The limit, `max_tokens`, is of the whole prompt. What the pieces before the query and behind the document leave of
    it is shared as in the reference implementation (package mxbai-rerank 0.1.6, `prepare_inputs`): the piece with the
    query gets at most three quarters, and the document gets all that the query leaves. Both keep their beginning.
    """

    def __init__(
        self,
        template: Template,
        tokenizer: "Tokenizer",
        *,
        max_tokens: int | None = None,
        positions: int | None = None,
        instruction: str = "",
    ) -> None:
        """`max_tokens` None: the template's own limit. `positions`: the most tokens that the model reads.

        Raises BadOptions if the limit leaves no room for a query and a document.
        """
        self.template = template
        self.tokenizer_sha256 = _sha256(tokenizer)  # with its own settings
        self._tokenizer = own = _without_settings(tokenizer)
        query, document = template.query_piece, template.document_piece
        self._head, self._query_piece = template.pieces[:query], template.pieces[query]
        self._between = template.pieces[query + 1 : document]
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
        self._before_ids, self._after_ids = self._encode_content([self._before, self._after])
        self._suffix = self._encode_pieces(template.pieces[document + 1 :])
        template.instruction_line(instruction)  # fails now and not at the first query
        self.max_tokens = self._own_limit() if max_tokens is None else max_tokens
        self.max_tokens = min(self.max_tokens, positions or self.max_tokens)
        self._check_room()

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
        """Token ids of one query and its documents. Raises ScoringFailed for a text that is not valid."""
        prefix, truncated_query = self._encode_prefix(query)
        room = self.max_tokens - len(prefix) - len(self._suffix)
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
        counts = Counts(truncated=len(long), truncated_queries=int(truncated_query), special_text=special_text)
        return Prompt(prefix, tails, counts)

    def prepare(self, documents: Iterable[str]) -> None:
        """Store the ids of documents on disk, where `encode` of any encoder with this tokenizer finds them.

        Documents are read once, a chunk at a time. If nothing can be stored, nothing is encoded. A document that is not
        valid text is left to `encode`, where its query fails.
        """
        self._cache = self._cache or self._open_cache()
        prefix, _ = self._encode_prefix("")  # a query leaves less room, but most are short
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

    def _own_limit(self) -> int:
        """The limit of the whole prompt where nobody sets one."""
        content = self.template.content_tokens
        return content + len(self._encode_pieces(self._head)) + len(self._suffix) if content else MAX_TOKENS

    def _check_room(self) -> None:
        """Raise BadOptions if there is no room for one token of a query and one of a document."""
        without, _ = self._encode_query("", self.max_tokens)
        fixed = len(self._encode_pieces(self._head)) + len(without) + self._beside_query()
        if self._query_limit() <= len(without):
            instruction = " with the instruction" if self._instruction else ""
            raise BadOptions(
                f"max_tokens = {self.max_tokens} leaves no room for a query and a document: template "
                f"{self.template.name}{instruction} takes {fixed} tokens itself; raise max_tokens"
            )

    def _query_limit(self) -> int:
        """The most tokens of the piece with the query."""
        left = self.max_tokens - len(self._encode_pieces(self._head))
        return min((left - len(self._suffix)) * 3 // 4, left - self._beside_query() - 1)

    def _beside_query(self) -> int:
        """Tokens behind the query in the prompt of an empty document."""
        document = len(self._before_ids) + len(self._after_ids)
        return len(self._encode_pieces(self._between)) + document + len(self._suffix)

    def _encode_prefix(self, query: str) -> tuple[list[int], bool]:
        """Ids of everything before the document's piece, and whether the query was cut."""
        ids, truncated = self._encode_query(query, self._query_limit())
        return self._encode_pieces(self._head) + ids + self._encode_pieces(self._between), truncated

    def _encode_query(self, query: str, limit: int) -> tuple[list[int], bool]:
        """Ids of the query's piece, and whether the query was cut."""
        before, after = (self._fill(part) for part in self._query_piece.split("{query}"))
        ids = self._encode_content([before + query + after])[0]
        if len(ids) <= limit:
            return ids, False
        begun, end = self._encode_content([before + query, after])  # a cut query is tokenised without what follows it
        return begun[: limit - len(end)] + end, True

    def _encode_pieces(self, pieces: Sequence[str]) -> list[int]:
        """Ids of pieces without query and document."""
        ids: list[int] = []
        for piece in pieces:
            ids += self._fixed[piece] if piece in self._fixed else self._encode_content([self._fill(piece)])[0]
        return ids

    def _fill(self, piece: str) -> str:
        return self.template.fill(piece, instruction=self._instruction)

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
