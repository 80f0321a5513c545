"""`crispbench measure`: the measures of a TREC run file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from pathlib import Path
from typing import Any

from ir_measures import Measure

from harness.benchmarks import BenchmarkError
from harness.benchmarks.beir import read_qrels
from harness.candidates.trec import as_trec_eval_ranks, read_run
from harness.figures import measures
from harness.figures.measures import MEASURES
from harness.outcome import Outcome


@dataclass(frozen=True)
class MeasureOptions:
    """The values to compute."""

    measures: Sequence[str] = ()  # names as ir_measures writes them; empty: the standard measures
    per_query: bool = False  # keep the value of every query


@dataclass(frozen=True)
class MeanMeasure:
    """The mean of a measure over a run file."""

    value: float  # mean over all judged queries
    queries: int  # number of judged queries
    per_query: Mapping[str, float] = field(default_factory=dict)  # query_id -> value; empty unless requested

    def document(self) -> dict[str, Any]:
        per_query = {"per_query": dict(self.per_query)} if self.per_query else {}
        return {"value": self.value, "queries": self.queries, **per_query}


@dataclass(frozen=True)
class MeasureResult:
    """The measures of a run file by their names, and the judged queries that it lacks, which count 0."""

    measures: Mapping[str, MeanMeasure]
    missing: Sequence[str]

    @property
    def outcome(self) -> Outcome:
        return Outcome.PASS

    def document(self) -> dict[str, Any]:
        measures = {name: mean.document() for name, mean in self.measures.items()}
        return {"measures": measures, "missing": list(self.missing)}

    def lines(self) -> list[str]:
        """Lines as trec_eval prints them: measure, query id or `all`, value."""
        lines = []
        for name, mean in self.measures.items():
            lines += [f"{name}\t{query_id}\t{value:.4f}" for query_id, value in mean.per_query.items()]
            lines.append(f"{name}\tall\t{mean.value:.4f}\t({mean.queries} queries)")
        return lines


def measure(run_file: Path, qrels: Path, options: MeasureOptions, *, say: Callable[[str], None]) -> MeasureResult:
    """Means over every judged query, as `trec_eval -c` computes them: a query that the run lacks counts 0.

    Documents with equal scores are ordered by their id, descending, as trec_eval orders them. Missing queries are named
    through `say`. Raises BenchmarkError.
    """
    chosen = [parse(name) for name in options.measures] or list(MEASURES)
    if not qrels.is_file():
        raise BenchmarkError(f"{qrels}: no such file; expected judgements, TREC's four columns or BEIR's three")
    grades = read_qrels(qrels).grades
    run = read_run(run_file)
    ranked = {query_id: as_trec_eval_ranks(scores) for query_id, scores in run.items()}
    missing = [query_id for query_id in grades if query_id not in run]
    if len(missing) == len(grades):
        raise BenchmarkError(f"{run_file}: none of its {len(run)} queries is judged in {qrels}")
    if missing:
        say(
            f"crispbench: {len(missing)} of {len(grades)} judged queries are not in {run_file} and count 0: "
            f"{', '.join(missing[:5])}"
        )
    means = {
        name: MeanMeasure(fsum(values.values()) / len(values), len(values), values if options.per_query else {})
        for name, values in measures.measure(grades, ranked, chosen).items()
    }
    return MeasureResult(means, missing)


def parse(name: str) -> Measure:
    """The measure with this name. Raises BenchmarkError."""
    try:
        return measures.parse(name)
    except ValueError as error:
        raise BenchmarkError(str(error)) from None
