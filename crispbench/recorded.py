"""Runs: made from a config, read back from their folder, and compared."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from harness.compare.verb import CompareOptions, CompareResult
from harness.compare.verb import compare as compare_recorded
from harness.records import Row
from harness.run import rows
from harness.run.folder import RunIndex
from harness.run.verb import RunOptions
from harness.run.verb import run as run_config
from harness.store import FILE, Store

if TYPE_CHECKING:
    from pandas import DataFrame

log = logging.getLogger("crispbench")


class ScoredPair(NamedTuple):
    """One candidate of one query with the score that one engine gave it."""

    engine: str
    benchmark: str
    query_id: str
    doc_id: str
    rank: int  # the first stage's, from 1
    score: float  # raw, higher is more relevant


@dataclass(frozen=True)
class Run:
    """What a run folder holds: rows of figures, computed from the raw scores when it was read, and the scores."""

    folder: Path
    name: str  # the config's
    rows: tuple[Row, ...]  # one per engine and benchmark, engines in the config's order

    @property
    def complete(self) -> bool:
        """Whether every engine has scored every query of every benchmark, and none of them is invalid."""
        return all(row.verdict == "complete" for row in self.rows)

    def scores(self) -> Iterator[ScoredPair]:
        """Every score by engine, benchmark, query and first-stage rank, read while it is iterated.

        Queries that failed have no scores. Raises StoreError.
        """
        for row in self.rows:
            engine_folder = self.folder / row.engine
            if not (engine_folder / FILE).is_file():
                continue  # the engine was unavailable, and its row says so
            with Store.read(engine_folder) as store:
                for query_id, scores in store.scored(row.benchmark).items():
                    for doc_id, rank, value in scores:
                        yield ScoredPair(row.engine, row.benchmark, query_id, doc_id, rank, value)

    def to_pandas(self, table: Literal["rows", "scores"] = "rows") -> "DataFrame":
        """A DataFrame of the rows, or of the scores as one long table with the columns of ScoredPair.

        The rows have engine, benchmark, verdict, queries, pairs, coverage (share of the queries that have scores),
        without_candidates (number of queries for which the first stage found nothing, which count 0),
        each measure with the ends of its 95% bootstrap interval ("nDCG@10", "nDCG@10 lo", "nDCG@10 hi"), p50_s and
        p90_s (seconds per query with all its candidates, warm-up excluded) and pairs_per_s. An unknown figure is
        missing, never zero. Raises ImportError without pandas, and StoreError.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError("Run.to_pandas needs pandas: pip install 'crispbench[pandas]'") from None
        if table == "scores":
            return pandas.DataFrame(self.scores(), columns=list(ScoredPair._fields))
        if table == "rows":
            return pandas.DataFrame([_columns(row) for row in self.rows])
        raise ValueError(f"table {table!r}: expected 'rows' or 'scores'")


def _columns(row: Row) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "engine": row.engine,
        "benchmark": row.benchmark,
        "verdict": row.verdict,
        "queries": row.queries,
        "pairs": row.pairs,
        "coverage": row.coverage,
        "without_candidates": len(row.without_candidates),
    }
    for name, measurement in row.measures.items():
        columns |= {name: measurement.value, f"{name} lo": measurement.lo, f"{name} hi": measurement.hi}
    return columns | {"p50_s": row.p50.value, "p90_s": row.p90.value, "pairs_per_s": row.pairs_per_s}


def run(
    config: str | Path,
    *,
    out: str | Path | None = None,
    engines: Sequence[str] = (),
    benchmarks: Sequence[str] = (),
    limit: int | None = None,
    fresh: bool = False,
) -> Run:
    """Score every benchmark of a config with every engine, write the report, and return the run.

    `out` is the run folder, results/NAME by default; the same call resumes what it holds, and `fresh` forgets it.
    `engines` and `benchmarks` choose by name, none means all; `limit` is the largest number of queries per benchmark.
    An engine that cannot be loaded is named in its rows' notes and in the log "crispbench", and the others go on.

    Raises ConfigError, BadOptions or BenchmarkError before an engine is loaded, NotComparable if `out` holds results of
    another configuration, StoreError if it cannot be written, and EngineUnavailable if no engine could be loaded.
    """
    options = RunOptions(engines, benchmarks, limit, fresh=fresh)
    result = run_config(Path(config), options, out=_path(out), say=log.warning)
    return _run(result.folder, result.rows)


def read_run(folder: str | Path) -> Run:
    """What `run` or `crispbench run` recorded in a folder. Raises StoreError if it is not a run folder."""
    path = Path(folder)
    return _run(path, rows.read(path))


def compare(
    reference: str | Path,
    candidates: str | Path | Sequence[str | Path],
    *,
    margin: float = 0.005,
    allow: Sequence[str] = (),
    noise: str | Path | None = None,
    config: str | Path | None = None,
) -> CompareResult:
    """Whether candidates lose quality against a reference: paired per query, with intervals, by non-inferiority.

    `reference`, each of `candidates` and `noise` (the reference run once more) are folders RUN/ENGINE of recorded runs.
    `margin` is the accepted loss of mean nDCG@10, above 0 and below 1. `allow` names what may differ ("template").
    `config` is the run's config, to show the texts of the queries with the largest losses. The result has `outcome`,
    `comparisons` (one per candidate), `matrices` (with two or more candidates) and `document()`, plain JSON data.

    Raises BadOptions for a wrong margin, allowance or list of folders, NotComparable if the runs differ in what decides
    their numbers, StoreError for a folder without complete results, and ConfigError for a wrong config.
    """
    several = [candidates] if isinstance(candidates, str | Path) else candidates
    options = CompareOptions(margin, tuple(allow), _path(noise), _path(config))
    return compare_recorded(Path(reference), [Path(candidate) for candidate in several], options)


def _run(folder: Path, figures: Sequence[Row]) -> Run:
    return Run(folder, RunIndex.read(folder).name, tuple(figures))


def _path(name: str | Path | None) -> Path | None:
    return None if name is None else Path(name)
