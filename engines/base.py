"""All that an engine author must read: the pair, the engine contract and the errors.

An engine turns (query, document) pairs into scores. It knows nothing of benchmarks, measures or reports.

    CrispbenchError             every error that is raised on purpose; the harness adds its own
    └── EngineError
        ├── BadOptions          an option is unknown or has a wrong value
        ├── EngineUnavailable   a package, a device, a file or a server is missing
        └── ScoringFailed       these pairs have no score
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
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

    def describe(self) -> Mapping[str, str]:
        """What a reader needs to repeat the run: model, revision, precision, template, device.

        Constant for the life of the engine; it becomes part of the fingerprint of the results.
        """
        return {}

    def counts(self) -> Mapping[str, int]:
        """Running totals since the start, of whatever the engine knows.

        `truncated`: documents cut to fit. `special_text`: texts that contained special-token strings.
        `tokens`: of all prompts, each pair alone. `computed_tokens`: those that went through the model, fewer where
        pairs share a prefix, more where they are padded; `padded_tokens`: padding alone. `flops`: floating-point
        operations of the `tokens`; `computed_flops`: of the computed ones; `computed_bytes`: the least that these
        move through memory. `engines.torch.work` has the formulas.
        """
        return {}

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


def require(package: str, *, extra: str) -> Any:
    """Import an optional package, or raise EngineUnavailable with the extra that brings it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise EngineUnavailable(f"{package} cannot be imported ({error}): pip install 'crispbench[{extra}]'") from None
