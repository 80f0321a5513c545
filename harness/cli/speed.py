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


@app.command(epilog="Example: crispbench ab configs/ab.yaml --engine demo-fp32 --engine demo-bf16")
def ab(
    config: Annotated[Path, typer.Argument(help="YAML file; its first benchmark is scored.")],
    engine: Annotated[list[str] | None, typer.Option(help="Give it twice: first A, then B.")] = None,
    max_pairs: Annotated[
        int, typer.Option(min=1, max=200, help="Most launch pairs, fresh processes of both; a verdict needs 6.")
    ] = 100,
    minutes: Annotated[float, typer.Option(min=0.1, help="Time limit: no launch pair is made that ends later.")] = 30,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds per process.")] = 20,
    queries: Annotated[int, typer.Option(min=1, help="Number of queries per round.")] = 5,
    warmup: Annotated[
        int, typer.Option(min=0, help="Queries of a warm-up turn, which is repeated until the times are steady.")
    ] = 10,
    pin: Annotated[int | None, typer.Option(min=1, help="Pin both engines to this many cores, the same ones.")] = None,
    margin: Annotated[
        list[str] | None, typer.Option(help="Accepted slowdown, such as p50=0.05; p95=none leaves it out.")
    ] = None,
    canary: Annotated[bool, typer.Option("--canary", help="Compare A with itself for the noise floor.")] = False,
    out: Annotated[Path | None, typer.Option(help="Result folder; default results/NAME-ab.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace the results of an earlier run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Is B slower than A? Goes on until it knows. Exit 0 pass, 1 regression, 3 inconclusive, 5 could not score."""
    from harness.ab import verb
    from harness.ab.margins import MARGINS, read_margins
    from harness.ab.pinning import choose_cores
    from harness.ab.records import LaunchPlan

    plan = LaunchPlan(max_pairs, minutes, rounds, queries, warmup, choose_cores(pin))
    options = verb.AbOptions(plan, read_margins(margin or (), MARGINS), canary, fresh)
    result = verb.ab(config, engine or (), options, out=out, say=say)
    finish(result, result.report, as_json=as_json, page=result.page)
