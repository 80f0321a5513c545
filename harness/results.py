"""From an engine's raw results to rows, and from rows to measures.json and latency.json."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import latency, measures, statistics
from harness.records import Row, Sample, Score, Verdict
from harness.store import Store

MISSING_SHOWN = 3
SERVER_TIMES = ("queue", "tokenization", "inference", "total")  # of TEI's headers, see engines/usage.py


def rows(folder: Path) -> list[Row]:
    """One row per benchmark of a RUN/ENGINE folder, in the order they were run; none if it was killed before the first.

    Raises StoreError.
    """
    with Store.read(folder) as store:
        manifest = store.manifest()
        return [] if manifest is None else [_row(store, manifest, name) for name in store.benchmarks()]


def _row(store: Store, manifest: Mapping[str, Any], name: str) -> Row:
    qrels, scores, samples = store.qrels(name), store.scores(name), store.samples(name)
    evaluation = measures.evaluate(qrels, scores)
    failures = {failure.query_id: failure.error for failure in store.failures(name)}
    missing = sorted(qrels.keys() - scores.keys())
    verdict = _verdict(missing, scores)
    counted = latency.measured(samples)
    service_s = [sample.service_s for sample in counted]
    description = manifest["description"]
    return Row(
        engine=manifest["engine"],
        kind=manifest["kind"],
        benchmark=name,
        verdict=verdict,
        measures={}
        if verdict == "invalid"
        else {measure: statistics.mean(values) for measure, values in evaluation.per_query.items()},
        per_query={} if verdict == "invalid" else evaluation.per_query[measures.HEADLINE],
        queries=len(qrels),
        pairs=sum(map(len, scores.values())),
        coverage=1 - len(missing) / len(qrels),
        tie_rate=evaluation.tie_rate,
        truncated=_totals(samples)["truncated"],
        candidates=manifest["benchmarks"][name]["candidates"],
        p50=latency.percentile(service_s, 0.50),
        p90=latency.percentile(service_s, 0.90),
        pairs_per_s=latency.throughput(counted),
        service_s=service_s,
        against_baseline=None,
        model=" ".join(description[key] for key in ("model", "precision", "template") if description.get(key)),
        description={f"option {key}": str(value) for key, value in manifest["options"].items()} | description,
        revision=manifest["benchmarks"][name]["revision"],
        machine=_machine(manifest["machine"], description),
        missing=tuple(missing),
        notes=tuple(_notes(store, manifest, name, verdict, missing, failures)),
    )


def _machine(machine: Mapping[str, str], description: Mapping[str, str]) -> str:
    device = description.get("device", "cpu")
    where = f"{machine['gpu']}, driver {machine['gpu_driver']}" if device not in ("cpu", "mps") else device
    return f"{where}; {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB"


def _verdict(missing: Sequence[str], scores: Mapping[str, Sequence[Score]]) -> Verdict:
    """Invalid if every list of two or more has one score only: a broken low-precision head gives that (vLLM 35849)."""
    several = [scored for scored in scores.values() if len(scored) > 1]
    if several and all(len({score.value for score in scored}) == 1 for scored in several):
        return "invalid"
    return "incomplete" if missing else "complete"


def _notes(
    store: Store,
    manifest: Mapping[str, Any],
    name: str,
    verdict: Verdict,
    missing: Sequence[str],
    failures: Mapping[str, str],
) -> list[str]:
    notes = list(manifest["benchmarks"][name]["warnings"])
    if missing:
        shown = ", ".join(missing[:MISSING_SHOWN]) + (", ..." if len(missing) > MISSING_SHOWN else "")
        notes.append(f"{len(missing)} queries have no scores and count 0: {shown}")
    for error, count in Counter(failures.values()).most_common(MISSING_SHOWN):
        notes.append(f"{count} queries failed: {error}")
    if verdict == "invalid":
        notes.append("every query's scores are all equal: the engine does not score, its numbers are withheld")
    preparation_s = store.preparation_s(name)
    if preparation_s is not None and preparation_s >= 1:
        notes.append(f"documents were prepared in {preparation_s:.1f} s, outside the latencies")
    totals = _totals(store.samples(name))
    notes += _served(manifest["description"], totals, store.samples(name))
    if totals["truncated"]:
        pairs = sum(sample.pairs for sample in store.samples(name))
        notes.append(f"{totals['truncated']:,} of {pairs:,} documents were cut to fit the prompt")
    if totals["special_text"]:
        notes.append(f"{totals['special_text']} texts held special-token strings, encoded as plain text")
    return notes


def _served(description: Mapping[str, str], totals: Counter[str], samples: Sequence[Sample]) -> Iterator[str]:
    """What a reader must know of scores that came from a server."""
    pairs = sum(sample.pairs for sample in samples)
    if description.get("score_kind") == "probability":
        saturated = f"{totals['saturated']:,} of {pairs:,} were 0 or 1 and keep no order among themselves"
        yield f"scores are log-odds of the server's probabilities; {saturated}"
    elif totals["saturated"]:
        yield f"{totals['saturated']:,} of {pairs:,} scores were 0 or 1 and keep no order among themselves"
    if description.get("truncation", "").startswith("by the server"):
        yield "the server cuts what is too long, where is not known: set `tokenizer` to cut documents here"
    if description.get("truncation", "").startswith("none"):
        yield "documents are not cut and the server refuses what is too long: set `tokenizer` to cut documents here"
    if totals["retries"] or totals["splits"]:
        yield f"{totals['retries']:,} requests were repeated and {totals['splits']:,} split; latencies include that"
    told = {name: totals[f"server_{name}_us"] / 1000 for name in SERVER_TIMES if f"server_{name}_us" in totals}
    if told and samples:
        parts = ", ".join(f"{name} {ms / len(samples):.1f} ms" for name, ms in told.items())
        yield f"the server's own time per query, summed over its requests: {parts}"


def _totals(samples: Sequence[Sample]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for sample in samples:
        totals.update(sample.counts)
    return totals


def measures_document(rows: Sequence[Row]) -> dict[str, Any]:
    """The content of measures.json: nothing in it depends on the clock, so equal scores give equal bytes."""
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
                "tie_rate": row.tie_rate,
                "truncated": row.truncated,
                "candidates": dict(row.candidates),
            }
            for row in rows
        },
    }


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
        },
    }


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Atomically: a reader sees the old file or the new one."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)
