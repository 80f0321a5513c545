"""Verbs about what is installed here."""

from typing import Annotated

import typer

from harness.cli.app import AsJson, Exit, app, print_json


@app.command("list", epilog="Example: crispbench list engines")
def list_(
    what: Annotated[str, typer.Argument(help="engines, benchmarks, suites, published or templates.")],
    as_json: AsJson = False,
) -> None:
    """List what a config may name."""
    from harness.verbs.list import CATALOGUES, DOCUMENTS

    if what not in CATALOGUES:
        raise typer.BadParameter(f"{what!r} cannot be listed; known are {', '.join(CATALOGUES)}")
    if as_json:
        print_json({what: DOCUMENTS.get(what, CATALOGUES[what])()})
        return
    entries = CATALOGUES[what]()
    width = max(map(len, entries))
    for name, description in entries.items():
        typer.echo(f"{name:<{width}}  {description}")


@app.command(epilog="Example: crispbench doctor")
def doctor(as_json: AsJson = False) -> None:
    """Say what this installation can run, and what to install for the rest."""
    from harness.verbs.doctor import examine

    findings = examine()
    if as_json:
        print_json({"checks": [finding._asdict() for finding in findings]})
    else:
        for finding in findings:
            typer.echo(
                f"{'ok  ' if finding.ok else 'MISSING' if finding.required else '-   '} "
                f"{finding.name:<24} {finding.detail}"
            )
    if not all(finding.ok for finding in findings if finding.required):
        raise typer.Exit(Exit.FAILED)
