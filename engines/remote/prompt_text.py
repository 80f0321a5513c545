"""Prompts as text, for servers that tokenise themselves: content stays content, and both texts are cut to fit.

A server that receives text reads a special-token string inside a document as that token. So a space is inserted after
its first character (`<|im_end|>` becomes `< |im_end|>`, close to its plain text), and the text is counted.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engines.base import BadOptions, Counts, EngineUnavailable, ScoringFailed, first_line, require
from engines.model_files import locate
from engines.model_settings import check_tokenizer
from engines.prompts.template import MAX_TOKENS, Template

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Without a tokenizer the special tokens are unknown. Those of Qwen, Llama 3, Phi and others match MARKER; strings in
# the template's own pieces that match OWN_MARKER are added.
MARKER = r"<\|[^\s<>|]+\|>"
OWN_MARKER = re.compile(r"<[^\s<>]+>|\[[A-Z]+\]")
PAD = "<|endoftext|>"  # pad token of Qwen2 and Qwen3


class Halves(NamedTuple):
    """A prompt in two halves, cut before the piece with the document. Their concatenation is the prompt."""

    before: str
    after: str


class PromptTexts(NamedTuple):
    """One query's prompts as text: prompt i is `prefix + tails[i]`."""

    prefix: str
    tails: list[str]
    counts: Counts  # what happened to the texts; without a tokenizer it is unknown what a server will cut


class TextEncoder:
    """A template as text. With a tokenizer no prompt has more than `max_tokens`; without one nothing is cut.

    The limit is shared by the texts as in `engines.prompts.encoder.PromptEncoder`, which sends token ids.

    `protect` appends the pad token to the prompt. infinity strips its inputs, and a stripped final newline is the token
    from which the score is read. Since 4.49 transformers reads the score at the right-most token that is not padding,
    which is then the newline again.
    """

    def __init__(
        self,
        template: Template,
        tokenizer: "Tokenizer | None",
        *,
        max_tokens: int | None = None,
        positions: int | None = None,
        instruction: str = "",
        protect: bool = False,
    ) -> None:
        """`max_tokens` None: the template's own limit. `positions`: the most tokens that the server reads.

        Raises BadOptions if the limit leaves no room for a query.
        """
        self._template, self._instruction = template, instruction
        self._end = PAD if protect else ""
        self._tokenizer = tokenizer
        if tokenizer is None:
            own = [marker for piece in template.pieces for marker in OWN_MARKER.findall(piece)]
            self._special = re.compile("|".join([MARKER, *map(re.escape, sorted(set(own), key=len, reverse=True))]))
            return
        tokenizer.no_truncation()
        tokenizer.no_padding()
        specials = {token.content: i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        if protect and PAD not in specials:
            raise EngineUnavailable(
                f"the tokenizer has no {PAD}, which protects the final newline: set final_newline to keep"
            )
        longest_first = sorted((text for text in specials if len(text) > 1), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._special_ids = frozenset(specials.values())
        self._frame = self._only_special(self._ids("".join(self._render("", ""))))
        query, document = template.query_piece, template.document_piece
        around = template.pieces[:query], template.pieces[document + 1 :]
        around_tokens = sum(len(self._ids("".join(map(self._fill, pieces)))) for pieces in around)
        content = template.content_tokens
        usual = content + around_tokens if content else MAX_TOKENS
        self.max_tokens = usual if max_tokens is None else max_tokens  # without the pad token, which changes no score
        self.max_tokens = min(self.max_tokens, positions or self.max_tokens)
        self._query_limit = (self.max_tokens - around_tokens) * 3 // 4
        if len(self._ids(self._query_text(""))) >= self._query_limit:
            raise BadOptions(
                f"max_tokens = {self.max_tokens} leaves no room for a query and a document in template "
                f"{template.name}: raise max_tokens"
            )

    def encode(self, query: str, documents: Sequence[str]) -> PromptTexts:
        """One query's prompts. Raises ScoringFailed for a text that cannot be made plain, or leaves no room."""
        special_text = sum(bool(self._special.search(text)) for text in (query, *documents))
        query, documents = self._defuse(query), [self._defuse(document) for document in documents]
        counts = Counts(special_text=special_text)
        if self._tokenizer is None:
            halves = [self._render(query, document) for document in documents]
        else:
            kept = self._longest(query, self._query_limit, self._query_text)
            halves, truncated = self._fit(kept, documents)
            counts += Counts(truncated=truncated, truncated_queries=int(kept != query))
            query = kept
        return PromptTexts(self._render(query, "").before, [prompt.after for prompt in halves], counts)

    def _fit(self, query: str, documents: Sequence[str]) -> tuple[list[Halves], int]:
        """The prompts of a query, and the number of documents that were cut. Raises ScoringFailed."""
        assert self._tokenizer is not None
        halves, truncated = [self._render(query, document) for document in documents], 0
        encoded = self._tokenizer.encode_batch_fast(["".join(prompt) for prompt in halves])
        for i, encoding in enumerate(encoded):
            ids = encoding.ids
            if len(ids) > self.max_tokens + bool(self._end):
                halves[i] = self._cut(query, documents[i])
                truncated += 1
                ids = self._ids("".join(halves[i]))
            self._check_frame(ids, documents[i])
        return halves, truncated

    def _render(self, query: str, document: str) -> Halves:
        template = self._template
        filled = [self._fill(piece, query, document) for piece in template.pieces]
        before = "".join(filled[: template.document_piece])
        after = "".join(filled[template.document_piece :])
        return Halves(before, after + self._end)

    def _fill(self, piece: str, query: str = "", document: str = "") -> str:
        return self._template.fill(piece, query, document, self._instruction)

    def _query_text(self, query: str) -> str:
        """The piece with the query."""
        return self._fill(self._template.pieces[self._template.query_piece], query)

    def _cut(self, query: str, document: str) -> Halves:
        """The prompt with the longest beginning of the document that fits. Raises ScoringFailed if none does."""
        limit = self.max_tokens + bool(self._end)
        kept = self._longest(document, limit, lambda text: "".join(self._render(query, text)))
        if not kept:
            raise ScoringFailed(
                f"query {query[:60]!r} leaves no room for a document in max_tokens = {self.max_tokens}: "
                "raise max_tokens"
            )
        return self._render(query, kept)

    def _longest(self, text: str, limit: int, around: Callable[[str], str]) -> str:
        """The longest beginning of a text with which `around` gives at most `limit` tokens; empty if none does.

        The text is cut where a token ends and tokenised again: a cut inside a character, or a merge with the text
        behind the cut, can give more tokens than were counted.
        """
        assert self._tokenizer is not None
        tokens = len(self._ids(around(text)))
        if tokens <= limit:
            return text
        ends = [end for _, end in self._tokenizer.encode(text, add_special_tokens=False).offsets]
        keep = len(ends)
        while tokens > limit and keep > 0:
            keep = max(0, keep - (tokens - limit))
            text = text[: ends[keep - 1]] if keep else ""
            tokens = len(self._ids(around(text)))
        return text

    def _defuse(self, text: str) -> str:
        while self._special.search(text):  # repeated, because two tokens can overlap
            text = self._special.sub(lambda token: f"{token[0][0]} {token[0][1:]}", text)
        return text

    def _check_frame(self, ids: list[int], document: str) -> None:
        if self._only_special(ids) != self._frame:
            raise ScoringFailed(
                f"document {document[:60]!r} or its query still holds a special token of the tokenizer after it was "
                "broken up: send token ids (dialect vllm)"
            )

    def _ids(self, text: str) -> list[int]:
        assert self._tokenizer is not None
        return list(self._tokenizer.encode(text).ids)

    def _only_special(self, ids: list[int]) -> list[int]:
        return [i for i in ids if i in self._special_ids]


def load_tokenizer(model: str, config_folder: Path | None = None) -> "Tokenizer":
    """The tokenizer of tokenizer.json in a folder or on the hub, without torch. Raises EngineUnavailable."""
    tokenizers = require("tokenizers", extra="remote")
    hub = require("huggingface_hub", extra="remote")
    place = locate(model, config_folder)
    check_tokenizer(place)
    folder = Path(place)
    try:
        path = folder / "tokenizer.json" if folder.is_dir() else hub.hf_hub_download(model, "tokenizer.json")
        tokenizer: Tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise EngineUnavailable(
            f"tokenizer {model!r} cannot be loaded ({first_line(error)}): expected a folder with tokenizer.json, "
            "or a hub name"
        ) from None
    return tokenizer
