"""Verbs that score and judge rankings."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.app import AsJson, Exit, RunDir, app, print_json, say


@app.command(epilog="Example: crispbench run configs/demo.yaml --limit 20 --out results/quick")
def run(
    config: Annotated[Path, typer.Argument(help="YAML file: engines, benchmarks, candidates.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default results/NAME with the config's name.")] = None,
    engine: Annotated[list[str] | None, typer.Option(help="Only this engine; may be repeated.")] = None,
    benchmark: Annotated[list[str] | None, typer.Option(help="Only this benchmark; may be repeated.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many queries of each benchmark.")] = None,
    part: Annotated[
        str, typer.Option(metavar="N/PARTS", help="Only this part of the queries, such as 3/16; `merge` joins them.")
    ] = "1/1",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget all that these engines have scored in this folder.")
    ] = False,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Score on a Ray cluster: local, auto or HOST:PORT.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score every benchmark with every engine and write the report. The same command resumes."""
    from harness.run.session import run_config
    from harness.run.tasks import Part, Selection

    selection = Selection(engine or (), benchmark or (), limit, Part.read(part))
    outcome = run_config(config, out=out, selection=selection, fresh=fresh, say=say, ray=ray)
    if as_json:
        print_json({"run": str(outcome.folder), "engines": outcome.measures})
    else:
        _show(outcome.rows, outcome.report, outcome.reproductions)
    if not outcome.complete:
        raise typer.Exit(Exit.INVALID)


@app.command(epilog="Example: crispbench measure bm25.trec qrels/test.tsv --measure nDCG@10 --measure AP")
def measure(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.trec", help="TREC run file, plain or gzip.")],
    qrels: Annotated[Path, typer.Argument(help="Judgements: TREC's four columns or BEIR's three.")],
    measure: Annotated[list[str] | None, typer.Option(help="As ir_measures writes it; may be repeated.")] = None,
    per_query: Annotated[bool, typer.Option("--per-query", help="Also each query's values.")] = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate a TREC run file as trec_eval -c does: every judged query counts, ties by document id."""
    from harness.report.notation import visible
    from harness.verbs.measure import evaluate_file

    document = evaluate_file(run_file, qrels, measure or (), per_query=per_query, say=say)
    if as_json:
        print_json(document)
        return
    for name, entry in document["measures"].items():
        for query_id, value in entry.get("per_query", {}).items():
            typer.echo(f"{name}\t{visible(query_id)}\t{value:.4f}")
        typer.echo(f"{name}\tall\t{entry['value']:.4f}\t({entry['queries']} queries)")


@app.command(epilog="Example: crispbench compare results/table/large-fp16 results/table/large-fp8 --out comparison")
def compare(
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="RUN/ENGINE folder to compare with.")],
    candidates: Annotated[list[Path], typer.Argument(metavar="CANDIDATE...", help="RUN/ENGINE folders to judge.")],
    margin: Annotated[float, typer.Option(help="Loss of nDCG@10 that is accepted.")] = 0.005,
    allow: Annotated[list[str] | None, typer.Option(help="What may differ: template.")] = None,
    noise: Annotated[Path | None, typer.Option(help="RUN/ENGINE folder: the reference run once more.")] = None,
    config: Annotated[Path | None, typer.Option(help="The run's config, to show the texts of queries.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write a report to; default none.")] = None,
    as_json: AsJson = False,
) -> None:
    """Did the change cost accuracy? Exit 0 pass, 1 regression, 3 inconclusive, 4 not comparable, 5 incomplete."""
    from harness.compare import CompareOptions, compare

    contest = compare(reference, candidates, CompareOptions(margin, tuple(allow or ()), noise, config))
    _show_contest(contest, out, as_json=as_json)
    code = {"pass": Exit.PASS, "regression": Exit.FAILED, "inconclusive": Exit.INCONCLUSIVE}[contest.outcome]
    if code:
        raise typer.Exit(code)


@app.command(epilog="Example: crispbench merge results/table results/table-part-*")
def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New run folder.")],
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that `crispbench run` wrote.")],
    allow_machine: Annotated[
        bool, typer.Option("--allow-machine", help="Also of unlike machines; all times are then left out.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace the run folder OUT.")] = False,
    as_json: AsJson = False,
) -> None:
    """Join runs of disjoint benchmarks or queries into one, and write its report. The runs stay as they are."""
    from harness.run.merge import merge as join

    outcome = join(out, runs, fresh=fresh, allow_machine=allow_machine)
    if as_json:
        print_json({"run": str(outcome.folder), "engines": outcome.measures})
    else:
        _show(outcome.rows, outcome.report, outcome.reproductions)
    if not outcome.complete:
        raise typer.Exit(Exit.INVALID)


@app.command(epilog="Example: crispbench report results/demo")
def report(run_dir: RunDir, as_json: AsJson = False) -> None:
    """Make the report of a run again from its raw scores and samples."""
    from harness.run.session import write_report

    rows, files, reproductions = write_report(run_dir)
    if as_json:
        print_json({"run": str(run_dir), "files": [str(path) for path in files]})
    else:
        _show(rows, files, reproductions)


@app.command(epilog="Example: crispbench export trec results/demo runs")
def export(
    what: Annotated[str, typer.Argument(metavar="trec|mteb", help="TREC run files, or mteb's task results.")],
    run_dir: RunDir,
    out: Annotated[Path, typer.Argument(help="Folder to write to.")],
    as_json: AsJson = False,
) -> None:
    """Write the runs or the measures of a run folder as files of trec_eval or of mteb."""
    from harness.interop.export import EXPORTS

    if what not in EXPORTS:
        raise typer.BadParameter(f"{what!r} is no format to export to; known are {', '.join(EXPORTS)}")
    exported = EXPORTS[what](run_dir, out)
    if as_json:
        print_json({"files": [str(path) for path in exported.files], "problems": exported.problems})
    else:
        typer.echo("\n".join(str(path) for path in exported.files))
    for problem in exported.problems:
        say(f"crispbench: {problem}")
    if exported.problems:
        raise typer.Exit(Exit.INVALID)


def _show(rows: Sequence[Any], files: Sequence[Path], reproductions: Sequence[Any]) -> None:
    from rich.console import Console

    from harness.run.page import files as reports

    reports.show(rows, Console(), reproductions)
    page = next(path for path in files if path.name == "index.html")
    print(f"report: {os.path.relpath(page)}")


def _show_contest(contest: Any, out: Path | None, *, as_json: bool) -> None:
    from rich.console import Console

    from harness.compare.page import files as comparison

    files = comparison.write(contest, out) if out is not None else []
    if as_json:
        print_json(contest.document())
    else:
        comparison.show(contest, Console())
    for page in files[:1]:
        say(f"report: {os.path.relpath(page)}")
