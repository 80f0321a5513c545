"""All that an engine author must read: the pair, what an engine says of itself, the engine contract and the errors.

An engine turns (query, document) pairs into scores. It knows nothing of benchmarks, measures or reports.

    CrispbenchError             every error that is raised on purpose; the harness adds its own
    └── EngineError
        ├── BadOptions          an option is unknown or has a wrong value
        ├── EngineUnavailable   a package, a device, a file or a server is missing
        └── ScoringFailed       these pairs have no score
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from itertools import groupby
from operator import itemgetter
from types import TracebackType
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


class Pair(NamedTuple):
    query: str
    document: str


class Ceiling(NamedTuple):
    """What a machine reaches in the matrix products of an engine's model: measured just now, from no data sheet."""

    flops_per_s: float  # best of some repeats at the model's own shapes, each as often as a forward has it
    bytes_per_s: float  # read and written by a large copy in the device's memory
    dtype: str  # of the factors
    how: str  # device, threads, tokens of one product


class Call(NamedTuple):
    """What an engine knows of one call of `score` beyond its scores; None for what it does not know."""

    first_byte_s: float | None = None  # when its first answer began to come, on the clock `time.perf_counter`
    tokens: int | None = None  # of all its prompts, each pair alone


class ScoreKind(StrEnum):
    """What a score is; the values are those of recorded runs."""

    OWN = "own"  # the engine's own scale, such as BM25's or a cosine: comparable with engines of the same kind only
    LOG_ODDS = "logit_diff"  # logit of the positive label minus logit of the negative one
    LOGIT = "logit"  # the one logit of a classifier with a single label, which is the log-odds itself
    PROBABILITY = "probability"  # log-odds computed from a server's probabilities
    OPAQUE = "opaque"  # a service's own number, whose meaning it does not publish

    @property
    def is_log_odds(self) -> bool:
        """Whether scores of this kind can be subtracted from those of any other model's log-odds."""
        return self in (ScoreKind.LOG_ODDS, ScoreKind.LOGIT, ScoreKind.PROBABILITY)


class Truncation(StrEnum):
    """Who shortens what is too long; the values are those of recorded runs."""

    HERE = "of the document, here"
    BY_SERVER = "by the server, unknown"
    REFUSED = "none: what is too long is refused"


@dataclass(frozen=True)
class Device:
    """Where the arithmetic runs."""

    kind: Literal["cpu", "mps", "gpu"]
    name: str = ""  # of a GPU, as its driver gives it

    def __str__(self) -> str:
        return self.name or self.kind

    @classmethod
    def read(cls, text: str) -> Self:
        """The device that `str` gave: every name but `cpu` and `mps` is a GPU's."""
        if text == "cpu":
            return cls("cpu")
        return cls("mps") if text == "mps" else cls("gpu", text)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a reader needs to repeat a run. Only `details` may hold what no program decides by."""

    model: str = ""
    revision: str = ""
    precision: str = ""
    template: str = ""  # name of the prompt template
    template_sha256: str = ""
    max_tokens: int | None = None  # of the whole prompt; None: the engine does not know
    device: Device | None = None  # None: the arithmetic does not run on a device of this machine that is known
    random_seed: int | None = None  # of random weights, whose scores mean nothing; None: trained weights
    weights_mb: float | None = None  # 10^6 bytes in memory
    truncation: Truncation | None = None  # None: not stated
    score_kind: ScoreKind = ScoreKind.OWN
    demonstration: bool = False  # the model says of itself that it only shows how the harness works
    details: Mapping[str, str] = field(default_factory=dict)  # for readers only: versions, kernels, settings

    def document(self) -> dict[str, str]:
        """The flat mapping of strings that manifests and recordings hold. What is unset is left out."""
        values = {
            "model": self.model,
            "revision": self.revision,
            "precision": self.precision,
            "template": self.template,
            "template_sha256": self.template_sha256,
            "max_tokens": "" if self.max_tokens is None else str(self.max_tokens),
            "device": "" if self.device is None else str(self.device),
            "weights": "" if self.random_seed is None else f"random, seed {self.random_seed}",
            "weights_mb": "" if self.weights_mb is None else f"{self.weights_mb:.1f}",
            "truncation": self.truncation or "",
            "score_kind": "" if self.score_kind is ScoreKind.OWN else self.score_kind,
            "demonstration": "true" if self.demonstration else "",
        }
        stated = {name: str(value) for name, value in values.items() if value}
        return {**stated, **{name: value for name, value in self.details.items() if name not in stated}}

    @classmethod
    def read(cls, document: Mapping[str, str]) -> Self:
        """The description that `document` wrote. A value that does not fit its field stays what it was, a detail."""
        values: dict[str, Any] = {}
        details: dict[str, str] = {}
        for name, text in document.items():
            try:
                field_name, parse = _FIELDS[name]
                values[field_name] = parse(text)
            except (KeyError, ValueError):
                details[name] = text
        return cls(**values, details=details)


def _seed(text: str) -> int:
    return int(text.removeprefix("random, seed "))


# Key of a description's document -> the field that it fills, and how the text is read.
_FIELDS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "model": ("model", str),
    "revision": ("revision", str),
    "precision": ("precision", str),
    "template": ("template", str),
    "template_sha256": ("template_sha256", str),
    "max_tokens": ("max_tokens", int),
    "device": ("device", Device.read),
    "weights": ("random_seed", _seed),
    "weights_mb": ("weights_mb", float),
    "truncation": ("truncation", Truncation),
    "score_kind": ("score_kind", ScoreKind),
    "demonstration": ("demonstration", "true".__eq__),
}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Totals of an engine's work. None means that the engine does not count it, which is never a zero."""

    truncated: int | None = None  # documents cut to fit
    special_text: int | None = None  # texts that contained special-token strings
    tokens: int | None = None  # of all prompts, each pair alone
    computed_tokens: int | None = None  # through the model: fewer where pairs share a prefix, more where padded
    padded_tokens: int | None = None  # padding alone
    flops: int | None = None  # floating-point operations of `tokens`; engines.torch.work has the formulas
    computed_flops: int | None = None  # floating-point operations of `computed_tokens`
    computed_bytes: int | None = None  # the least that these move through memory
    budget_halvings: int | None = None  # times that memory ran out and the token budget was halved
    requests: int | None = None  # HTTP requests that were answered
    retries: int | None = None  # HTTP requests that were repeated
    splits: int | None = None  # HTTP requests that were too large and were split
    saturated: int | None = None  # scores that were a probability of 0 or 1
    encoded_texts: int | None = None  # texts that became vectors
    reused_vectors: int | None = None  # vectors that were read from disk
    server_compute_us: int | None = None  # a server's own times, summed over its requests
    server_queue_us: int | None = None
    server_tokenization_us: int | None = None
    server_inference_us: int | None = None
    server_total_us: int | None = None

    def document(self) -> dict[str, int]:
        """The counts that are known, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def read(cls, document: Mapping[str, int]) -> Self:
        """The counts that `document` wrote; names that this version does not know are left out."""
        return cls(**{name: document[name] for name in COUNT_NAMES if name in document})

    def __add__(self, other: "Counts") -> "Counts":
        both = {name: value + (getattr(other, name) or 0) for name, value in self.document().items()}
        return Counts(**(other.document() | both))

    def __sub__(self, earlier: "Counts") -> "Counts":
        """What was counted since `earlier`; a count that was unknown then began at zero."""
        return Counts(**{name: value - (getattr(earlier, name) or 0) for name, value in self.document().items()})


COUNT_NAMES = tuple(each.name for each in fields(Counts))


class CrispbenchError(Exception):
    """Base of every error that is raised on purpose; the message is one line for the user."""


class EngineError(CrispbenchError):
    """Base of everything that an engine raises on purpose."""


class BadOptions(EngineError):
    """An option is unknown or has a wrong value."""


class EngineUnavailable(EngineError):
    """A package, a device, a file or a server is missing."""


class ScoringFailed(EngineError):
    """These pairs have no score."""


class Options(BaseModel):
    """An engine's own settings: frozen, and an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @property
    def speed_only(self) -> bool:
        """Whether the scores mean nothing by choice, so that times are all that may be reported."""
        return False


class Engine(ABC):
    """Turns pairs into scores. A context manager: leaving it closes, also after an error.

    `options_type` lists what the config may set. `prepares` says which texts the harness shows to
    `prepare` before the first pair of a benchmark: none, every candidate document, or the corpus.
    `concurrent` says whether several calls of `score` at a time are answered at a time.
    """

    options_type: ClassVar[type[Options]] = Options
    prepares: ClassVar[Literal["nothing", "candidates", "corpus"]] = "nothing"
    concurrent: ClassVar[bool] = False

    def __init__(self, options: Any) -> None:
        """Load whatever the options name. `options` is a validated instance of the class's own `options_type`."""
        self.options = options

    @abstractmethod
    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """One finite raw score per pair, in the order of the pairs; higher is more relevant.

        A plain `(query, document)` tuple is accepted wherever a `Pair` is: unpack it, or group by `by_query`.

        Log-odds `logit("1") - logit("0")` in float32 or better for models that have them, never a
        probability for ranking. Consecutive pairs of one query belong together: an engine may share
        their work. Raises ScoringFailed if any pair has no score: a guess or a zero is never returned.
        """

    def prepare(self, documents: Collection[str], *, analysis: str) -> None:
        """See the documents before they are scored; called again for the next benchmark.

        They may be read more than once, and be more than memory holds: keep no text. `analysis` says what kind of
        text they are (english, code, ...) to engines that cut text into terms.
        """

    def describe(self) -> Description:
        """What a reader needs to repeat the run, and all that the harness may decide by.

        Constant for the life of the engine; it becomes part of the fingerprint of the results.
        """
        return Description()

    def counts(self) -> Counts:
        """Running totals since the start, of whatever the engine counts."""
        return Counts()

    def last_call(self) -> Call:
        """Of the last call of `score` that this thread made and that gave scores."""
        return Call()

    def ceiling(self) -> Ceiling | None:
        """What this machine reaches in this engine's arithmetic, measured now in a few seconds; None: not known."""
        return None

    def close(self) -> None:
        """Free memory, connections and processes; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Retriever(Engine):
    """An engine that can also search the documents it was prepared with: a first stage."""

    prepares: ClassVar[Literal["nothing", "candidates", "corpus"]] = "corpus"

    @abstractmethod
    def search(self, query: str, k: int) -> list[int]:
        """Positions (in the order of `prepare`) of at most k documents, best first.

        Equal scores keep the order of `prepare`; a document without any evidence is left out.
        """


def by_query(pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """The query and the documents of every run of consecutive pairs that have the same query, in order."""
    for query, group in groupby(pairs, key=itemgetter(0)):
        yield query, [document for _, document in group]


OptionsT = TypeVar("OptionsT", bound=Options)


def read_options(model: type[OptionsT], options: Mapping[str, Any], owner: str) -> OptionsT:
    """Validated options, or BadOptions in one line that names the value and the known names."""
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        raise BadOptions(f"{owner}: {explain(error, model)}") from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a pydantic error in one line: the value, what was expected, the next step."""
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown option {name!r}; known are {', '.join(sorted(model.model_fields))}"
    if problem["type"] == "missing":
        return f"option {name!r} is missing; known are {', '.join(sorted(model.model_fields))}"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{name} = {problem['input']!r:.200}: {message}" if name else message


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters; the name of its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def not_utf8(error: Exception) -> ScoringFailed:
    """The failure of a text that has no bytes in UTF-8, such as a lone surrogate."""
    return ScoringFailed(f"a text cannot be encoded as UTF-8: {error}")


def require(package: str, *, extra: str) -> Any:
    """Import an optional package, or raise EngineUnavailable with the extra that brings it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise EngineUnavailable(f"{package} cannot be imported ({error}): pip install 'crispbench[{extra}]'") from None
