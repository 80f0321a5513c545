"""Did the change cost accuracy? A recorded reference against recorded candidates, paired per query."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from engines.base import BadOptions
from harness import progress
from harness.compare import comparability
from harness.compare.comparability import ALLOWANCES, Ground, Recorded
from harness.compare.comparison import (
    BenchmarkFidelity,
    ComparedEngine,
    CompareResult,
    Comparison,
    Duel,
    Loss,
    Matrix,
    Standing,
)
from harness.compare.noninferiority import MARGIN, PerQuery, Weights, effects, layout, quality, verdict
from harness.compare.texts import QueryTexts, query_texts
from harness.figures import fidelity
from harness.figures.statistics import CONFIDENCE, holm, letters, sign_flip

LOSSES_SHOWN = 20
NO_TEXT = "texts of queries are not recorded; --config CONFIG, the run's own, adds them"


@dataclass(frozen=True)
class CompareOptions:
    """On what terms runs are compared."""

    margin: float = MARGIN  # the loss of nDCG@10 that is accepted
    allow: tuple[str, ...] = ()  # of ALLOWANCES
    noise: Path | None = None  # RUN/ENGINE folder: the reference once more
    config: Path | None = None  # of the run, to load the texts of queries from


def compare(reference: Path, candidates: Sequence[Path], terms: CompareOptions) -> CompareResult:
    """Every candidate against the reference; with two or more candidates also a matrix of all engines.

    Raises BadOptions, before anything is read, for a wrong margin or allowance or a folder given twice;
    NotComparable, naming the fields, where runs differ in what decides their numbers; StoreError for a folder
    without results or with queries that have no scores; ConfigError for a config that cannot be used.
    """
    _check([reference, *candidates], terms)
    with progress.waiting("reading the runs"):
        recorded = [comparability.read(folder) for folder in (reference, *candidates)]
        repeated = None if terms.noise is None else comparability.read(terms.noise)
    grounds = [comparability.ground(recorded[0], candidate, terms.allow) for candidate in recorded[1:]]
    if repeated is not None:
        comparability.ground(recorded[0], repeated)
    names = comparability.names(recorded)
    texts = _texts(recorded[0], terms)
    engines = [each.engine(name) for each, name in zip(recorded, names, strict=True)]
    with progress.waiting("comparing"):
        inputs = [Inputs(recorded[0], each, repeated, texts) for each in recorded[1:]]
        compared = [
            _comparison(each, ground, (engines[0], engine), terms.margin)
            for each, ground, engine in zip(inputs, grounds, engines[1:], strict=True)
        ]
        matrices = _matrices(dict(zip(names, recorded, strict=True)), grounds) if len(candidates) > 1 else []
    return CompareResult(tuple(compared), tuple(matrices))


def _check(folders: Sequence[Path], terms: CompareOptions) -> None:
    if not 0 < terms.margin < 1:
        raise BadOptions(f"margin {terms.margin!r}: expected a loss of nDCG@10 above 0 and below 1, such as {MARGIN}")
    for name in terms.allow:
        if name not in ALLOWANCES:
            raise BadOptions(f"allow {name!r}: known are {', '.join(ALLOWANCES)}")
    if len(folders) < 2:
        raise BadOptions("one folder: expected REFERENCE and at least one CANDIDATE")
    resolved = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, resolved, strict=True):
        if resolved.count(place) > 1:
            raise BadOptions(f"{folder} is given twice: name different RUN/ENGINE folders")


def _texts(reference: Recorded, terms: CompareOptions) -> QueryTexts:
    if terms.config is None:
        return QueryTexts({}, (NO_TEXT,))
    with progress.waiting("loading the texts of queries"):
        return query_texts(terms.config, {name: reference.manifest["benchmarks"][name] for name in reference.rows})


@dataclass(frozen=True)
class Inputs:
    """What one comparison reads from."""

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
    laid = layout(ground.benchmarks)
    sides = [_per_query(each, ground.benchmarks) for each in (inputs.reference, inputs.candidate)]
    found = effects(sides[0], sides[1], laid, margin)
    read = [_benchmark(inputs, name) for name in ground.benchmarks]
    losses = sorted((loss for _, own in read for loss in own), key=_size)[:LOSSES_SHOWN]
    return Comparison(
        reference=engines[0],
        candidate=engines[1],
        verdict=verdict(found, laid, margin),
        effects=tuple(found),
        fidelity=tuple(each for each, _ in read),
        losses=tuple(losses),
        differing=ground.differing,
        left_out=(*ground.left_out, *_unrepeated(inputs, ground)),
        notes=inputs.texts.problems if losses else (),
    )


def _unrepeated(inputs: Inputs, ground: Ground) -> Iterator[str]:
    if inputs.repeated is not None:
        for name in ground.benchmarks:
            if name not in inputs.repeated.rows:
                yield f"the noise floor of {name}: it is not in {inputs.repeated.folder}"


def _per_query(recorded: Recorded, benchmarks: Sequence[str]) -> PerQuery:
    return {name: recorded.rows[name].per_query for name in benchmarks}


def _benchmark(inputs: Inputs, name: str) -> tuple[BenchmarkFidelity, list[Loss]]:
    """Read one benchmark's scores, which may be millions, and let go of them."""
    qrels = inputs.reference.qrels(name)
    reference, candidate = inputs.reference.scores(name), inputs.candidate.scores(name)
    found = fidelity.fidelity(qrels, reference, candidate, same_scale=inputs.same_scale)
    repeated = noise = None
    if inputs.repeated is not None and name in inputs.repeated.rows:
        repeated = fidelity.fidelity(qrels, reference, inputs.repeated.scores(name), same_scale=inputs.same_scale)
        noise = fidelity.noise(found, repeated)
    before, now = (each.rows[name].per_query for each in (inputs.reference, inputs.candidate))
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
    return BenchmarkFidelity(name, found, repeated, noise), losses


def _size(loss: Loss) -> tuple[float, str, str]:
    return loss.difference, loss.benchmark, loss.query_id


def _matrices(recorded: Mapping[str, Recorded], grounds: Sequence[Ground]) -> Iterator[Matrix]:
    """All engines on what all of them share, which each ground compares with the reference."""
    shared = [name for name in grounds[0].benchmarks if all(name in ground.benchmarks for ground in grounds)]
    if not shared:
        return
    laid = layout(shared)
    sides = {engine: _per_query(each, shared) for engine, each in recorded.items()}
    for name, weights in laid.weights(shared).items():
        yield matrix(name, sides, weights)


def matrix(name: str, sides: Mapping[str, PerQuery], weights: Weights) -> Matrix:
    """Engines best first; two share a letter unless the sign-flip test tells them apart after Holm over all pairs."""
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


def _between(one: PerQuery, other: PerQuery, weights: Weights) -> PerQuery:
    return {name: {key: value - other[name][key] for key, value in one[name].items()} for name in weights}
