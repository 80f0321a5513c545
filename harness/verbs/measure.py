"""Evaluation of a TREC run file by judgements: what `crispbench measure` does."""

from collections.abc import Callable, Sequence
from math import fsum
from pathlib import Path
from typing import Any

import ir_measures
from ir_measures import Measure

from harness.benchmarks import BenchmarkError
from harness.benchmarks.beir import read_qrels
from harness.candidates.trec import as_trec_eval_ranks, read_run
from harness.figures.measures import MEASURES, measure


def evaluate_file(
    run_file: Path, qrels_file: Path, names: Sequence[str], *, per_query: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """Means over every judged query, as trec_eval -c: one that the run lacks counts 0 and is told through `say`.

    Equal scores are ordered by document id, descending, as trec_eval does. Raises BenchmarkError.
    """
    measures = [parse(name) for name in names] or list(MEASURES)
    if not qrels_file.is_file():
        raise BenchmarkError(f"{qrels_file}: no such file; expected judgements, TREC's four columns or BEIR's three")
    qrels = read_qrels(qrels_file).grades
    run = read_run(run_file)
    ranked = {query_id: as_trec_eval_ranks(scores) for query_id, scores in run.items()}
    missing = [query_id for query_id in qrels if query_id not in run]
    if len(missing) == len(qrels):
        raise BenchmarkError(f"{run_file}: none of its {len(run)} queries is judged in {qrels_file}")
    if missing:
        say(
            f"crispbench: {len(missing)} of {len(qrels)} judged queries are not in {run_file} and count 0: "
            f"{', '.join(missing[:5])}"
        )
    document: dict[str, dict[str, Any]] = {}
    for name, values in measure(qrels, ranked, measures).items():
        document[name] = {"value": fsum(values.values()) / len(values), "queries": len(values)}
        if per_query:
            document[name]["per_query"] = values
    return {"measures": document, "missing": missing}


def parse(name: str) -> Measure:
    """The measure that is written like this. Raises BenchmarkError."""
    try:
        measure = ir_measures.parse_measure(name)
        if not ir_measures.DefaultPipeline.supports(measure):  # type: ignore[no-untyped-call]
            raise ValueError("no installed package computes it")
        return measure
    except (NameError, SyntaxError, ValueError, TypeError, KeyError, AssertionError) as error:
        raise BenchmarkError(
            f"measure {name!r} is not known ({error}); write it as ir_measures does: {', '.join(map(str, MEASURES))}"
        ) from None
