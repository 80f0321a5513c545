"""Verbs about models: probe an engine, and write FP8 checkpoints."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from harness.cli.app import AsJson, app, finish, say


@app.command(epilog="Example: crispbench probe configs/probe.yaml --engine demo-bf16 --reference demo-fp32")
def probe(
    config: Annotated[Path, typer.Argument(help="YAML file; its benchmarks are not loaded.")],
    engine: Annotated[list[str] | None, typer.Option(help="Only this engine; may be repeated.")] = None,
    reference: Annotated[str | None, typer.Option(help="Compare with this engine of the config.")] = None,
    golden: Annotated[
        Literal["base", "large"] | None,
        typer.Option(help="Size of mxbai-rerank-v2, for engines whose model name does not state it."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Largest accepted difference between two scores of a pair, in log-odds.")
    ] = 0.2,  # bf16 sums depend on the batch, and its steps are 0.0625 from 8 to 16
    as_json: AsJson = False,
) -> None:
    """Check that an engine is the model it claims to be: looks for known faults of servers and conversions."""
    from harness.probe import verb

    options = verb.ProbeOptions(engine or (), reference, golden, tolerance)
    result = verb.probe(config, options, say=say)
    finish(result, result.lines, as_json=as_json)


@app.command(epilog="Example: crispbench quantize checkpoints/demo checkpoints/demo-fp8 --template demo --queries 64")
def quantize(
    model: Annotated[str, typer.Argument(help="Folder of a full checkpoint, or its name on the hub.")],
    out: Annotated[Path, typer.Argument(help="New folder of the FP8 checkpoint.")],
    calibrate: Annotated[
        str, typer.Option(metavar="BENCHMARK", help="stdlib-code, stdlib-topics, a BEIR folder or a task of mteb.")
    ] = "stdlib-topics",
    template: Annotated[
        str, typer.Option(help="Name or YAML file of the prompt with which the checkpoint will be used.")
    ] = "mxbai-v2-seq",
    queries: Annotated[int, typer.Option(min=1, help="Queries to calibrate on, four documents each.")] = 128,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest prompt; texts are cut to fit.", show_default="the template's")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a model on the hub.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write an FP8 checkpoint (NVIDIA ModelOpt), calibrated on a benchmark's prompts; the score head stays as it is."""
    from harness.verbs import quantize as verb

    options = verb.QuantizeOptions(calibrate, queries, template, max_tokens, revision)
    result = verb.quantize(model, options, out=out)
    finish(result, result.lines, as_json=as_json)
