"""Verbs that time engines and judge times."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import AsJson, app, finish, say


@app.command(epilog="Example: crispbench latency configs/latency.yaml --engine demo-bf16 --scenario single-stream")
def latency(
    config: Annotated[Path, typer.Argument(help="YAML file; its `latency` section names the measurements.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default results/NAME with the config's name.")] = None,
    engine: Annotated[list[str] | None, typer.Option(help="Only this engine; may be repeated.")] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(help="single-stream, server, offline, sweep or search; default the config's; may be repeated."),
    ] = None,
    slo_ms: Annotated[
        float | None,
        typer.Option("--slo-ms", min=0.001, help="server and search: time limit for 99% of the requests."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure latency and throughput; for remote engines also a sweep of loads or a search for the largest rate.

    Exit 0 valid, 1 slower than --slo-ms (search: at every rate), 3 too few samples to judge it, 5 invalid.
    """
    from harness.latency import verb

    result = verb.latency(config, verb.LatencyOptions(engine or (), scenario or (), slo_ms), out=out, say=say)
    finish(result, result.report, as_json=as_json, page=result.page)


@app.command(epilog="Example: crispbench ab configs/ab.yaml --engine demo-fp32 --engine demo-bf16 --quick")
def ab(
    config: Annotated[Path, typer.Argument(help="YAML file; its first benchmark is scored.")],
    engine: Annotated[list[str] | None, typer.Option(help="Give it twice: first A, then B.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="6 launch pairs instead of 10.")] = False,
    launch_pairs: Annotated[int | None, typer.Option(min=1, help="Number of fresh processes per engine.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds per process.")] = 4,
    queries: Annotated[int, typer.Option(min=1, help="Number of queries per round.")] = 25,
    warmup: Annotated[int, typer.Option(min=0, help="Number of warm-up queries per process; not measured.")] = 10,
    margin: Annotated[
        list[str] | None, typer.Option(help="Accepted slowdown, such as p50=0.05; p95=none leaves it out.")
    ] = None,
    canary: Annotated[bool, typer.Option("--canary", help="Compare A with itself for the noise floor.")] = False,
    out: Annotated[Path | None, typer.Option(help="Result folder; default results/NAME-ab.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace the results of an earlier run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Is B slower than A? Exit 0 pass, 1 regression seen twice, 3 inconclusive, 5 an engine could not score."""
    from harness.ab import verb
    from harness.ab.margins import MARGINS, read_margins
    from harness.ab.records import QUICK, STANDARD, LaunchPlan

    pairs = launch_pairs or (QUICK if quick else STANDARD).launch_pairs
    plan = LaunchPlan(pairs, rounds, queries, warmup)
    options = verb.AbOptions(plan, read_margins(margin or (), MARGINS), canary, fresh)
    result = verb.ab(config, engine or (), options, out=out, say=say)
    finish(result, result.report, as_json=as_json, page=result.page)
