"""The config file: YAML, checked as a whole before any model, data or network is touched."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from ir_measures import Measure
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PositiveInt,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

import engines
from engines.base import BadOptions, CrispbenchError, Options, read_options
from engines.problems import explain, first_problem
from engines.spelling import closest, expected
from engines.yaml_file import read_yaml
from harness import benchmarks
from harness.benchmarks import BenchmarkError, BenchmarkSource
from harness.benchmarks.suites import SuiteMember, load_suite
from harness.candidates.stages import BM25Stage, FirstStage, read_stage
from harness.figures.measure_names import parse_all
from harness.figures.measures import HEADLINE, MEASURES
from harness.published import PublishedComparison

# Names become folders: one path component, no leading dot or dash.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


class ConfigError(CrispbenchError):
    """The config cannot be used. The message is one line for the user."""


@dataclass(frozen=True)
class EngineEntry:
    """An engine of the config."""

    kind: str
    given: Mapping[str, Any]  # options as the config has them
    options: Options  # the same options, validated for `engines.load`

    @classmethod
    def read(cls, name: str, document: object, config_folder: Path | None = None) -> Self:
        """Read the entry with this name. Raises BadOptions, or EngineUnavailable if its kind cannot be imported."""
        if not isinstance(document, Mapping):
            raise BadOptions(f"engine {name!r} = {document!r:.200}: expected a mapping such as {{kind: bm25}}")
        owner = f"engine {name!r}"
        kind = _name_of(document, "kind", engines.names(), owner)
        given = {option: value for option, value in document.items() if option != "kind"}
        with _below("kind"):
            options_type = engines.engine_class(kind).options_type
        return cls(kind, given, read_options(options_type, given, owner, config_folder))

    @property
    def decisive(self) -> Mapping[str, Any]:
        """The given options that decide scores or times, which results record."""
        return {option: value for option, value in self.given.items() if option not in self.options.incidental}


@dataclass(frozen=True)
class BenchmarkEntry:
    """A benchmark of the config or of a suite."""

    source: BenchmarkSource  # validated, but not loaded yet
    title: str  # name in messages until the benchmark is loaded
    candidates: FirstStage | None = None  # first stage of this benchmark; None: the config's first stage

    @classmethod
    def read(cls, document: object, config_folder: Path | None = None) -> Self:
        """Read an entry of `benchmarks`. Raises BadOptions, BenchmarkError."""
        if not isinstance(document, Mapping):
            raise BadOptions(f"benchmark {document!r:.200}: expected a mapping such as {{source: beir, path: FOLDER}}")
        source = _name_of(document, "source", benchmarks.names(), f"benchmark {document!r:.100}")
        options = {name: value for name, value in document.items() if name not in ("source", "candidates")}
        with _below("source"):
            benchmarks.source_class(source)
        stage = None
        if "candidates" in document:
            with _below("candidates"):
                stage = read_stage(document["candidates"], config_folder)
        return cls(
            source=benchmarks.read_source(source, options, config_folder),
            title=str(options.get("label") or options.get("name") or Path(str(options.get("path") or source)).name),
            candidates=stage,
        )


class NamedEntry(NamedTuple):
    """A benchmark to load, and its name in the results; None: the name that the source gives it."""

    name: str | None
    benchmark: BenchmarkEntry


def _name_of(document: Mapping[str, object], option: str, known: Sequence[str], owner: str) -> str:
    """The name under `kind` or `source`, which decides what the other options mean. Raises BadOptions."""
    if option not in document:
        near = closest(option, document)
        slip = "" if near is None else f" (is {near!r} meant?)"
        raise BadOptions(f"{owner}: option {option!r} is missing{slip}; expected one of {', '.join(known)}")
    name = document[option]
    if not isinstance(name, str):
        raise BadOptions(
            f"{owner}: {option} = {name!r:.100} is not a name; expected one of {', '.join(known)}", [option]
        )
    return name


def _read_engines(document: object, info: ValidationInfo) -> object:
    """Read each entry together with its name, so that a wrong option is reported with the engine's name."""
    if not isinstance(document, Mapping):
        return document
    entries = {}
    for name, entry in document.items():
        with _below("engines", name):
            entries[name] = EngineEntry.read(str(name), entry, _folder_of(info))
    return entries


def _read_benchmarks(document: object, info: ValidationInfo) -> object:
    if not isinstance(document, list | tuple):
        return document
    entries = []
    for position, entry in enumerate(document):
        with _below("benchmarks", position):
            entries.append(BenchmarkEntry.read(entry, _folder_of(info)))
    return entries


def _read_stage(document: object, info: ValidationInfo) -> FirstStage:
    with _below("candidates"):
        return read_stage(document, _folder_of(info))


def _folder_of(info: ValidationInfo) -> Path | None:
    folder: Path | None = (info.context or {}).get("config_folder")
    return folder


@contextmanager
def _below(*parents: str | int) -> Iterator[None]:
    """Errors inside the block are about values below these keys of the config."""
    try:
        yield
    except BadOptions as error:
        raise error.within(*parents) from None
    except BenchmarkError as error:
        raise BadOptions(str(error), parents) from None


Level = Annotated[int, Field(gt=0, le=1024)]
Price = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Scenario = Literal["single-stream", "server", "offline", "sweep", "search"]


class Search(Options):
    """The limits of `search`, which looks for the largest rate that stays within `slo_ms`."""

    width: float = Field(default=0.05, gt=0, le=1)  # the search ends at this relative gap between pass and fail
    probes: int = Field(default=20, gt=0)  # maximum number of measurements
    seconds: float = Field(default=1800.0, gt=0)  # time after which no new measurement begins
    longest: int = Field(default=8, gt=0)  # an undecided rate is measured again with up to this many times the requests


class Latency(Options):
    """The settings of `crispbench latency`. A request is a query of the benchmark with all its candidates."""

    benchmark: str | None = None  # name of the benchmark; None: the config's first benchmark
    scenario: Annotated[
        tuple[Scenario, ...],
        Field(min_length=1),
        BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
    ] = ("single-stream",)  # one name, or a list of names
    queries: int | None = Field(default=None, gt=0)  # number of requests; queries repeat if needed; None: each once
    warmup: int = Field(default=10, ge=0)  # requests that are sent before the first measured one
    seed: int = 0  # decides the order of the queries and the arrival times
    rate: float = Field(default=1.0, gt=0)  # server: requests per second
    arrivals: Literal["poisson", "constant"] = "poisson"  # server
    workers: int = Field(default=16, gt=0, le=1024)  # server: most requests under way, to a concurrent engine
    processes: int = Field(default=1, gt=0, le=64)  # processes that share the requests to a concurrent engine
    slo_ms: float | None = Field(default=None, gt=0)  # server and search: limit of the p99 response time
    sweep: Annotated[tuple[Level, ...], Field(min_length=1)] = (1, 2, 4, 8, 16, 32)  # requests under way, per level
    search: Search = Search()
    price_per_hour: Price | dict[Name, Price] | None = None  # US dollars for the machine that an engine runs on
    min_duration_s: float = Field(default=10.0, ge=0)  # a shorter measurement is invalid


class Cluster(Options):
    """The workers of each engine in a run over Ray."""

    workers: PositiveInt | None = None  # None: as many as the cluster has room for
    cpus: float = Field(default=1.0, gt=0)  # per worker
    gpus: float = Field(default=0.0, ge=0)  # per worker; 0.5 puts two workers on one GPU


class Config(Options):
    """The whole config. A run has the benchmarks of `suites` and `benchmarks`, of which one may be empty."""

    name: Name
    engines: Annotated[dict[Name, EngineEntry], BeforeValidator(_read_engines)] = Field(min_length=1)
    suites: tuple[str, ...] = ()  # names from configs/suites; every member is measured
    benchmarks: Annotated[tuple[BenchmarkEntry, ...], BeforeValidator(_read_benchmarks)] = ()
    candidates: Annotated[FirstStage, BeforeValidator(_read_stage)] = BM25Stage()
    measures: Annotated[tuple[str, ...], Field(min_length=1)] | None = None  # None: the standard measures
    latency: Latency = Latency()
    ray: Cluster = Cluster()  # for `run --ray`
    published: tuple[PublishedComparison, ...] = ()  # tables of results/published to show beside our results

    _entries: tuple[NamedEntry, ...] = PrivateAttr(default=())

    @field_validator("measures")
    @classmethod
    def _are_known(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Unique names as ir_measures writes them, with nDCG@10, because verdicts depend on it."""
        if names is None:
            return None
        written = [str(measure) for measure in parse_all(names)]
        return tuple(dict.fromkeys(written if HEADLINE in written else [HEADLINE, *written]))

    @model_validator(mode="after")
    def _measures_something(self) -> Self:
        if not self.suites and not self.benchmarks:
            raise ValueError("nothing to measure: name at least one entry under `suites` or `benchmarks`")
        return self

    @model_validator(mode="after")
    def _prices_what_it_has(self) -> Self:
        prices = self.latency.price_per_hour
        unknown = sorted(prices.keys() - self.engines.keys()) if isinstance(prices, dict) else []
        if unknown:
            problem = f"latency.price_per_hour names engine {unknown[0]!r}; {expected(unknown[0], self.engines)}"
            raise BadOptions(problem, ("latency", "price_per_hour", unknown[0]))
        return self

    @model_validator(mode="after")
    def _knows_its_suites(self) -> Self:
        members: list[SuiteMember] = []
        for position, name in enumerate(self.suites):
            with _below("suites", position):
                members += load_suite(name).members
        self._entries = (
            *(NamedEntry(member.name, BenchmarkEntry.read(member.benchmark)) for member in members),
            *(NamedEntry(None, benchmark) for benchmark in self.benchmarks),
        )
        return self

    @model_validator(mode="after")
    def _compares_what_it_has(self) -> Self:
        for position, comparison in enumerate(self.published):
            with _below("published", position):
                comparison.check(self.engines)
        return self

    @property
    def chosen_measures(self) -> Sequence[Measure]:
        """The measures of the run."""
        return parse_all(self.measures) if self.measures else MEASURES

    @property
    def entries(self) -> Sequence[NamedEntry]:
        """Every benchmark of the run, those of the suites first."""
        return self._entries


def read_config(path: Path) -> Config:
    """Read a config and check every name and option in it. Raises ConfigError, EngineUnavailable."""
    try:
        document = read_yaml(path)
    except BadOptions as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        reason = f"{path.absolute()}: cannot be read ({error.strerror or error})"
        raise ConfigError(f"{reason}; expected a YAML config, see configs/demo.yaml") from None
    if not isinstance(document.content, dict):
        raise ConfigError(
            f"{path}: holds {document.content!r:.60}, expected a mapping with {', '.join(Config.model_fields)}"
        )
    try:
        return Config.model_validate(document.content, context={"config_folder": Path(os.path.abspath(path)).parent})
    except ValidationError as error:
        line = document.line_of(first_problem(error)["loc"])
        raise ConfigError(f"{path}: line {line}: {explain(error, _part(error))}") from None
    except BadOptions as error:
        raise ConfigError(f"{path}: line {document.line_of(error.location)}: {error}") from None
    except BenchmarkError as error:
        raise ConfigError(f"{path}: {error}") from None


def _part(error: ValidationError) -> type[BaseModel]:
    """The model of the section that has the first problem; its fields are the known options."""
    location = first_problem(error)["loc"]
    if location[:2] == ("latency", "search"):
        return Search
    parts: dict[str, type[BaseModel]] = {"latency": Latency, "published": PublishedComparison, "ray": Cluster}
    return parts.get(str(location[0]), Config) if len(location) > 1 else Config


def choose(config: Config, names: Sequence[str]) -> list[str]:
    """These engines, or all engines for no names, in the config's order. Raises ConfigError for an unknown name."""
    unknown = [name for name in names if name not in config.engines]
    if unknown:
        raise ConfigError(f"engine {unknown[0]!r} is not in the config; {expected(unknown[0], config.engines)}")
    return [name for name in config.engines if not names or name in names]
