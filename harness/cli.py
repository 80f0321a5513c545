"""The command line: one verb, one function. Each parses, calls, prints; errors are one line and an exit code.

Imports inside the functions keep `crispbench --help` fast.
"""

import json
import os
import sys
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

INTERRUPTED = "interrupted: what was committed is kept; for `run` the same command resumes"
HELP = "Evaluate rerankers honestly: quality and latency of every engine over the same candidates, in one report."

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


class Exit(IntEnum):
    PASS = 0
    FAILED = 1
    USAGE = 2
    INCONCLUSIVE = 3
    NOT_COMPARABLE = 4
    INVALID = 5
    INTERRUPTED = 130


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
RunDir = Annotated[Path, typer.Argument(help="Folder that `crispbench run` wrote.")]


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Options of every command."""  # here for --help; main() reads it, which is outside of typer


@app.command(epilog="Example: crispbench run configs/demo.yaml --limit 20 --out results/quick")
def run(
    config: Annotated[Path, typer.Argument(help="YAML file: engines, benchmarks, candidates.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default results/NAME with the config's name.")] = None,
    engine: Annotated[list[str] | None, typer.Option(help="Only this engine; may be repeated.")] = None,
    benchmark: Annotated[list[str] | None, typer.Option(help="Only this benchmark; may be repeated.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many queries of each benchmark.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget all that these engines have scored in this folder.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Score every benchmark with every engine and write the report. The same command resumes."""
    from harness.run import Selection
    from harness.session import run_config

    selection = Selection(engine or (), benchmark or (), limit)
    outcome = run_config(config, out=out, selection=selection, fresh=fresh, say=_say)
    if as_json:
        _print_json({"run": str(outcome.folder), "engines": outcome.measures})
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
    from harness.evaluation import evaluate_file

    document = evaluate_file(run_file, qrels, measure or (), per_query=per_query, say=_say)
    if as_json:
        _print_json(document)
        return
    for name, entry in document["measures"].items():
        for query_id, value in entry.get("per_query", {}).items():
            typer.echo(f"{name}\t{query_id}\t{value:.4f}")
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
    from harness.compare import Terms, compare

    contest = compare(reference, candidates, Terms(margin, tuple(allow or ()), noise, config))
    _show_contest(contest, out, as_json=as_json)
    code = {"pass": Exit.PASS, "regression": Exit.FAILED, "inconclusive": Exit.INCONCLUSIVE}[contest.outcome]
    if code:
        raise typer.Exit(code)


@app.command(epilog="Example: crispbench ab configs/ab.yaml --engine demo-fp32 --engine demo-bf16 --quick")
def ab(
    config: Annotated[Path, typer.Argument(help="YAML file; its first benchmark is scored.")],
    engine: Annotated[list[str] | None, typer.Option(help="A, and once more B: is B slower than A?")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="6 launch pairs instead of 10.")] = False,
    launch_pairs: Annotated[int | None, typer.Option(min=1, help="Fresh processes of each engine.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each process.")] = 4,
    queries: Annotated[int, typer.Option(min=1, help="Queries of each turn.")] = 25,
    warmup: Annotated[int, typer.Option(min=0, help="Queries of each process that do not count.")] = 10,
    margin: Annotated[
        list[str] | None, typer.Option(help="Accepted slowdown, such as p50=0.05; p95=none leaves it out.")
    ] = None,
    canary: Annotated[bool, typer.Option("--canary", help="A against A: the noise floor of this machine.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder; default results/NAME-ab with the config's name.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace the results of an earlier run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Is B slower than A? Exit 0 pass, 1 regression seen twice, 3 inconclusive, 5 an engine could not score."""
    from harness.ab import contest, report
    from harness.ab.records import QUICK, STANDARD, Plan

    pairs = launch_pairs or (QUICK if quick else STANDARD).launch_pairs
    terms = contest.Terms(Plan(pairs, rounds, queries, warmup), contest.read_margins(margin or ()), canary, fresh)
    found = contest.run_ab(config, engine or (), terms, out=out, say=_say)
    if as_json:
        _print_json(found.document)
    else:
        typer.echo("\n".join(report.lines(found.document)))
        _say(f"report: {os.path.relpath(found.folder / 'ab.md')}")
    code = {"pass": Exit.PASS, "regression": Exit.FAILED, "inconclusive": Exit.INCONCLUSIVE}[found.verdict.outcome]
    if code:
        raise typer.Exit(code)


@app.command(epilog="Example: crispbench latency configs/latency.yaml --engine demo-bf16 --scenario single-stream")
def latency(
    config: Annotated[Path, typer.Argument(help="YAML file; its `latency` says what is measured.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default results/NAME with the config's name.")] = None,
    engine: Annotated[list[str] | None, typer.Option(help="Only this engine; may be repeated.")] = None,
    scenario: Annotated[
        list[str] | None, typer.Option(help="single-stream, server or offline; default the config's; may be repeated.")
    ] = None,
    slo_ms: Annotated[
        float | None, typer.Option("--slo-ms", min=0.001, help="server: 99% are to be answered within this time.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure latency and throughput. Exit 0 valid, 1 slower than --slo-ms, 3 too few samples for it, 5 invalid."""
    from harness.latency.measurement import Wishes, measure_config

    outcome = measure_config(config, Wishes(engine or (), scenario or (), slo_ms), out=out, say=_say)
    if as_json:
        _print_json(outcome.document())
    else:
        from rich.console import Console

        from harness.report import latency as page

        page.show(outcome.measured, Console())
        print(f"report: {os.path.relpath(outcome.page[0])}")
    code = {"pass": Exit.PASS, "fail": Exit.FAILED, "inconclusive": Exit.INCONCLUSIVE, "invalid": Exit.INVALID}
    if code[outcome.verdict]:
        raise typer.Exit(code[outcome.verdict])


@app.command(epilog="Example: crispbench report results/demo")
def report(run_dir: RunDir, as_json: AsJson = False) -> None:
    """Make the report of a run again from its raw scores and samples."""
    from harness.session import write_report

    rows, files, reproductions = write_report(run_dir)
    if as_json:
        _print_json({"run": str(run_dir), "files": [str(path) for path in files]})
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
        _print_json({"files": [str(path) for path in exported.files], "problems": exported.problems})
    else:
        typer.echo("\n".join(str(path) for path in exported.files))
    for problem in exported.problems:
        _say(f"crispbench: {problem}")
    if exported.problems:
        raise typer.Exit(Exit.INVALID)


@app.command("list", epilog="Example: crispbench list engines")
def list_(
    what: Annotated[str, typer.Argument(help="engines, benchmarks, suites, published or templates.")],
    as_json: AsJson = False,
) -> None:
    """List what a config may name."""
    from harness.catalogue import CATALOGUES, DOCUMENTS

    if what not in CATALOGUES:
        raise typer.BadParameter(f"{what!r} cannot be listed; known are {', '.join(CATALOGUES)}")
    if as_json:
        _print_json({what: DOCUMENTS.get(what, CATALOGUES[what])()})
        return
    entries = CATALOGUES[what]()
    width = max(map(len, entries))
    for name, description in entries.items():
        typer.echo(f"{name:<{width}}  {description}")


@app.command(epilog="Example: crispbench doctor")
def doctor(as_json: AsJson = False) -> None:
    """Say what this installation can run, and what to install for the rest."""
    from harness.doctor import examine

    findings = examine()
    if as_json:
        _print_json({"checks": [finding._asdict() for finding in findings]})
    else:
        for finding in findings:
            typer.echo(
                f"{'ok  ' if finding.ok else 'MISSING' if finding.required else '-   '} "
                f"{finding.name:<24} {finding.detail}"
            )
    if not all(finding.ok for finding in findings if finding.required):
        raise typer.Exit(Exit.FAILED)


@app.command(epilog="Example: crispbench probe configs/probe.yaml --engine demo-bf16 --reference demo-fp32")
def probe(
    config: Annotated[Path, typer.Argument(help="YAML file; its benchmarks are not loaded.")],
    engine: Annotated[list[str] | None, typer.Option(help="Only this engine; may be repeated.")] = None,
    reference: Annotated[str | None, typer.Option(help="Compare with this engine of the config.")] = None,
    golden: Annotated[
        Literal["base", "large"] | None,
        typer.Option(help="Which mxbai-rerank-v2 an engine is whose model name does not say it."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="How far two scores of the same pair may lie apart, in log-odds.")
    ] = 0.2,  # bf16 sums depend on the batch, and its steps are 0.0625 from 8 to 16
    as_json: AsJson = False,
) -> None:
    """Ask whether an engine is the model it says it is: looks for the faults that servers and conversions have."""
    from harness.probe import Against, probe_config

    probed = probe_config(config, engine or (), Against(tolerance, reference, golden), say=_say)
    if as_json:
        _print_json({"engines": {name: one.document() for name, one in probed.items()}})
    else:
        typer.echo("\n".join(line for name, one in probed.items() for line in one.lines(name)))
    verdicts = {one.verdict for one in probed.values()}
    if verdicts != {"pass"}:
        raise typer.Exit(Exit.FAILED if "fail" in verdicts else Exit.INVALID)


@app.command(epilog="Example: crispbench quantize checkpoints/demo checkpoints/demo-fp8 --template demo --queries 64")
def quantize(
    model: Annotated[str, typer.Argument(help="Folder of a full checkpoint, or its name on the hub.")],
    out: Annotated[Path, typer.Argument(help="New folder of the FP8 checkpoint.")],
    calibrate: Annotated[
        str, typer.Option(metavar="BENCHMARK", help="stdlib-code, stdlib-topics, a BEIR folder or a task of mteb.")
    ] = "stdlib-topics",
    template: Annotated[
        str, typer.Option(help="Name or YAML file of the prompt it will be scored with.")
    ] = "mxbai-v2-seq",
    queries: Annotated[int, typer.Option(min=1, help="Queries to calibrate on, four documents each.")] = 128,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of the whole prompt; the document is cut to fit.")] = 8192,
    revision: Annotated[str | None, typer.Option(help="Of a model on the hub.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write an FP8 checkpoint (NVIDIA ModelOpt), calibrated on the prompts of a benchmark; score head left out."""
    from harness.quantize import Asked, ExportOptions
    from harness.quantize import quantize as write

    options = ExportOptions(model=model, revision=revision, template=template, max_tokens=max_tokens)
    report = write(options, out, Asked(calibrate, queries))
    if as_json:
        _print_json({"checkpoint": str(out), **report})
    else:
        calibrated, layers = report["calibration"], report["weight_scale"]["count"]
        prompts = f"{calibrated['prompts']} prompts of {calibrated['benchmark']}"
        typer.echo(f"{out}: {layers} layers in FP8, calibrated on {prompts}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; anything that is wrong becomes one line on standard error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]  # known wherever it stands
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="crispbench", standalone_mode=False)
        if code == Exit.INTERRUPTED:  # what typer makes of a KeyboardInterrupt, without a word
            raise KeyboardInterrupt
        return int(code or 0)
    except KeyboardInterrupt:
        return _complain(INTERRUPTED, Exit.INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        return _complain(*_explained(error))


def entry() -> None:
    """The installed command."""
    sys.exit(main())


def _explained(error: Exception) -> tuple[str, Exit]:
    if isinstance(error, typer.Abort):
        return INTERRUPTED, Exit.INTERRUPTED
    if isinstance(error, TyperException):
        return _usage(error), Exit.USAGE
    return _exit_of(error)


def _usage(error: TyperException) -> str:
    """What is wrong with the arguments, and what is known instead. Typer exports only the base of these errors."""
    message = getattr(error, "format_message", error.__str__)().rstrip(".")
    command = getattr(getattr(error, "ctx", None), "command", None)
    if isinstance(command, TyperGroup) and "No such command" in message:
        return f"{message}; known are {', '.join(command.commands)}"
    if command is not None and "No such option" in message:
        known = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
        return f"{message}; known are {', '.join(known)}"
    return str(message)


def _exit_of(error: Exception) -> tuple[str, Exit]:
    from engines.base import BadOptions, EngineError
    from harness.benchmarks import BenchmarkError
    from harness.config import ConfigError
    from harness.store import NotComparable, StoreError

    for kinds, code in (
        ((BadOptions, ConfigError, BenchmarkError), Exit.USAGE),
        ((NotComparable,), Exit.NOT_COMPARABLE),
        ((EngineError, StoreError), Exit.INVALID),
    ):
        if isinstance(error, kinds):
            return str(error), code
    reason = str(error) or "no message"
    return f"{type(error).__name__}: {reason.splitlines()[0]} (--debug shows where)", Exit.INVALID


def _complain(message: str, code: Exit) -> int:
    print(f"crispbench: {message}", file=sys.stderr)
    return code


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=1, ensure_ascii=False))


def _show(rows: Sequence[Any], files: Sequence[Path], reproductions: Sequence[Any]) -> None:
    from rich.console import Console

    from harness import report as reports

    reports.show(rows, Console(), reproductions)
    page = next(path for path in files if path.name == "index.html")
    print(f"report: {os.path.relpath(page)}")


def _show_contest(contest: Any, out: Path | None, *, as_json: bool) -> None:
    from rich.console import Console

    from harness.report import comparison

    files = comparison.write(contest, out) if out is not None else []
    if as_json:
        _print_json(contest.document())
    else:
        comparison.show(contest, Console())
    for page in files[:1]:
        _say(f"report: {os.path.relpath(page)}")
