"""Everything that an engine author must read: pairs, descriptions and counts, the engine contract and the errors.

An engine turns (query, document) pairs into scores. It knows nothing of benchmarks, measures or reports.

    CrispbenchError             every error that is raised on purpose; the harness adds its own
    └── EngineError
        ├── BadOptions          an option is unknown or has a wrong value
        ├── EngineUnavailable   a package, a device, a file or a server is missing
        └── ScoringFailed       these pairs have no score
            └── EngineFailed    for a reason that is not in these pairs, so that others would fail as well
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, ValidatorFunctionWrapHandler, field_validator

from engines.errors import BadOptions as BadOptions
from engines.errors import CrispbenchError as CrispbenchError
from engines.errors import EngineError as EngineError
from engines.errors import EngineFailed as EngineFailed
from engines.errors import EngineUnavailable as EngineUnavailable
from engines.errors import ScoringFailed as ScoringFailed
from engines.packages import is_installed as is_installed
from engines.packages import require as require
from engines.packages import require_installed as require_installed
from engines.problems import alterations, explain, first_problem


class Pair(NamedTuple):
    query: str
    document: str


class Ceiling(NamedTuple):
    """Speed of a machine in the matrix products of an engine's model: measured now, not taken from a data sheet."""

    flops_per_s: float  # best of several repeats, over the model's own matrices in the proportions of a forward
    bytes_per_s: float  # bytes read and written by a large copy in the device's memory
    dtype: str  # type of the factors
    how: str  # device, threads, tokens per product


class Call(NamedTuple):
    """Time and tokens of one call of `score`; None for a value that the engine does not know."""

    first_byte_s: float | None = None  # arrival of the first byte of an answer, on the clock `time.perf_counter`
    tokens: int | None = None  # tokens of all prompts, every pair alone


class ScoreKind(StrEnum):
    """The kind of a score; recorded runs hold these values."""

    OWN = "own"  # the engine's own scale, such as BM25's or a cosine: comparable with engines of the same kind only
    LOG_ODDS = "logit_diff"  # logit of the positive label minus logit of the negative one
    LOGIT = "logit"  # the logit of a classifier with a single label, which is the log-odds itself
    PROBABILITY = "probability"  # log-odds computed from a server's probabilities
    OPAQUE = "opaque"  # a service's number with an unpublished meaning

    @property
    def is_log_odds(self) -> bool:
        """Whether scores of this kind are log-odds, which can be subtracted between models."""
        return self in (ScoreKind.LOG_ODDS, ScoreKind.LOGIT, ScoreKind.PROBABILITY)


class Truncation(StrEnum):
    """Who cuts texts that are too long; recorded runs hold these values."""

    HERE = "of the document, here"
    BY_SERVER = "by the server, unknown"
    REFUSED = "none: what is too long is refused"


@dataclass(frozen=True)
class Device:
    """The device that computes."""

    kind: Literal["cpu", "mps", "gpu"]
    name: str = ""  # name of a GPU, as its driver gives it

    def __str__(self) -> str:
        return self.name or self.kind

    @classmethod
    def read(cls, text: str) -> Self:
        """The inverse of `str`: every text except `cpu` and `mps` is the name of a GPU."""
        if text == "cpu":
            return cls("cpu")
        return cls("mps") if text == "mps" else cls("gpu", text)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a reader needs to repeat a run. No program makes a decision by `details`; all else has a field."""

    model: str = ""
    revision: str = ""
    precision: str = ""
    template: str = ""  # name of the prompt template
    template_sha256: str = ""
    max_tokens: int | None = None  # limit of the whole prompt; None: unknown
    device: Device | None = None  # None: unknown, or not on this machine
    random_seed: int | None = None  # seed of random weights, whose scores mean nothing; None: trained weights
    weights_mb: float | None = None  # size of the weights in memory, in 10^6 bytes
    truncation: Truncation | None = None  # None: not stated
    score_kind: ScoreKind = ScoreKind.OWN
    demonstration: bool = False  # the model declares that it only shows how the harness works
    details: Mapping[str, str] = field(default_factory=dict)  # for readers only: versions, kernels, settings

    def document(self) -> dict[str, str]:
        """The flat mapping of strings that manifests and recordings hold, without unset fields."""
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
        """The inverse of `document`. A value that does not fit its field becomes a detail."""
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


# Key of a description's document -> its field, and the function that parses its text.
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
    """Totals of an engine's work. None means that the engine does not count this; it is never treated as zero."""

    truncated: int | None = None  # documents cut to fit
    truncated_queries: int | None = None  # queries cut to fit, once for every call that scores documents of the query
    special_text: int | None = None  # texts that contained special-token strings
    tokens: int | None = None  # tokens of all prompts, every pair alone
    computed_tokens: int | None = None  # tokens through the model: fewer with shared prefixes, more with padding
    padded_tokens: int | None = None  # padding only
    flops: int | None = None  # floating-point operations of `tokens`; engines.torch.work has the formulas
    computed_flops: int | None = None  # floating-point operations of `computed_tokens`
    computed_bytes: int | None = None  # lower bound of the bytes that these move through memory
    budget_halvings: int | None = None  # how often memory ran out and the token budget was halved
    requests: int | None = None  # HTTP requests that were answered
    retries: int | None = None  # HTTP requests that were repeated
    splits: int | None = None  # HTTP requests that were too large and were split
    paced: int | None = None  # HTTP requests that waited for their turn, because the config limits their rate
    saturated: int | None = None  # scores from a probability of 0 or 1
    encoded_texts: int | None = None  # texts that became vectors
    reused_vectors: int | None = None  # vectors that were read from disk
    server_compute_us: int | None = None  # this and the next four: a server's own times, summed over requests
    server_queue_us: int | None = None
    server_tokenization_us: int | None = None
    server_inference_us: int | None = None
    server_total_us: int | None = None

    def document(self) -> dict[str, int]:
        """The known counts by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def read(cls, document: Mapping[str, int]) -> Self:
        """The inverse of `document`; names that this version does not know are left out."""
        return cls(**{name: document[name] for name in COUNT_NAMES if name in document})

    def __add__(self, other: "Counts") -> "Counts":
        both = {name: value + (getattr(other, name) or 0) for name, value in self.document().items()}
        return Counts(**(other.document() | both))

    def __sub__(self, earlier: "Counts") -> "Counts":
        """The counts since `earlier`; a count that was unknown then started at zero."""
        return Counts(**{name: value - (getattr(earlier, name) or 0) for name, value in self.document().items()})


COUNT_NAMES = tuple(count.name for count in fields(Counts))


class PromptOptions(NamedTuple):
    """How an engine makes a prompt of a pair."""

    template: str  # name or file
    instruction: str
    exact: bool  # the model reads the template's own tokens: no server or library stands between


class Options(BaseModel):
    """An engine's own settings: frozen; an unknown name is an error, and a value is what was written.

    No text becomes a number, no number becomes true or false, and no fraction becomes a whole number. Numbers are
    finite.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _is_what_was_written(cls, given: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        read = handler(given)
        for problem in alterations(given, read):
            raise ValueError(problem)
        return read

    # Options that decide neither scores nor times, such as how often a server is asked again. They may change when the
    # same command goes on with a run.
    incidental: ClassVar[frozenset[str]] = frozenset()
    _config_folder: Path | None = PrivateAttr(default=None)

    def model_post_init(self, context: Any, /) -> None:
        """Keep the folder of the config, if the options came from one."""
        self._config_folder = (context or {}).get("config_folder")

    @property
    def config_folder(self) -> Path | None:
        """The folder in which relative paths are looked for after the working directory; None without a config."""
        return self._config_folder

    @property
    def speed_only(self) -> bool:
        """Whether only times may be reported, because the scores mean nothing by choice."""
        return False

    @property
    def prompt(self) -> PromptOptions | None:
        """How a prompt is made of a pair; None where the engine has none, or a service makes its own."""
        return None

    @property
    def requests_at_a_time(self) -> int | None:
        """How many requests of a concurrent engine are under way at most; None: as many as there are callers."""
        return None


class Engine(ABC):
    """Turns pairs into scores. A context manager: leaving the block closes the engine, also after an error.

    `options_type` has the options of a config. `prepares` says which texts `prepare` receives before the first pair of
    a benchmark: none, every candidate document, or the corpus. `concurrent` says whether calls of `score` from several
    threads are answered at the same time.
    """

    options_type: ClassVar[type[Options]] = Options
    prepares: ClassVar[Literal["nothing", "candidates", "corpus"]] = "nothing"
    concurrent: ClassVar[bool] = False

    def __init__(self, options: Any) -> None:
        """Load the model that the options name. `options` is a validated instance of the class's own `options_type`."""
        self.options = options

    @classmethod
    def preflight(cls, options: Any) -> Sequence[str]:
        """Look for everything that the options need, in seconds and without loading a model.

        A run calls this for all of its engines before the first pair is scored, and `engines.load` before loading.
        Returns notes that a reader should see, one line each. Raises BadOptions for a mistake in the config, such as a
        folder that does not exist, and EngineUnavailable for a package, a key, a device or a model that is missing.
        """
        return ()

    @abstractmethod
    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """One finite raw score per pair, in the order of the pairs; higher is more relevant.

        A plain `(query, document)` tuple is accepted wherever a `Pair` is: unpack it, or group pairs by `by_query`.

        Models with two labels give the log-odds `logit("1") - logit("0")` in float32 or better, never a probability.
        Consecutive pairs of one query belong together: an engine may share their work. Raises ScoringFailed if any pair
        has no score: a guess or a zero is never returned; EngineFailed if other pairs would fail as well.
        """

    def prepare(self, documents: Collection[str], *, analysis: str) -> None:
        """Read the documents before they are scored; called once per benchmark.

        They may be read more than once, and they may exceed memory: keep no text. `analysis` names the kind of text
        (english, code, ...) for engines that split text into terms.
        """

    def describe(self) -> Description:
        """What a reader needs to repeat the run, and everything by which the harness may decide.

        Constant for the life of the engine; it becomes part of the fingerprint of the results.
        """
        return Description()

    def counts(self) -> Counts:
        """Running totals since the engine was made."""
        return Counts()

    def last_call(self) -> Call:
        """Time and tokens of this thread's last successful call of `score`."""
        return Call()

    def ceiling(self) -> Ceiling | None:
        """Speed of this machine in this engine's arithmetic, measured now in a few seconds; None if unknown."""
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
    """An engine that can also search the prepared documents: a first stage."""

    prepares: ClassVar[Literal["nothing", "candidates", "corpus"]] = "corpus"

    @abstractmethod
    def search(self, query: str, k: int) -> list[int]:
        """Positions (in the order of `prepare`) of at most k documents, best first.

        Equal scores keep the order of `prepare`; documents without any match are left out.
        """


def by_query(pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """The query and the documents of every run of consecutive pairs with the same query, in order."""
    for query, group in groupby(pairs, key=itemgetter(0)):
        yield query, [document for _, document in group]


OptionsT = TypeVar("OptionsT", bound=Options)


def read_options(
    model: type[OptionsT], options: Mapping[str, Any], owner: str, config_folder: Path | None = None
) -> OptionsT:
    """Validated options. Raises BadOptions in one line with the value and the known names."""
    try:
        return model.model_validate(dict(options), context={"config_folder": config_folder})
    except ValidationError as error:
        raise BadOptions(f"{owner}: {explain(error, model)}", first_problem(error)["loc"]) from None


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters; the name of its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def not_utf8(error: Exception) -> ScoringFailed:
    """The failure of a text that has no bytes in UTF-8, such as a lone surrogate."""
    return ScoringFailed(f"a text cannot be encoded as UTF-8: {error}")
