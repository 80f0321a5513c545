"""`crispbench compare`: recorded candidates against a recorded reference, benchmark by benchmark, paired per query."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from engines.base import BadOptions
from engines.spelling import expected
from harness import progress
from harness.compare import comparability
from harness.compare.comparability import ALLOWANCES, Ground, Recorded
from harness.compare.comparison import (
    BenchmarkFidelity,
    ComparedEngine,
    Comparison,
    Comparisons,
    Duel,
    Loss,
    Matrix,
    Standing,
)
from harness.compare.noninferiority import MARGIN, PerQuery, Weights, effects, layout, quality, verdict
from harness.compare.page import content
from harness.compare.texts import QueryTexts, query_texts
from harness.figures import fidelity
from harness.figures.statistics import CONFIDENCE, holm, letters, sign_flip
from harness.report.content import Report

LOSSES_SHOWN = 20  # queries per comparison
NO_TEXT = "runs do not record the texts of queries; `--config` with the config of the run shows them"


@dataclass(frozen=True)
class CompareOptions:
    """The margin of the verdict, and the recordings beside the compared runs."""

    margin: float = MARGIN  # accepted loss of nDCG@10
    allow: tuple[str, ...] = ()  # names from ALLOWANCES
    noise: Path | None = None  # RUN/ENGINE folder with a repetition of the reference, for the noise floor
    config: Path | None = None  # config of the run, which gives the texts of queries


@dataclass(frozen=True)
class CompareResult(Comparisons):
    """The comparisons, and the files of their report."""

    files: tuple[Path, ...] = ()  # empty without `out`; else index.html, compare.md, table.tex, plots, compare.json

    @property
    def page(self) -> Path | None:
        return self.files[0] if self.files else None

    def report(self) -> Report:
        """The report in the order for a terminal, the verdict last."""
        return content.build(self, verdict_last=True)


def compare(
    reference: Path, candidates: Sequence[Path], options: CompareOptions, *, out: Path | None = None
) -> CompareResult:
    """Compare every candidate with the reference and, with two or more candidates, all engines with each other.

    A report is written to the folder `out` if it is given. Raises BadOptions, before anything is read, for a wrong
    margin or allowance or a folder given twice; NotComparable, which names the fields, if runs differ in fields that
    decide their numbers; StoreError for a folder without results or with queries that have no scores; ConfigError for
    a config that cannot be used.
    """
    _check([reference, *candidates], options)
    with progress.waiting("reading the runs"):
        recorded = [comparability.read(folder) for folder in (reference, *candidates)]
        repeated = None if options.noise is None else comparability.read(options.noise)
    grounds = [comparability.ground(recorded[0], candidate, options.allow) for candidate in recorded[1:]]
    if repeated is not None:
        comparability.ground(recorded[0], repeated)
    names = comparability.names(recorded)
    texts = _texts(recorded[0], options)
    engines = [run.engine(name) for run, name in zip(recorded, names, strict=True)]
    with progress.waiting("comparing"):
        inputs = [Inputs(recorded[0], candidate, repeated, texts) for candidate in recorded[1:]]
        comparisons = tuple(
            _comparison(sources, ground, (engines[0], engine), options.margin)
            for sources, ground, engine in zip(inputs, grounds, engines[1:], strict=True)
        )
        matrices = tuple(_matrices(dict(zip(names, recorded, strict=True)), grounds)) if len(candidates) > 1 else ()
    compared = CompareResult(comparisons, matrices)
    return compared if out is None else replace(compared, files=tuple(content.write(compared, out)))


def _check(folders: Sequence[Path], options: CompareOptions) -> None:
    if not 0 < options.margin < 1:
        raise BadOptions(f"margin {options.margin!r}: expected a loss of nDCG@10 above 0 and below 1, such as {MARGIN}")
    for name in options.allow:
        if name not in ALLOWANCES:
            raise BadOptions(f"allow {name!r}: {expected(name, ALLOWANCES)}")
    if len(folders) < 2:
        raise BadOptions("one folder: expected REFERENCE and at least one CANDIDATE")
    resolved = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, resolved, strict=True):
        if resolved.count(path) > 1:
            raise BadOptions(f"{folder} is given twice: name different RUN/ENGINE folders")


def _texts(reference: Recorded, options: CompareOptions) -> QueryTexts:
    if options.config is None:
        return QueryTexts({}, (NO_TEXT,))
    with progress.waiting("loading the texts of queries"):
        return query_texts(options.config, {name: reference.manifest.benchmarks[name] for name in reference.rows})


@dataclass(frozen=True)
class Inputs:
    """The recorded runs and texts that one comparison reads."""

    reference: Recorded
    candidate: Recorded
    repeated: Recorded | None
    texts: QueryTexts

    @property
    def same_scale(self) -> bool:
        return self.reference.scale == self.candidate.scale


def _comparison(
    inputs: Inputs, ground: Ground, engines: tuple[ComparedEngine, ComparedEngine], margin: float
) -> Comparison:
    averaging = layout(ground.benchmarks)
    reference, candidate = (_per_query(run, ground.benchmarks) for run in (inputs.reference, inputs.candidate))
    all_effects = effects(reference, candidate, averaging, margin, inputs.reference.available)
    benchmarks = [_benchmark(inputs, name) for name in ground.benchmarks]
    losses = sorted((loss for _, losses in benchmarks for loss in losses), key=_size)[:LOSSES_SHOWN]
    return Comparison(
        reference=engines[0],
        candidate=engines[1],
        verdict=verdict(all_effects, averaging, margin),
        effects=tuple(all_effects),
        fidelity=tuple(figures for figures, _ in benchmarks),
        losses=tuple(losses),
        differing=ground.differing,
        left_out=(*ground.left_out, *_unrepeated(inputs, ground)),
        notes=inputs.texts.problems if losses else (),
        alarms=ground.alarms,
    )


def _unrepeated(inputs: Inputs, ground: Ground) -> Iterator[str]:
    if inputs.repeated is not None:
        for name in ground.benchmarks:
            if name not in inputs.repeated.rows:
                yield f"noise floor of {name}: {inputs.repeated.folder} does not have this benchmark"


def _per_query(recorded: Recorded, benchmarks: Sequence[str]) -> PerQuery:
    return {name: recorded.rows[name].per_query for name in benchmarks}


def _benchmark(inputs: Inputs, name: str) -> tuple[BenchmarkFidelity, list[Loss]]:
    """Read one benchmark's scores, which may be millions, and keep only the figures."""
    qrels = inputs.reference.qrels(name)
    reference, candidate = inputs.reference.scores(name), inputs.candidate.scores(name)
    changed = fidelity.fidelity(qrels, reference, candidate, same_scale=inputs.same_scale)
    repeated = noise = None
    if inputs.repeated is not None and name in inputs.repeated.rows:
        repeated = fidelity.fidelity(qrels, reference, inputs.repeated.scores(name), same_scale=inputs.same_scale)
        noise = fidelity.noise(changed, repeated)
    before, now = (run.rows[name].per_query for run in (inputs.reference, inputs.candidate))
    differences = {query_id: now[query_id] - value for query_id, value in before.items()}
    lost = sorted((value, query_id) for query_id, value in differences.items() if value < 0)
    texts = inputs.texts.queries.get(name, {})
    losses = [
        Loss(
            benchmark=name,
            query_id=query_id,
            text=texts.get(query_id),
            reference=before[query_id],
            candidate=now[query_id],
            moves=fidelity.moves(fidelity.sides(query_id, reference[query_id], candidate[query_id]), qrels[query_id]),
        )
        for _, query_id in lost[:LOSSES_SHOWN]
    ]
    return BenchmarkFidelity(name, changed, repeated, noise), losses


def _size(loss: Loss) -> tuple[float, str, str]:
    return loss.difference, loss.benchmark, loss.query_id


def _matrices(recorded: Mapping[str, Recorded], grounds: Sequence[Ground]) -> Iterator[Matrix]:
    """A matrix of all engines for each of the benchmarks that they all share, and for their averages."""
    shared = [name for name in grounds[0].benchmarks if all(name in ground.benchmarks for ground in grounds)]
    if not shared:
        return
    sides = {engine: _per_query(run, shared) for engine, run in recorded.items()}
    for name, weights in layout(shared).weights(shared).items():
        yield matrix(name, sides, weights)


def matrix(name: str, sides: Mapping[str, PerQuery], weights: Weights) -> Matrix:
    """Engines, best first. Two share a letter unless the sign-flip test, adjusted over all pairs, separates them."""
    values = {engine: quality(per_query, weights) for engine, per_query in sides.items()}
    ranked = sorted(values, key=lambda engine: -values[engine])
    p_values = {
        (better, worse): sign_flip(_between(sides[better], sides[worse], weights), weights).value
        for better, worse in combinations(ranked, 2)
    }
    adjusted = holm(p_values)
    duels = tuple(Duel(*pair, values[pair[0]] - values[pair[1]], p, adjusted[pair]) for pair, p in p_values.items())
    apart = {frozenset((duel.better, duel.worse)) for duel in duels if duel.p_holm < 1 - CONFIDENCE}
    signs = letters(ranked, apart)
    return Matrix(name, tuple(Standing(engine, values[engine], signs[engine]) for engine in ranked), duels)


def _between(better: PerQuery, worse: PerQuery, weights: Weights) -> PerQuery:
    return {name: {key: value - worse[name][key] for key, value in better[name].items()} for name in weights}
