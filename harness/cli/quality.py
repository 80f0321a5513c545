"""Verbs that score and judge rankings."""

from pathlib import Path
from typing import Annotated

import typer

from engines.base import BadOptions
from harness.cli.app import AsJson, RunDir, app, finish, say


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
        bool, typer.Option("--fresh", help="Forget everything that these engines have scored in this folder.")
    ] = False,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Score on a Ray cluster: local, auto or HOST:PORT.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score every benchmark with every engine and write the report. The same command resumes."""
    from harness.run import verb
    from harness.run.tasks import Part

    options = verb.RunOptions(engine or (), benchmark or (), limit, Part.read(part), fresh, ray)
    result = verb.run(config, options, out=out, say=say)
    finish(result, result.report, as_json=as_json, page=result.page)


@app.command(
    epilog="Example: crispbench measure dl19.trec dl19.qrels --measure nDCG@10 --measure 'AP(rel=2)' --measure P_10. "
    "AP(rel=2) is trec_eval -l 2 -m map, which TREC Deep Learning 2019 and 2020 report."
)
def measure(
    run_file: Annotated[
        Path, typer.Argument(metavar="RUN.trec", help="TREC run file, plain or gzip; - is standard input.")
    ],
    qrels: Annotated[Path, typer.Argument(help="Judgements: TREC's four columns or BEIR's three.")],
    measure: Annotated[
        list[str] | None,
        typer.Option(help="Name of ir_measures or trec_eval: nDCG@10, AP(rel=2), ndcg_cut_10; may be repeated."),
    ] = None,
    per_query: Annotated[bool, typer.Option("--per-query", help="Also print the values of every query.")] = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate a TREC run file as trec_eval -c does: every judged query counts; document ids break ties."""
    from harness.verbs import measure as verb

    result = verb.measure(run_file, qrels, verb.MeasureOptions(measure or (), per_query), say=say)
    finish(result, result.lines, as_json=as_json)


@app.command(epilog="Example: crispbench compare results/table/large-fp16 results/table/large-fp8 --out comparison")
def compare(
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="RUN/ENGINE folder to compare with.")],
    candidates: Annotated[
        list[Path] | None, typer.Argument(metavar="CANDIDATE...", help="RUN/ENGINE folders to judge.")
    ] = None,
    margin: Annotated[float, typer.Option(help="Accepted loss of nDCG@10.")] = 0.005,
    allow: Annotated[list[str] | None, typer.Option(help="Accepted difference: template.")] = None,
    noise: Annotated[Path | None, typer.Option(help="RUN/ENGINE folder with a repetition of the reference.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="The run's config, for the texts of queries; for --plan, the one to plan with.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Do not judge: say how many queries a verdict needs, and who has them.")
    ] = False,
    power: Annotated[float | None, typer.Option(help="For --plan: probability of a pass; default 0.8.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write a report to; default none.")] = None,
    as_json: AsJson = False,
) -> None:
    """Did the change cost accuracy? Exit 0 pass, 1 regression, 3 inconclusive, 4 not comparable, 5 incomplete."""
    if plan:
        from harness.compare import planning

        if allow or noise or out:
            raise BadOptions("--plan judges nothing: it takes no --allow, --noise or --out")

        chosen = {} if power is None else {"power": power}
        planned = planning.plan(reference, candidates or [], planning.PlanOptions(margin, config=config, **chosen))
        finish(planned, planned.report, as_json=as_json)
        return
    from harness.compare import verb

    if power is not None:
        raise BadOptions("--power is for --plan: a verdict has no power to choose")

    options = verb.CompareOptions(margin, tuple(allow or ()), noise, config)
    result = verb.compare(reference, candidates or [], options, out=out)
    finish(result, result.report, as_json=as_json, page=result.page)


@app.command(epilog="Example: crispbench merge results/table results/table-part-*")
def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New run folder.")],
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that `crispbench run` wrote.")],
    allow_machine: Annotated[
        bool, typer.Option("--allow-machine", help="Accept different machines; all times are then left out.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace the run folder OUT.")] = False,
    as_json: AsJson = False,
) -> None:
    """Join runs of disjoint benchmarks or queries into one, and write its report. The runs stay as they are."""
    from harness.run import merge as verb

    result = verb.merge(runs, verb.MergeOptions(allow_machine, fresh), out=out)
    finish(result, result.report, as_json=as_json, page=result.page)


@app.command(epilog="Example: crispbench report results/demo")
def report(run_dir: RunDir, as_json: AsJson = False) -> None:
    """Write the report of a run again, from its raw scores and samples."""
    from harness.run import report as verb

    result = verb.report(run_dir)
    finish(result, result.report, as_json=as_json, page=result.page)


@app.command(epilog="Example: crispbench export trec results/demo runs")
def export(
    what: Annotated[str, typer.Argument(metavar="trec|mteb", help="TREC run files, or mteb's task results.")],
    run_dir: RunDir,
    out: Annotated[Path, typer.Argument(help="Folder to write to.")],
    as_json: AsJson = False,
) -> None:
    """Write the runs or the measures of a run folder as files of trec_eval or of mteb."""
    from harness.interop import export as verb

    result = verb.export(run_dir, what, out=out, say=say)
    finish(result, result.lines, as_json=as_json)
