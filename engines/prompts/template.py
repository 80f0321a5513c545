"""Templates: from a (query, document) pair to pieces of text and to token ids.

A template is data (configs/templates/*.yaml). Each of its pieces is tokenised alone; pieces with a slot hold content,
in which special-token strings are plain text. Only the ends of the query and of the document are ever cut, so the
suffix, from which the score is read, survives.
"""

import hashlib
import json
import re
from functools import cache
from pathlib import Path

from pydantic import PositiveInt, ValidationError, field_validator, model_validator

from engines.base import BadOptions, Options
from engines.problems import explain, first_problem
from engines.spelling import expected
from engines.storage import resolve, tried
from engines.yaml_file import read_yaml

SLOT = re.compile(r"\{(query|document|instruction)\}")
# In a wheel the templates are inside the package `engines`, in a checkout beside it.
MAX_TOKENS = 8192  # of a whole prompt, unless a config or the template names another limit
FOLDERS = (Path(__file__).parents[1] / "templates", Path(__file__).parents[2] / "configs" / "templates")


class Labels(Options):
    positive: str
    negative: str


class Template(Options):
    """A prompt as an ordered list of pieces with the slots {query}, {document} and {instruction}.

    `instruction` is the line that fills the slot {instruction}; without an instruction the slot stays empty.
    `content_tokens` limits the pieces from the query to the document together, and all other pieces come on top. It
    holds where a config sets no max_tokens, which limits the whole prompt. Without it such a prompt has at most
    MAX_TOKENS.
    """

    name: str
    description: str
    source: str
    labels: Labels
    instruction: str = ""
    pieces: tuple[str, ...]
    content_tokens: PositiveInt | None = None

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
            raise ValueError("a template needs both an {instruction} slot and `instruction`, or neither")
        return self

    @property
    def sha256(self) -> str:
        """Hash of pieces, instruction line and labels. With max_tokens, recorded beside it, it decides the ids."""
        labels = {"positive": self.labels.positive, "negative": self.labels.negative}
        decisive = {"pieces": self.pieces, "instruction": self.instruction, "labels": labels}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    @property
    def query_piece(self) -> int:
        """Index of the piece with the query."""
        return next(i for i, piece in enumerate(self.pieces) if "{query}" in piece)

    @property
    def document_piece(self) -> int:
        """Index of the piece with the document; a query's documents share the pieces before it."""
        return next(i for i, piece in enumerate(self.pieces) if "{document}" in piece)

    def fill(self, piece: str, query: str = "", document: str = "", instruction: str = "") -> str:
        """One piece with filled slots; content that looks like a slot stays as it is."""
        values = {"query": query, "document": document, "instruction": self.instruction_line(instruction)}
        return SLOT.sub(lambda slot: values[slot[1]], piece)

    def instruction_line(self, instruction: str) -> str:
        """The line of the prompt for this instruction. Raises ValueError for a newline, as the model card asserts."""
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


def load_template(name: str, config_folder: Path | None = None) -> Template:
    """A shipped template by name, or any other by the path of its YAML file. Raises BadOptions."""
    shipped = [folder / f"{name}.yaml" for folder in FOLDERS]
    path = next((path for path in [*shipped, resolve(name, config_folder)] if path.is_file()), None)
    if path is None:
        known = f"{expected(name, template_names())}, or a YAML file (tried {tried(name, config_folder)})"
        raise BadOptions(f"template {name!r} is not known; {known}")
    return read_template(path.absolute())


@cache
def read_template(path: Path) -> Template:
    """The template of a file, which is read once. Raises BadOptions."""
    try:
        document = read_yaml(path)
        return Template.model_validate(document.content)
    except ValidationError as error:
        line = document.line_of(first_problem(error)["loc"])
        raise BadOptions(f"template {path}: line {line}: {explain(error, Template)}") from None


def create_mxbai_v2_reranker_prompt_template(query: str, document: str, instruction: str = "") -> str:
    """The prompt of the mxbai-rerank-v2 model card, byte for byte.

    Raises TypeError for a query or document that is not text, ValueError for a newline in the instruction.
    """
    for name, text in (("query", query), ("document", document)):
        if not isinstance(text, str):
            raise TypeError(f"{name} is {text!r}, expected a str")
    return load_template("mxbai-v2-seq").render(query, document, instruction)
