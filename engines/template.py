"""Templates: from a (query, document) pair to pieces of text and to token ids.

A template is data (configs/templates/*.yaml). Each of its pieces is tokenised alone; pieces with a slot hold
content, in which special-token strings are plain text. Only the document is ever truncated, so the suffix
from which the score is read survives.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

from engines.base import BadOptions, EngineUnavailable, Options, ScoringFailed, explain
from engines.fields import ValidationError, field_validator, model_validator
from engines.token_cache import TokenCache, is_text
from engines.yaml_file import read_yaml

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHUNK = 2**20  # characters of documents that are encoded and kept at once: a kill costs at most these
SLOT = re.compile(r"\{(query|document|instruction)\}")
# In a wheel the templates lie inside this package, in a checkout beside it.
FOLDERS = (Path(__file__).parent / "templates", Path(__file__).parent.parent / "configs" / "templates")


class Labels(Options):
    positive: str
    negative: str


class Template(Options):
    """A prompt as an ordered list of pieces with the slots {query}, {document} and {instruction}.

    `instruction` is what the slot {instruction} becomes when there is one; without one it becomes nothing.
    """

    name: str
    description: str
    source: str
    labels: Labels
    instruction: str = ""
    pieces: tuple[str, ...]

    @field_validator("pieces")
    @classmethod
    def _has_one_query_then_one_document(cls, pieces: tuple[str, ...]) -> tuple[str, ...]:
        slots = [slot for piece in pieces for slot in SLOT.findall(piece) if slot != "instruction"]
        if slots != ["query", "document"]:
            raise ValueError(f"pieces must hold {{query}} once and then {{document}} once, found {', '.join(slots)}")
        if any("{document}" in piece and len(SLOT.findall(piece)) > 1 for piece in pieces):
            raise ValueError("the piece with {document} must hold no other slot")
        return pieces

    @model_validator(mode="after")
    def _instruction_has_its_slot(self) -> "Template":
        if ("{instruction}" in self.instruction) != any("{instruction}" in piece for piece in self.pieces):
            raise ValueError("a template with an {instruction} slot needs `instruction`, and the other way round")
        return self

    @property
    def sha256(self) -> str:
        """Hash of all that decides the ids and the score: pieces, instruction line, labels."""
        labels = {"positive": self.labels.positive, "negative": self.labels.negative}
        decisive = {"pieces": self.pieces, "instruction": self.instruction, "labels": labels}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    @property
    def document_piece(self) -> int:
        """Index of the piece that holds the document; all before it is shared by a query's documents."""
        return next(i for i, piece in enumerate(self.pieces) if "{document}" in piece)

    def fill(self, piece: str, query: str = "", document: str = "", instruction: str = "") -> str:
        """One piece with its slots filled; text that looks like a slot inside the content stays as it is."""
        values = {"query": query, "document": document, "instruction": self.instruction_line(instruction)}
        return SLOT.sub(lambda slot: values[slot[1]], piece)

    def instruction_line(self, instruction: str) -> str:
        """What stands in the prompt for this instruction. Raises ValueError for a newline, as the card asserts."""
        if "\n" in instruction:
            raise ValueError(f"instruction {instruction!r} holds a newline; it must be one line")
        if instruction and not self.instruction:
            raise ValueError(f"template {self.name} has no place for the instruction {instruction!r}")
        return self.instruction.replace("{instruction}", instruction) if instruction else ""

    def render(self, query: str, document: str, instruction: str = "") -> str:
        """The whole prompt as text, for servers that take text."""
        return "".join(self.fill(piece, query, document, instruction) for piece in self.pieces)


def template_names() -> list[str]:
    """Names of the templates that ship with the project."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob("*.yaml")})


@cache
def load_template(name: str) -> Template:
    """A shipped template by name, or one's own by the path of its YAML file. Raises BadOptions."""
    shipped = [folder / f"{name}.yaml" for folder in FOLDERS]
    path = next((path for path in [*shipped, Path(name)] if path.is_file()), None)
    if path is None:
        raise BadOptions(f"template {name!r} is not known; known are {', '.join(template_names())}, or a YAML file")
    try:
        return Template.model_validate(read_yaml(path))
    except ValidationError as error:
        raise BadOptions(f"template {path}: {explain(error, Template)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadOptions(f"template {path} is no YAML: {' '.join(str(error).split())}") from None


def create_mxbai_v2_reranker_prompt_template(query: str, document: str, instruction: str = "") -> str:
    """The prompt of the mxbai-rerank-v2 model card, byte for byte.

    Raises TypeError for a query or document that is no text, ValueError for a newline in the instruction.
    """
    for name, text in (("query", query), ("document", document)):
        if not isinstance(text, str):
            raise TypeError(f"{name} is {text!r}, expected a str")
    return load_template("mxbai-v2-seq").render(query, document, instruction)


class Prompt(NamedTuple):
    """One query's prompts as token ids: prompt i is `prefix + tails[i]`."""

    prefix: list[int]
    tails: list[list[int]]
    truncated: int  # documents that were cut
    special_text: int  # texts that held a special-token string


class PromptEncoder:
    """A template bound to a tokenizer and a length limit. Documents that were prepared are not tokenised again."""

    def __init__(self, template: Template, tokenizer: "Tokenizer", *, max_tokens: int, instruction: str = "") -> None:
        self.template = template
        self.max_tokens = max_tokens  # of the whole prompt
        self.tokenizer_sha256 = _sha256(tokenizer)  # as it came
        self._tokenizer = own = _without_settings(tokenizer)
        document = template.document_piece
        self._head = template.pieces[:document]
        self._before, self._after = template.pieces[document].split("{document}")
        labels = template.labels.positive, template.labels.negative
        fixed = [piece for piece in template.pieces if not SLOT.search(piece)]
        self._fixed = {text: list(own.encode(text, add_special_tokens=False).ids) for text in (*fixed, *labels)}
        own.encode_special_tokens = True  # as text: what is encoded from here on is content
        added = tokenizer.get_added_tokens_decoder().values()
        specials = sorted((token.content for token in added if token.special), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, specials)) or r"(?!)")
        self._instruction = instruction
        self._cache: TokenCache | None = None  # opened by the first prepare
        self._after_ids = self._encode_content([self._after])[0]
        self._suffix = self._encode_pieces(template.pieces[document + 1 :], "")
        template.instruction_line(instruction)  # raises now rather than at the first query

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
        """Token ids for one query and its documents; raises ScoringFailed if the query leaves no room."""
        prefix = self._encode_pieces(self._head, query)
        room = self.max_tokens - len(prefix) - len(self._suffix)
        if room <= len(self._after_ids) + len(self._encode_content([self._before])[0]):
            raise ScoringFailed(
                f"the query takes {len(prefix)} tokens with its prefix and leaves no room for a document in "
                f"max_tokens = {self.max_tokens}: raise max_tokens"
            )
        ids = self._encode_documents(documents, self._after)
        long = [i for i, found in enumerate(ids) if len(found) > room]
        if self._after:  # which a cut document is tokenised without
            for i, whole in zip(long, self._encode_documents([documents[i] for i in long], ""), strict=True):
                ids[i] = whole
        for i in long:
            ids[i] = ids[i][: room - len(self._after_ids)] + self._after_ids
        tails = [found + self._suffix for found in ids]
        if not all(tails):
            raise ScoringFailed(f"template {self.template.name} gives an empty document no token to read a score from")
        special_text = sum(bool(self._special.search(text)) for text in (query, *documents))
        return Prompt(prefix, tails, len(long), special_text)

    def prepare(self, documents: Iterable[str]) -> None:
        """Keep the ids of documents on disk, where `encode` finds them, as any encoder of this tokenizer does.

        They are read once, a chunk at a time. Where nothing can be kept, none are encoded; what is no text is left to
        `encode`, whose query it fails.
        """
        self._cache = self._cache or self._open_cache()
        prefix = self._encode_pieces(self._head, "")  # a query leaves less room; most are short
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
        """Ids with what stands before them, and `after` behind. What was not prepared is not kept: the clock runs."""
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
        """Keep the ids of those that are not kept yet; how many tokens each has."""
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
        except (UnicodeEncodeError, TypeError) as error:  # a lone surrogate is no text
            raise ScoringFailed(f"a text cannot be encoded as UTF-8: {error}") from None
        return [list(encoding.ids) for encoding in encoded]


def _without_settings(tokenizer: "Tokenizer") -> "Tokenizer":
    """Another tokenizer of the same ids, which neither truncates nor pads.

    Both have one model in memory, nearly all that a tokenizer takes: a copy of Qwen2's adds 110 MB.
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
