"""`crispbench measure`: the measures of a TREC run file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ir_measures import Measure

from harness.benchmarks import BenchmarkError
from harness.benchmarks.base import shown
from harness.benchmarks.judgements import read_qrels
from harness.benchmarks.lines import beginning
from harness.candidates.trec import RunFile, as_trec_eval_ranks, read_run_file
from harness.figures import measure_names, measures
from harness.figures.measures import MEASURES
from harness.figures.providers import check_grades
from harness.outcome import Outcome
from harness.records import Qrels

STANDARD_INPUT = Path("/dev/stdin")  # the run file `-`, as in trec_eval 10


@dataclass(frozen=True)
class MeasureOptions:
    """The values to compute."""

    measures: Sequence[str] = ()  # names as ir_measures or trec_eval writes them; empty: the standard measures
    per_query: bool = False  # keep the value of every query


@dataclass(frozen=True)
class MeasuredRun:
    """The value of a measure for a run file."""

    value: float  # mean over all judged queries, or the sum of a count
    queries: int  # number of judged queries
    per_query: Mapping[str, float] = field(default_factory=dict)  # query_id -> value; empty unless requested

    def document(self) -> dict[str, Any]:
        per_query = {"per_query": dict(self.per_query)} if self.per_query else {}
        return {"value": self.value, "queries": self.queries, **per_query}


@dataclass(frozen=True)
class MeasureResult:
    """The measures of a run file by their names, and the judged queries that it lacks, which count 0."""

    measures: Mapping[str, MeasuredRun]
    missing: Sequence[str]
    warnings: Sequence[str] = ()  # what makes the values doubtful, one line each

    @property
    def outcome(self) -> Outcome:
        return Outcome.PASS

    def document(self) -> dict[str, Any]:
        measures = {name: measured.document() for name, measured in self.measures.items()}
        return {"measures": measures, "missing": list(self.missing), "warnings": list(self.warnings)}

    def lines(self) -> list[str]:
        """Lines as trec_eval prints them: measure, query id or `all`, value."""
        lines = []
        for name, measured in self.measures.items():
            decimals = 0 if measure_names.is_count(name) else 4
            lines += [f"{name}\t{query_id}\t{value:.{decimals}f}" for query_id, value in measured.per_query.items()]
            lines.append(f"{name}\tall\t{measured.value:.{decimals}f}\t({measured.queries} queries)")
        return lines


def measure(run_file: Path, qrels: Path, options: MeasureOptions, *, say: Callable[[str], None]) -> MeasureResult:
    """Values over every judged query, as `trec_eval -c` computes them: a query that the run lacks counts 0.

    The run file `-` is standard input. Documents with equal scores are ordered by their id, descending, as trec_eval
    orders them. Missing queries and what is odd about the run are named through `say`. Raises BenchmarkError.
    """
    chosen = parse(options.measures) or list(MEASURES)
    if qrels.is_dir() or not qrels.exists():
        raise BenchmarkError(f"{qrels}: no such file; expected judgements, TREC's four columns or BEIR's three")
    judged = read_qrels(qrels)
    judged.refuse_spaced((), "no run file can hold such an id")
    grades = judged.grades
    check(chosen, grades)
    contents = read_run_file(STANDARD_INPUT if str(run_file) == "-" else run_file)
    run = contents.scores
    ranked = {query_id: as_trec_eval_ranks(scores) for query_id, scores in run.items()}
    missing = [query_id for query_id in grades if query_id not in run]
    if len(missing) == len(grades):
        raise BenchmarkError(
            f"{run_file}: none of its {len(run):,} queries is judged in {qrels} (its first is "
            f"{beginning(next(iter(run), 'none'))}, the first judged is {beginning(next(iter(grades)))}): the two "
            "files are of different collections, or their ids are written differently"
        )
    warnings = [*judged.warnings, *_oddities(run_file, contents, grades)]
    if missing:
        lacking = f"{len(missing):,} of {len(grades):,} judged queries are not in {run_file} and count 0"
        warnings.insert(0, f"{lacking}: {shown(missing)}")
    for warning in warnings:
        say(f"crispbench: {warning}")
    measured = {
        name: MeasuredRun(measures.summary(name, values), len(values), values if options.per_query else {})
        for name, values in measures.measure(grades, ranked, chosen).items()
    }
    return MeasureResult(measured, missing, warnings)


def _oddities(run_file: Path, contents: RunFile, grades: Qrels) -> Iterator[str]:
    """What makes the values of a run doubtful, one line each."""
    yield from contents.oddities.warnings(str(run_file), grades)
    foreign = unjudged(contents.scores, grades)
    if foreign:
        yield f"{run_file}: {foreign} of the two files"


def unjudged(run: Mapping[str, Mapping[str, float]], qrels: Qrels) -> str | None:
    """A line about a run that retrieves no judged document, whose values are all 0; None for another run."""
    lists = {query_id: scores for query_id, scores in run.items() if query_id in qrels}
    if any(doc_id in qrels[query_id] for query_id, scores in lists.items() for doc_id in scores):
        return None
    documents, judged = sum(map(len, lists.values())), sum(map(len, qrels.values()))
    return (
        f"none of its {documents:,} documents for {len(lists):,} judged queries is among the {judged:,} judged ones: "
        "compare the ids"
    )


def check(chosen: Sequence[Measure], qrels: Qrels) -> None:
    """Raises BenchmarkError for a grade with which one of the measures would be wrong."""
    try:
        check_grades(chosen, qrels)
    except ValueError as error:
        raise BenchmarkError(str(error)) from None


def parse(names: Sequence[str]) -> list[Measure]:
    """The measures with these names. Raises BenchmarkError."""
    try:
        return measure_names.parse_all(names)
    except ValueError as error:
        raise BenchmarkError(str(error)) from None
