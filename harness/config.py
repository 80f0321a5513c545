"""The config file: YAML, checked as a whole before any model, data or network is touched."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    StringConstraints,
    ValidationError,
    model_validator,
)

import engines
from engines.base import BadOptions, CrispbenchError, Options, explain, read_options
from engines.yaml_file import read_yaml
from harness.benchmarks import BenchmarkError, source_class
from harness.benchmarks.suites import load_suite
from harness.candidates.first_stage import FirstStage
from harness.published import PublishedComparison

# Names become folders: one path component, no leading dot or dash.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


class ConfigError(CrispbenchError):
    """The config cannot be used; the message is one line for the user."""


class _WithOptions(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class EngineEntry(_WithOptions):
    kind: str


class BenchmarkEntry(_WithOptions):
    source: str
    candidates: FirstStage | None = None  # its own first stage; None: the config's


class NamedEntry(NamedTuple):
    """A benchmark to load, and the name that it has in the results; None leaves that to its source."""

    name: str | None
    benchmark: BenchmarkEntry


Level = Annotated[int, Field(gt=0, le=1024)]
Price = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Scenario = Literal["single-stream", "server", "offline", "sweep", "search"]


class Search(Options):
    """How long `search` looks for the largest rate that keeps to `slo_ms`."""

    width: float = Field(default=0.05, gt=0, le=1)  # it ends when a rate that failed is so little above one that passed
    probes: int = Field(default=20, gt=0)  # measurements at most
    seconds: float = Field(default=1800.0, gt=0)  # after which no further one begins
    longest: int = Field(default=8, gt=0)  # times the first number of requests, where a rate is not decided by fewer


class Latency(Options):
    """What `crispbench latency` measures: requests are queries of one benchmark with all their candidates."""

    benchmark: str | None = None  # by name; None: the config's first
    scenario: Annotated[
        tuple[Scenario, ...],
        Field(min_length=1),
        BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
    ] = ("single-stream",)  # one, or a list
    queries: int | None = Field(default=None, gt=0)  # requests; None: each query once; more than there are: again
    warmup: int = Field(default=10, ge=0)  # requests before the first that counts
    seed: int = 0  # of the order of the queries and of the arrivals
    rate: float = Field(default=1.0, gt=0)  # of server: requests per second
    arrivals: Literal["poisson", "constant"] = "poisson"  # of server
    workers: int = Field(default=16, gt=0, le=1024)  # of server: requests under way at most, to a concurrent engine
    processes: int = Field(default=1, gt=0, le=64)  # that send to a concurrent engine, each with its share
    slo_ms: float | None = Field(default=None, gt=0)  # of server and search: p99 of the response time may be this much
    sweep: Annotated[tuple[Level, ...], Field(min_length=1)] = (1, 2, 4, 8, 16, 32)  # requests under way, one by one
    search: Search = Search()
    price_per_hour: Price | dict[Name, Price] | None = None  # US dollars, of the machine that an engine runs on
    min_duration_s: float = Field(default=10.0, ge=0)  # a shorter measurement is invalid


class Cluster(Options):
    """The workers of each engine of a run over Ray."""

    workers: PositiveInt | None = None  # None: as many as there is room for
    cpus: float = Field(default=1.0, gt=0)  # of each worker
    gpus: float = Field(default=0.0, ge=0)  # of each worker; half a GPU is two workers on one


class Config(Options):
    """What a run is made of. `suites` and `benchmarks` add up; one of the two must name something."""

    name: Name
    engines: dict[Name, EngineEntry] = Field(min_length=1)
    suites: tuple[str, ...] = ()  # of configs/suites, in full
    benchmarks: tuple[BenchmarkEntry, ...] = ()
    candidates: FirstStage = FirstStage()
    latency: Latency = Latency()
    ray: Cluster = Cluster()  # of `run --ray`
    published: tuple[PublishedComparison, ...] = ()  # tables of results/published whose numbers stand beside ours

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
            raise ValueError(f"latency.price_per_hour names engine {unknown[0]!r}; known are {', '.join(self.engines)}")
        return self

    def entries(self) -> list[NamedEntry]:
        """Every benchmark of the run, those of the suites first. Raises BenchmarkError for an unknown suite."""
        members = [member for name in self.suites for member in load_suite(name).members]
        return [
            *(NamedEntry(member.name, BenchmarkEntry.model_validate(member.benchmark)) for member in members),
            *(NamedEntry(None, benchmark) for benchmark in self.benchmarks),
        ]


def read_config(path: Path) -> Config:
    """A config in which every name and option is known. Raises ConfigError."""
    try:
        document = read_yaml(path)
        if not isinstance(document, dict):
            raise ConfigError(
                f"{path}: holds {document!r:.60}, expected a mapping with {', '.join(Config.model_fields)}"
            )
        config = Config.model_validate(document)
        for name, engine in config.engines.items():
            read_options(engines.engine_class(engine.kind).options_type, engine.options, f"engine {name!r}")
        for _, benchmark in config.entries():
            read_options(source_class(benchmark.source), benchmark.options, f"benchmark source {benchmark.source!r}")
        for comparison in config.published:
            comparison.check(config.engines)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, _part(error))}") from None
    except (BadOptions, BenchmarkError) as error:
        raise ConfigError(f"{path}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); expected a YAML config, see configs/demo.yaml") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())[:500]}") from None
    return config


def _part(error: ValidationError) -> type[BaseModel]:
    """The model of the entry in which the first problem lies: its options are the known ones."""
    place = error.errors()[0]["loc"]
    if "candidates" in place[:-1]:
        return FirstStage
    if place[:2] == ("latency", "search"):
        return Search
    parts: dict[str, type[BaseModel]] = {
        "engines": EngineEntry,
        "benchmarks": BenchmarkEntry,
        "latency": Latency,
        "published": PublishedComparison,
        "ray": Cluster,
    }
    return parts.get(str(place[0]), Config) if len(place) > 1 else Config


def choose(config: Config, names: Sequence[str]) -> list[str]:
    """The engines of these names (none: all) in the config's order."""
    unknown = [name for name in names if name not in config.engines]
    if unknown:
        raise ConfigError(f"engine {unknown[0]!r} is not in the config; it has {', '.join(config.engines)}")
    return [name for name in config.engines if not names or name in names]
