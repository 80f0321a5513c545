"""Suites: benchmarks that are averaged together, listed in configs/suites/*.yaml.

Two averages are comparable only if they have the same members (BM25 has 0.437 on 14 collections of BEIR and 0.429 on
18), so a suite lists each of its members. A group such as CQADupStack is averaged first and counts as one member.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from engines.base import Options
from engines.problems import explain, first_problem
from engines.spelling import expected
from engines.yaml_file import read_yaml
from harness.benchmarks import BenchmarkError

# In a wheel the suites lie inside this package, in a checkout beside it.
FOLDERS = (Path(__file__).parents[1] / "configs" / "suites", Path(__file__).parents[2] / "configs" / "suites")
K = 100  # candidates per query for which sizes are stated


class SuiteMember(Options):
    """One benchmark of a suite; a size that is not known is null."""

    name: str  # as tables and the command line write it
    benchmark: Mapping[str, Any]  # an entry as under `benchmarks` in a config
    queries: int | None
    documents: int | None
    own_pairs: int | None = None  # candidates that come with a reranking task, over all queries
    group: str | None = None  # members of one group are averaged first and count as one

    def pairs(self, k: int = K) -> int | None:
        """Largest number of pairs, at k candidates per query or at the member's own k; None if it is not known."""
        if self.queries is None:
            return None
        depth: int = self.benchmark.get("candidates", {}).get("k", k)
        if self.documents is not None:
            depth = min(depth, self.documents)
        return self.queries * depth if self.own_pairs is None else min(self.queries * depth, self.own_pairs)


class Suite(Options):
    """Benchmarks that are averaged together."""

    name: str
    description: str
    source: str  # origin of the list of members and of their sizes
    members: tuple[SuiteMember, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [member.name for member in self.members]
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise ValueError(f"member {repeated[0]!r} is listed twice")
        return self

    @property
    def units(self) -> dict[str, tuple[SuiteMember, ...]]:
        """The members by unit. A unit counts once in the average: it is a group, or a member without a group."""
        units: dict[str, tuple[SuiteMember, ...]] = {}
        for member in self.members:
            unit = member.group or member.name
            units[unit] = (*units.get(unit, ()), member)
        return units

    @property
    def weights(self) -> dict[str, float]:
        """Share of each member in the average; the shares add up to 1."""
        units = self.units
        return {member.name: 1 / len(units) / len(unit) for unit in units.values() for member in unit}

    @property
    def queries(self) -> int | None:
        return _total(member.queries for member in self.members)

    @property
    def documents(self) -> int | None:
        return _total(member.documents for member in self.members)

    def pairs(self, k: int = K) -> int | None:
        return _total(member.pairs(k) for member in self.members)


def suite_names() -> list[str]:
    """Names of the suites that ship with the project."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob("*.yaml")})


@cache
def load_suite(name: str) -> Suite:
    """A shipped suite by name. Raises BenchmarkError, which names the known suites."""
    path = next((path for folder in FOLDERS if (path := folder / f"{name}.yaml").is_file()), None)
    if path is None or name not in suite_names():
        raise BenchmarkError(f"suite {name!r} is not known; {expected(name, suite_names())}")
    try:
        return Suite.model_validate(read_yaml(path).content)
    except ValidationError as error:
        part = SuiteMember if len(first_problem(error)["loc"]) > 1 else Suite
        raise BenchmarkError(f"{path}: {explain(error, part)}") from None


def _total(numbers: Iterable[int | None]) -> int | None:
    sizes = list(numbers)
    return None if None in sizes else sum(size for size in sizes if size is not None)
