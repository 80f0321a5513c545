"""Whether two recorded runs may be compared: equal queries, judgements, candidates and template, no gaps."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from engines.base import Description, ScoreKind
from harness.compare.comparison import ComparedEngine, Field
from harness.manifest import Manifest
from harness.records import Qrels, Row, Score
from harness.run.rows import engine_rows
from harness.store import NotComparable, Store, StoreError

ALLOWANCES = ("template",)  # fields that may differ on request, although they decide the scores
SHOWN = 3


class ScoreScale(NamedTuple):
    """The scale of scores. Scores on equal scales can be subtracted."""

    kind: ScoreKind
    owner: str = ""  # the engine kind or the model of a service that defines the scale; empty for log-odds


@dataclass(frozen=True)
class Recorded:
    """One engine of a recorded run."""

    folder: Path
    manifest: Manifest
    rows: Mapping[str, Row]  # by benchmark

    @property
    def scale(self) -> ScoreScale:
        description = self.manifest.description
        if description.score_kind.is_log_odds:
            return ScoreScale(ScoreKind.LOG_ODDS)
        own = description.score_kind is ScoreKind.OWN
        return ScoreScale(description.score_kind, self.manifest.kind if own else description.model)

    def engine(self, name: str) -> ComparedEngine:
        row = next(iter(self.rows.values()))
        return ComparedEngine(name, row.kind, row.model, row.machine, str(self.folder))

    def qrels(self, benchmark: str) -> Qrels:
        with Store.read(self.folder) as store:
            return store.qrels(benchmark)

    def scores(self, benchmark: str) -> Mapping[str, Sequence[Score]]:
        with Store.read(self.folder) as store:
            return store.scores(benchmark)


class Ground(NamedTuple):
    """The benchmarks that two runs share, and the differences between the runs."""

    benchmarks: tuple[str, ...]  # in the reference's order
    left_out: tuple[str, ...]  # one phrase per benchmark that only one run has
    differing: tuple[Field, ...]


def read(folder: Path) -> Recorded:
    """Read a RUN/ENGINE folder. Raises StoreError if it is not one or is empty."""
    with Store.read(folder) as store:
        manifest = store.manifest()
    rows = {row.benchmark: row for row in engine_rows(folder)}
    if manifest is None or not rows:
        raise StoreError(f"{folder} holds no benchmark yet: repeat its `crispbench run`, which resumes")
    return Recorded(folder, manifest, rows)


def names(recorded: Sequence[Recorded]) -> list[str]:
    """The shortest names that are unique: ENGINE, RUN/ENGINE or the whole path."""
    paths = [run.folder.resolve() for run in recorded]
    for length in (1, 2):
        short = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(short)) == len(short):
            return short
    return [str(path) for path in paths]


def ground(reference: Recorded, candidate: Recorded, allow: Sequence[str] = ()) -> Ground:
    """The common ground of two runs.

    Raises NotComparable, naming the fields, if a common benchmark differs in what decides its numbers, if no
    benchmark is common or if the templates differ; StoreError if a query of a common benchmark has no scores.
    """
    where = f"{reference.folder} and {candidate.folder} cannot be compared"
    common = tuple(name for name in reference.rows if name in candidate.rows)
    if not common:
        raise NotComparable(
            f"{where}: no benchmark is in both ({', '.join(reference.rows)}; {', '.join(candidate.rows)}). "
            "Run both over the same benchmarks"
        )
    obstacles = [*_template(reference, candidate, allow)]
    obstacles += [phrase for name in common for phrase in _benchmark(name, reference, candidate)]
    if obstacles:
        more = f" and {len(obstacles) - SHOWN} more" if len(obstacles) > SHOWN else ""
        raise NotComparable(f"{where}: {'; '.join(obstacles[:SHOWN])}{more}. Run both with one config")
    for recorded in (reference, candidate):
        _require_complete(recorded, common)
    left_out = [f"{name} is only in {reference.folder}" for name in reference.rows if name not in common]
    left_out += [f"{name} is only in {candidate.folder}" for name in candidate.rows if name not in common]
    return Ground(common, tuple(left_out), tuple(_differing(reference.manifest, candidate.manifest, common)))


def _template(reference: Recorded, candidate: Recorded, allow: Sequence[str]) -> list[str]:
    """The obstacle that the templates are. An engine without a template, such as BM25, may be compared with any."""
    one, other = reference.manifest.description, candidate.manifest.description
    difference = other_template(one, other)
    if difference is None or "template" in allow:
        return []
    names = (one.template or "unnamed", other.template or "unnamed")
    shown = [f"{name} ({value[:12]})" for name, value in zip(names, difference[1:], strict=True)]
    return [f"{difference.field} is {shown[0]} and {shown[1]} (--allow template compares them anyway)"]


class OtherTemplate(NamedTuple):
    """The field of two descriptions in which their prompts differ."""

    field: str
    one: str
    other: str


def other_template(one: Description, other: Description) -> OtherTemplate | None:
    """The difference of two prompts, by hash if both have one, else by name. None if they are equal or unknown."""
    hashes = OtherTemplate("template_sha256", one.template_sha256, other.template_sha256)
    names = OtherTemplate("template", one.template, other.template)
    stated = next((pair for pair in (hashes, names) if pair.one and pair.other), None)
    return None if stated is None or stated.one == stated.other else stated


def _benchmark(name: str, reference: Recorded, candidate: Recorded) -> list[str]:
    one, other = (run.manifest.benchmarks[name].decisive for run in (reference, candidate))
    phrases = [f"{name} {path} is {one[path]!r} and {other[path]!r}" for path in one if one[path] != other[path]]
    if phrases:
        return phrases
    one_qrels, other_qrels = reference.qrels(name), candidate.qrels(name)
    if one_qrels.keys() != other_qrels.keys():
        odd = len(one_qrels.keys() ^ other_qrels.keys())
        return [f"{name} queries are {len(one_qrels)} and {len(other_qrels)}, {odd} of them in one run only"]
    return [] if one_qrels == other_qrels else [f"{name} qrels have different grades"]


def _require_complete(recorded: Recorded, benchmarks: Sequence[str]) -> None:
    for name in benchmarks:
        row = recorded.rows[name]
        if row.verdict == "invalid":
            raise StoreError(f"{recorded.folder} is invalid on {name}: all scores of every query are equal")
        if row.missing:
            shown = ", ".join(row.missing[:SHOWN]) + (", ..." if len(row.missing) > SHOWN else "")
            raise StoreError(
                f"{recorded.folder} is incomplete on {name}: {len(row.missing)} of {row.queries} queries have no "
                f"scores ({shown}). Repeat its `crispbench run`, which resumes"
            )


def _differing(reference: Manifest, candidate: Manifest, common: Sequence[str]) -> list[Field]:
    one, other = ({**_leaves(manifest, common)} for manifest in (reference, candidate))
    keys = sorted(one.keys() | other.keys())
    return [Field(key, one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)]


def _leaves(manifest: Manifest, common: Sequence[str]) -> dict[str, str]:
    """Every field of a manifest by its dotted name, as text; benchmarks that are not common are left out."""
    kept = replace(manifest, benchmarks={name: manifest.benchmarks[name] for name in common})
    return dict(_flat(kept.document(), ""))


def _flat(value: Any, name: str) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [leaf for key, item in value.items() for leaf in _flat(item, f"{name}.{key}" if name else str(key))]
    return [(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]
