"""Templates: from a (query, document) pair to pieces of text and to token ids.

A template is data (configs/templates/*.yaml). Each of its pieces is tokenised alone; pieces with a slot hold
content, in which special-token strings are plain text. Only the document is ever truncated, so the suffix
from which the score is read survives.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml
from pydantic import ValidationError, field_validator, model_validator

from engines.base import BadOptions, EngineUnavailable, Options, ScoringFailed, explain

if TYPE_CHECKING:
    from tokenizers import Tokenizer

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
        decisive = self.model_dump(include={"pieces", "instruction", "labels"})
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
        return Template.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
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
    """A template bound to a tokenizer and a length limit."""

    def __init__(self, template: Template, tokenizer: "Tokenizer", *, max_tokens: int, instruction: str = "") -> None:
        from tokenizers import Tokenizer

        def copy(*, specials_as_text: bool) -> Tokenizer:
            own = Tokenizer.from_str(tokenizer.to_str())
            own.no_truncation()
            own.no_padding()
            own.encode_special_tokens = specials_as_text
            return own

        self.template = template
        self.max_tokens = max_tokens  # of the whole prompt
        self._fixed, self._content = copy(specials_as_text=False), copy(specials_as_text=True)
        added = tokenizer.get_added_tokens_decoder().values()
        specials = sorted((token.content for token in added if token.special), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, specials)) or r"(?!)")
        self._instruction = instruction
        document = template.document_piece
        self._head = template.pieces[:document]
        self._before, self._after = template.pieces[document].split("{document}")
        self._after_ids = self._encode_content([self._after])[0]
        self._suffix = [token for piece in template.pieces[document + 1 :] for token in self._encode_fixed(piece)]
        template.instruction_line(instruction)  # raises now rather than at the first query

    def label_ids(self) -> tuple[int, int]:
        """Token ids of the positive and the negative label. Raises EngineUnavailable if one is not a single token."""
        ids = []
        for label in (self.template.labels.positive, self.template.labels.negative):
            encoded = self._encode_fixed(label)
            if len(encoded) != 1:
                raise EngineUnavailable(f"label {label!r} is {len(encoded)} tokens in this tokenizer, expected one")
            ids.append(encoded[0])
        return ids[0], ids[1]

    def encode(self, query: str, documents: Sequence[str]) -> Prompt:
        """Token ids for one query and its documents; raises ScoringFailed if the query leaves no room."""
        prefix = self._encode_head(query)
        room = self.max_tokens - len(prefix) - len(self._suffix)
        if room <= len(self._after_ids) + len(self._encode_content([self._before])[0]):
            raise ScoringFailed(
                f"the query takes {len(prefix)} tokens with its prefix and leaves no room for a document in "
                f"max_tokens = {self.max_tokens}: raise max_tokens"
            )
        tails, truncated = [], 0
        for ids, document in zip(self._encode_documents(documents), documents, strict=True):
            if len(ids) > room:
                truncated += 1
                whole = self._encode_content([self._before + document])[0]
                ids = whole[: room - len(self._after_ids)] + self._after_ids
            if not ids + self._suffix:
                raise ScoringFailed(
                    f"template {self.template.name} gives an empty document no token to read a score from"
                )
            tails.append(ids + self._suffix)
        special_text = sum(bool(self._special.search(text)) for text in (query, *documents))
        return Prompt(prefix, tails, truncated, special_text)

    def _encode_head(self, query: str) -> list[int]:
        ids: list[int] = []
        for piece in self._head:
            text = self.template.fill(piece, query=query, instruction=self._instruction)
            ids += self._encode_content([text])[0] if SLOT.search(piece) else self._encode_fixed(text)
        return ids

    def _encode_documents(self, documents: Sequence[str]) -> list[list[int]]:
        return self._encode_content([self._before + document + self._after for document in documents])

    def _encode_fixed(self, text: str) -> list[int]:
        return list(self._fixed.encode(text, add_special_tokens=False).ids)

    def _encode_content(self, texts: list[str]) -> list[list[int]]:
        try:
            encoded = self._content.encode_batch_fast(texts, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError) as error:  # a lone surrogate is no text
            raise ScoringFailed(f"a text cannot be encoded as UTF-8: {error}") from None
        return [list(encoding.ids) for encoding in encoded]
