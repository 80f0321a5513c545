"""Verbs about models: is it the one that it says it is, and FP8 checkpoints."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from harness.cli.app import AsJson, Exit, app, print_json, say, show_lines


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
    from harness.probe import ProbeOptions, probe_config

    probed = probe_config(config, engine or (), ProbeOptions(tolerance, reference, golden), say=say)
    if as_json:
        print_json({"engines": {name: one.document() for name, one in probed.items()}})
    else:
        show_lines(line for name, one in probed.items() for line in one.lines(name))
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
    from harness.verbs.quantize import CalibrationPlan, ExportOptions
    from harness.verbs.quantize import quantize as write

    options = ExportOptions(model=model, revision=revision, template=template, max_tokens=max_tokens)
    report = write(options, out, CalibrationPlan(calibrate, queries))
    if as_json:
        print_json({"checkpoint": str(out), **report})
    else:
        calibrated, layers = report["calibration"], report["weight_scale"]["count"]
        prompts = f"{calibrated['prompts']} prompts of {calibrated['benchmark']}"
        typer.echo(f"{out}: {layers} layers in FP8, calibrated on {prompts}")
