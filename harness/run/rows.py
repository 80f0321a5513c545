"""From an engine's raw results to rows, and from rows to measures.json and latency.json."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ir_measures import Measure

from engines.base import Counts, Description, Device, ScoreKind, Truncation
from harness.benchmarks.base import count_warning
from harness.figures import measure_names, measures, percentiles, statistics
from harness.figures.audit import audit
from harness.figures.fidelity import fidelity
from harness.figures.measures import Ties
from harness.figures.percentiles import percentile
from harness.figures.statistics import paired_difference
from harness.manifest import Machine, Manifest
from harness.published import Reproduction, compare, unmatched
from harness.records import Audit, Completeness, Measurement, PrecisionShift, Row, Sample
from harness.run.folder import RunIndex, worker_notes
from harness.store import FILE, Store, StoreError

MISSING_SHOWN = 3


class Raw(NamedTuple):
    """The data for the notes on a benchmark."""

    verdict: Completeness
    missing: Sequence[str]  # ids of the queries without scores
    samples: Sequence[Sample]
    totals: Counts  # sums over all samples
    without_candidates: Sequence[str]  # ids of the queries for which the first stage found no document


def engine_rows(folder: Path, wanted: Sequence[Measure] = measures.MEASURES) -> list[Row]:
    """One row per benchmark of a RUN/ENGINE folder, in their order; empty if the run was killed before the first.

    Raises StoreError.
    """
    with Store.read(folder) as store:
        manifest = store.manifest()
        try:
            return [] if manifest is None else [_row(store, manifest, name, wanted) for name in store.benchmarks()]
        except ValueError as error:  # a grade that cannot be measured
            raise StoreError(f"{folder}: {error}") from None


def _row(store: Store, manifest: Manifest, name: str, wanted: Sequence[Measure]) -> Row:
    qrels, scores, samples = store.qrels(name), store.scored(name), store.samples(name)
    evaluation = measures.evaluate(qrels, scores, wanted)
    totals = sum((sample.counts for sample in samples), Counts())
    missing = sorted(qrels.keys() - scores.keys())
    # a broken low-precision head gives constant scores (vLLM 35849)
    verdict: Completeness = "invalid" if evaluation.constant else "incomplete" if missing else "complete"
    per_query = {} if verdict == "invalid" else evaluation.per_query[measures.HEADLINE]
    description, entry = manifest.description, manifest.benchmarks[name]
    # manifests did not record them before 2026-11-28
    empty = sorted(entry.without_candidates or (sample.query_id for sample in samples if not sample.pairs))
    raw = Raw(verdict, missing, samples, totals, empty)
    counted = [] if manifest.machines else percentiles.measured(samples)  # machines differ: no percentiles
    service_s = [sample.service_s for sample in counted]
    return Row(
        engine=manifest.engine,
        kind=manifest.kind,
        benchmark=name,
        verdict=verdict,
        measures={} if verdict == "invalid" else _summaries(evaluation.per_query),
        per_query=per_query,
        queries=len(qrels),
        pairs=evaluation.pairs,
        coverage=1 - len(missing) / len(qrels),
        tie_rate=evaluation.tie_rate,
        truncated=totals.truncated or 0,
        truncated_queries=totals.truncated_queries or 0,
        candidates=entry.candidates,
        p50=percentiles.percentile(service_s, 0.50),
        p90=percentiles.percentile(service_s, 0.90),
        pairs_per_s=percentiles.throughput(counted),
        service_s=service_s,
        against_baseline=None,
        audit=audit(qrels, per_query, samples, store.oddities(name)),
        model=" ".join(filter(None, (description.model, description.precision, description.template))),
        description=description,
        options=manifest.options,
        revision=entry.revision,
        machine=_machine(manifest.machine, description.device),
        missing=tuple(missing),
        without_candidates=tuple(empty),
        alarms=entry.alarms,
        notes=tuple(_notes(manifest, name, raw, store)),
    )


def _summaries(per_query: measures.PerQuery) -> dict[str, Measurement]:
    """Means with their intervals, and sums of counts without one."""
    means = statistics.means({name: values for name, values in per_query.items() if not measure_names.is_count(name)})
    return {
        name: means.get(name) or Measurement(measures.summary(name, values), None, None)
        for name, values in per_query.items()
    }


def _machine(machine: Machine, device: Device | None) -> str:
    if device is not None and device.kind == "gpu":
        where = f"{machine.gpu}, driver {machine.gpu_driver}"
    else:
        where = str(device or "cpu")
    return f"{where}; {machine.host}"


def _notes(manifest: Manifest, name: str, raw: Raw, store: Store) -> list[str]:
    totals, notes = raw.totals, list(manifest.benchmarks[name].warnings)
    if raw.missing:
        shown = ", ".join(raw.missing[:MISSING_SHOWN]) + (", ..." if len(raw.missing) > MISSING_SHOWN else "")
        notes.append(f"{len(raw.missing)} queries have no scores and count 0: {shown}")
    notes += count_warning(raw.without_candidates, "queries without any candidate, which count 0 for every engine")
    failures = Counter(failure.error for failure in store.failures(name))
    common = failures.most_common(MISSING_SHOWN)
    notes += [f"{_queries(count)} failed: {error}" for error, count in common]
    rest = failures.total() - sum(count for _, count in common)
    if rest:
        notes.append(f"{_queries(rest)} failed with {len(failures) - len(common)} other errors")
    if raw.verdict == "invalid":
        notes.append("every query has equal scores only: the engine does not score, so its measures are withheld")
    if manifest.machines:
        notes.append(f"merged from {len(manifest.machines)} different machines: times are left out")
    preparation_s = store.preparation_s(name)
    if preparation_s is not None and preparation_s >= 1:
        notes.append(f"documents were prepared in {preparation_s:.1f} s, which latencies leave out")
    notes += _scored(manifest.description.score_kind, totals, raw.samples, store.score_range(name))
    notes += _served(manifest.description, totals, raw.samples)
    if totals.truncated:
        pairs = sum(sample.pairs for sample in raw.samples)
        notes.append(f"{totals.truncated:,} of {pairs:,} documents were cut to fit the prompt")
    if totals.truncated_queries:
        notes.append(f"{totals.truncated_queries:,} of {len(raw.samples):,} queries were cut to fit the prompt")
    if totals.budget_halvings:
        notes.append(f"memory ran out: the token budget was halved {totals.budget_halvings} times")
    if totals.special_text:
        notes.append(f"{totals.special_text} texts hold special-token strings, which were encoded as plain text")
    return notes


def _scored(
    kind: ScoreKind, totals: Counts, samples: Sequence[Sample], scores: tuple[float, float] | None
) -> Iterator[str]:
    """Notes on numbers that came from a server. `scores` are the lowest and the highest score."""
    pairs = sum(sample.pairs for sample in samples)
    if not pairs:
        return
    if kind is ScoreKind.PROBABILITY:
        saturated = f"{totals.saturated or 0:,} of {pairs:,} were 0 or 1 and have no order among themselves"
        yield f"scores are log-odds of the server's probabilities; {saturated}"
    elif totals.saturated:
        yield f"{totals.saturated:,} of {pairs:,} scores were 0 or 1 and have no order among themselves"
    logits = kind in (ScoreKind.LOG_ODDS, ScoreKind.LOGIT)
    if totals.requests and logits and scores is not None and scores[0] >= 0 and scores[1] <= 1:
        yield "every score lies in [0, 1], as a sigmoid's: if the server sends no logits, set score_kind: probability"


def _served(description: Description, totals: Counts, samples: Sequence[Sample]) -> Iterator[str]:
    """Notes on the requests to a server."""
    if description.truncation in (Truncation.BY_SERVER, Truncation.REFUSED):
        yield _unknown_cuts(description)
    if totals.retries or totals.splits:
        timed = any(sample.counts.retries or sample.counts.splits for sample in percentiles.measured(samples))
        told = "latencies include that" if timed else "all of them for the warm-up query, which is in no latency"
        yield f"{totals.retries or 0:,} requests were repeated and {totals.splits or 0:,} split; {told}"
    if totals.paced:
        yield f"{totals.paced:,} requests waited for their turn under requests_per_minute; latencies include that"
    times_us = {
        "queue": totals.server_queue_us,
        "tokenization": totals.server_tokenization_us,
        "inference": totals.server_inference_us,
        "total": totals.server_total_us,
    }
    known_us = {name: us for name, us in times_us.items() if us is not None}
    if known_us and samples:
        parts = ", ".join(f"{name} {us / 1000 / len(samples):.1f} ms" for name, us in known_us.items())
        yield f"the server's own time per query, summed over its requests: {parts}"


def _unknown_cuts(description: Description) -> str:
    """What happens to texts that are too long if they are not cut here."""
    if not description.template:
        return "the service makes its own prompt: where it cuts texts that are too long, if it does, is unknown"
    if description.truncation is Truncation.REFUSED:
        return "the server refuses prompts that are too long: set `tokenizer` to cut documents here"
    return "the server cuts prompts that are too long, at an unknown length: set `tokenizer` to cut documents here"


def measures_document(rows: Sequence[Row]) -> dict[str, Any]:
    """The content of measures.json. It does not depend on the clock, so equal scores give equal bytes."""
    return {
        "format": 1,
        "engine": rows[0].engine,
        "benchmarks": {
            row.benchmark: {
                "verdict": row.verdict,
                "measures": {name: measurement._asdict() for name, measurement in row.measures.items()},
                "queries": row.queries,
                "pairs": row.pairs,
                "coverage": row.coverage,
                "missing": list(row.missing),
                # only if there are any, so that earlier runs give the bytes that they were recorded with
                **({"without_candidates": list(row.without_candidates)} if row.without_candidates else {}),
                **({"alarms": list(row.alarms)} if row.alarms else {}),
                "tie_rate": row.tie_rate,
                "truncated": row.truncated,
                **({"truncated_queries": row.truncated_queries} if "truncated_queries" in row.audit else {}),
                "audit": {kind: _audited(audit) for kind, audit in row.audit.items()},
                "candidates": row.candidates.document() if row.candidates else {},
            }
            for row in rows
            if row.candidates is not None
        },
    }


def _queries(count: int) -> str:
    return f"{count:,} {'query' if count == 1 else 'queries'}"


def _audited(audit: Audit) -> dict[str, Any]:
    document = audit._asdict()
    document["left"] = document.pop("remaining")
    document[f"{measures.HEADLINE} without"] = document.pop("without")
    return document


def latency_document(rows: Sequence[Row]) -> dict[str, Any]:
    """The content of latency.json: seconds around one query's candidates, warm-up excluded."""
    return {
        "format": 1,
        "engine": rows[0].engine,
        "benchmarks": {
            row.benchmark: {
                "samples": len(row.service_s),
                "p50_s": row.p50._asdict(),
                "p90_s": row.p90._asdict(),
                "pairs_per_s": row.pairs_per_s,
            }
            for row in rows
            if row.candidates is not None
        },
    }


def read(run_dir: Path) -> list[Row]:
    """The rows by engine in the config's order, compared with those of the first engine. Raises StoreError."""
    index = RunIndex.read(run_dir)
    wanted = [measure_names.parse(name) for name in index.measures] or measures.MEASURES
    stored = {
        name: [replace(row, engine=name) for row in engine_rows(run_dir / name, wanted)]
        for name in index.engines
        if (run_dir / name / FILE).is_file()
    }
    benchmarks = dict.fromkeys(row.benchmark for rows in stored.values() for row in rows)
    rows = []
    for name in index.engines:
        reason = index.unavailable.get(name)
        engine = stored.get(name) or [_absent(name, benchmark) for benchmark in benchmarks]
        engine += [_absent(name, benchmark) for benchmark in index.missing if benchmark not in benchmarks]
        reason = reason or (None if name in stored else "no results yet")
        rows += [replace(row, notes=(*row.notes, reason)) for row in engine] if reason else engine
    rows = [_not_loaded(row, index.missing) for row in rows]
    rows = [replace(row, folder=f"{run_dir.resolve().name}/{row.engine}") for row in rows]
    if index.part is not None:
        note = f"part {index.part.replace('/', ' of ')} of the queries: `crispbench merge` joins the parts"
        rows = [replace(row, notes=(*row.notes, note)) if row.verdict == "incomplete" else row for row in rows]
    rows = [replace(row, notes=(*row.notes, *index.notes.get(row.engine, ()))) for row in rows]
    rows = [replace(row, notes=(*row.notes, *worker_notes(run_dir / row.engine))) for row in rows]
    return [_shifted(_against(row, rows), rows, run_dir) for row in rows]


def reproductions(run_dir: Path, rows: Sequence[Row]) -> list[Reproduction]:
    """The published figures that the run's config names, compared with its rows. Raises BadOptions, StoreError."""
    return [figure for given in RunIndex.read(run_dir).published for figure in compare(given, rows, Recount(run_dir))]


def unmatched_tables(run_dir: Path, rows: Sequence[Row]) -> list[str]:
    """One line per published table of the run's config that has none of the run's benchmarks."""
    return [line for given in RunIndex.read(run_dir).published if (line := unmatched(given, rows))]


class Recount:
    """Measures of the stored scores of a run, with equal scores in the order of any rule."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._kept: dict[tuple[str, str, Ties], dict[str, Measurement]] = {}

    def __call__(self, row: Row, names: Sequence[str], ties: Ties) -> Mapping[str, Measurement]:
        """These measures of a row. Raises StoreError."""
        if ties is Ties.FIRST_STAGE and row.measures.keys() >= set(names):
            return row.measures
        kept = self._kept.setdefault((row.engine, row.benchmark, ties), {})
        if not kept.keys() >= set(names):
            with Store.read(self._run_dir / row.engine) as store:
                qrels, scores = store.qrels(row.benchmark), store.scored(row.benchmark)
                wanted = [measure_names.parse(name) for name in names]
                kept |= _summaries(measures.recount(qrels, scores, wanted, ties))
        return kept


def _not_loaded(row: Row, missing: Mapping[str, str]) -> Row:
    """The row with the reason why its benchmark could not be loaded in the last run, if it could not."""
    reason = missing.get(row.benchmark)
    return row if reason is None else replace(row, notes=(*row.notes, f"the benchmark was not loaded: {reason}"))


def _against(row: Row, rows: Sequence[Row]) -> Row:
    """The row with its difference from the first engine on the same candidates, if both are complete."""
    baseline = next(first for first in rows if first.benchmark == row.benchmark)
    comparable = row.verdict == baseline.verdict == "complete" and row.candidates == baseline.candidates
    if row is baseline or not comparable or len(row.per_query) < 2:
        return row
    return replace(row, against_baseline=paired_difference(row.per_query, baseline.per_query))


def _shifted(row: Row, rows: Sequence[Row], run_dir: Path) -> Row:
    """The row with its shift from the first engine that has the same model in another precision."""
    model = _model(row)
    same = [peer for peer in rows if peer.benchmark == row.benchmark and model and _model(peer) == model]
    if not same or same[0].engine == row.engine or same[0].description.precision == row.description.precision:
        return row
    reference = same[0]
    comparable = row.verdict == reference.verdict == "complete" and row.candidates == reference.candidates
    if not comparable or len(row.per_query) < 2:
        return row
    scores = []
    for engine in (reference.engine, row.engine):
        with Store.read(run_dir / engine) as store:
            scores.append(store.scores(row.benchmark))
    compared = fidelity({}, *scores, same_scale=True)
    if compared.drift is None:
        return row
    shift = PrecisionShift(
        reference=reference.engine,
        difference=paired_difference(row.per_query, reference.per_query),
        queries=compared.queries,
        top10=compared.top10,
        mean=compared.drift.mean_absolute,
        maximum=compared.drift.maximum,
    )
    return replace(row, shift=shift)


def _model(row: Row) -> tuple[str, ...]:
    """The fields that two precisions of a model share; empty if an engine does not state its precision and prompt."""
    model = row.description
    if not (model.precision and model.template_sha256):
        return ()
    return model.model, model.revision, model.template_sha256, str(model.max_tokens)


def _absent(engine: str, benchmark: str) -> Row:
    """The row of an engine without results."""
    return Row(
        engine=engine,
        kind="",
        benchmark=benchmark,
        verdict="incomplete",
        measures={},
        per_query={},
        queries=0,
        pairs=0,
        coverage=0.0,
        tie_rate=0.0,
        truncated=0,
        candidates=None,
        p50=percentile((), 0.5),
        p90=percentile((), 0.9),
        pairs_per_s=None,
        service_s=(),
        against_baseline=None,
    )
