"""Comparability of two recorded runs: equal queries, judgements, candidates and templates, and no missing scores."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from engines.base import Description, ScoreKind
from harness.compare.comparison import ComparedEngine, Field
from harness.fingerprint import DifferingField, of_benchmark
from harness.manifest import Manifest
from harness.records import Qrels, Row, Score
from harness.run.rows import engine_rows
from harness.store import NotComparable, Store, StoreError

ALLOWANCES = ("template",)  # fields that may differ on request although they decide the scores
SHOWN = 3  # items that a message lists


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
        is_own = description.score_kind is ScoreKind.OWN
        return ScoreScale(description.score_kind, self.manifest.kind if is_own else description.model)

    @property
    def available(self) -> Mapping[str, int | None]:
        """The number of queries that every benchmark has, of which a run may have scored a sample."""
        return {name: self.manifest.benchmarks[name].available for name in self.rows}

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
    """The benchmarks that two runs share, and the differences between the two manifests."""

    benchmarks: tuple[str, ...]  # in the reference's order
    left_out: tuple[str, ...]  # one phrase per benchmark that only one run has
    differing: tuple[Field, ...]  # fields of the manifests
    alarms: tuple[str, ...] = ()  # what makes the figures of a shared benchmark doubtful, one line each


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

    Raises NotComparable, which names the fields, if the runs share no benchmark, if a shared benchmark differs in a
    field that decides its numbers, or if the templates differ. Raises StoreError if a query of a shared benchmark has
    no scores.
    """
    where = f"{reference.folder} and {candidate.folder} cannot be compared"
    common = tuple(name for name in reference.rows if name in candidate.rows)
    if not common:
        raise NotComparable(
            f"{where}: they share no benchmark ({', '.join(reference.rows)}; {', '.join(candidate.rows)}). "
            "Run both over the same benchmarks"
        )
    obstacles = [*_template(reference, candidate, allow)]
    obstacles += [phrase for name in common for phrase in _benchmark(name, reference, candidate)]
    if obstacles:
        more = f" and {len(obstacles) - SHOWN} more" if len(obstacles) > SHOWN else ""
        raise NotComparable(f"{where}: {'; '.join(obstacles[:SHOWN])}{more}. Run both with one config")
    for recorded in (reference, candidate):
        require_complete(recorded, common)
    left_out = [f"{name} is only in {reference.folder}" for name in reference.rows if name not in common]
    left_out += [f"{name} is only in {candidate.folder}" for name in candidate.rows if name not in common]
    differing = tuple(_differing(reference.manifest, candidate.manifest, common))
    alarms = (
        f"{name}: {alarm}" for name in common for run in (reference, candidate) for alarm in run.rows[name].alarms
    )
    return Ground(common, tuple(left_out), differing, tuple(dict.fromkeys(alarms)))


def _template(reference: Recorded, candidate: Recorded, allow: Sequence[str]) -> list[str]:
    """The obstacle if the templates differ. An engine without a template, such as BM25, may be compared with any."""
    before, now = reference.manifest.description, candidate.manifest.description
    difference = template_difference(before, now)
    if difference is None or "template" in allow:
        return []
    names = (before.template or "unnamed", now.template or "unnamed")
    shown = f"{names[0]} and {names[1]}" if names[0] != names[1] else f"{names[0]} with another content"
    return [f"template is {shown} (--allow template compares them anyway)"]


class TemplateDifference(NamedTuple):
    """The field in which the templates of two descriptions differ, with both values."""

    field: str
    before: str
    now: str


def template_difference(before: Description, now: Description) -> TemplateDifference | None:
    """The difference of two templates, by hash if both have one, else by name. None if they are equal or unknown."""
    hashes = TemplateDifference("template_sha256", before.template_sha256, now.template_sha256)
    names = TemplateDifference("template", before.template, now.template)
    stated = next((field for field in (hashes, names) if field.before and field.now), None)
    return None if stated is None or stated.before == stated.now else stated


def _benchmark(name: str, reference: Recorded, candidate: Recorded) -> list[str]:
    qrels_before, qrels_now = reference.qrels(name), candidate.qrels(name)
    if qrels_before.keys() != qrels_now.keys():
        unshared = len(qrels_before.keys() ^ qrels_now.keys())
        return [
            f"{name} has {len(qrels_before)} and {len(qrels_now)} queries, {unshared} of them in one run only "
            "(--limit, or `queries` in the config)"
        ]
    before, now = (run.manifest.benchmarks[name] for run in (reference, candidate))
    if before.decisive != now.decisive:
        return [_phrase(name, field) for field in of_benchmark(name, before.document(), now.document())]
    return [] if qrels_before == qrels_now else [f"{name} has different grades in its qrels"]


def _phrase(name: str, field: DifferingField) -> str:
    if field.hidden:
        return f"{name} has different {field.hidden}"
    return f"{name} {'.'.join(field.path[2:])} is {field.before!r} and {field.now!r}"


def require_complete(recorded: Recorded, benchmarks: Sequence[str]) -> None:
    """Raises StoreError if a benchmark is invalid, or if one of its queries has no scores."""
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
    before, now = (_leaves(manifest, common) for manifest in (reference, candidate))
    keys = sorted(before.keys() | now.keys())
    return [Field(key, before.get(key), now.get(key)) for key in keys if before.get(key) != now.get(key)]


def _leaves(manifest: Manifest, common: Sequence[str]) -> dict[str, str]:
    """Every field of a manifest by its dotted name, as text; benchmarks that are not common are left out."""
    kept = replace(manifest, benchmarks={name: manifest.benchmarks[name] for name in common})
    return dict(_flat(kept.document(), ""))


def _flat(value: Any, name: str) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [leaf for key, item in value.items() for leaf in _flat(item, f"{name}.{key}" if name else str(key))]
    return [(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]
