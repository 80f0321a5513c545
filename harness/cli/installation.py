"""Verbs about the installation."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import AsJson, app, finish


@app.command("list", epilog="Example: crispbench list engines")
def list_(
    what: Annotated[str, typer.Argument(help="engines, dialects, benchmarks, suites, published or templates.")],
    as_json: AsJson = False,
) -> None:
    """List what a config may name."""
    from harness.verbs import list as verb

    result = verb.list(what)
    finish(result, result.lines, as_json=as_json)


@app.command(epilog="Example: crispbench doctor configs/demo.yaml")
def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="YAML file whose engines and benchmarks are looked for; default none.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this installation can run, and what to install for the rest."""
    from harness.verbs import doctor as verb

    result = verb.doctor(config)
    finish(result, result.lines, as_json=as_json)
