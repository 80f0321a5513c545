"""Verbs that judge recorded folders against a baseline, and keep baselines."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import AsJson, app, finish, print_json, say, show

baseline_verbs = typer.Typer(
    help="Keep recorded folders as named baselines, with their history.",
    epilog="Example: crispbench baseline save main results/ci-1/demo-bf16 results/ci-2/demo-bf16",
    no_args_is_help=True,
)
app.add_typer(baseline_verbs, name="baseline")

# The default is harness.check.baselines.STORE, which is not imported here to keep --help fast.
StoreDir = Annotated[Path, typer.Option("--store", help="Folder of the baselines.")]
STORE = Path("results/baselines")


@app.command(epilog="Example: crispbench check main results/ci/demo-bf16 --margin p50=0.05 --out results/ci/check")
def check(
    baseline: Annotated[str, typer.Argument(metavar="BASELINE", help="NAME or NAME@ENTRY of the store, or a folder.")],
    current: Annotated[list[str], typer.Argument(metavar="CURRENT...", help="RUN/ENGINE folders, each one launch.")],
    margin: Annotated[
        list[str] | None,
        typer.Option(
            help="Accepted loss, such as nDCG@10=0.01 or p50=0.05; =none leaves it out, latency=none all times."
        ),
    ] = None,
    allow: Annotated[list[str] | None, typer.Option(help="Accepted difference: template or machine.")] = None,
    last: Annotated[int, typer.Option(min=1, help="Number of latest baseline entries to pool.")] = 1,
    store: StoreDir = STORE,
    out: Annotated[Path | None, typer.Option(help="Folder to write a report and check.json to; default none.")] = None,
    as_json: AsJson = False,
) -> None:
    """Is it worse than recorded? Exit 0 pass, 1 regression, 3 inconclusive, 4 not comparable, 5 invalid."""
    from harness.check import verb

    options = verb.read_options(margin or (), allow or (), store=store, last=last)
    result = verb.check(baseline, current, options, out=out)
    finish(result, result.report, as_json=as_json)


@baseline_verbs.command(epilog="Example: crispbench baseline save main results/ci-1/demo-bf16 results/ci-2/demo-bf16")
def save(
    name: Annotated[str, typer.Argument(help="Name of the baseline, such as main.")],
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="RUN/ENGINE folders, each one launch.")],
    store: StoreDir = STORE,
    as_json: AsJson = False,
) -> None:
    """Append a copy of recorded folders to a baseline's history. Exit 5 if one is incomplete or invalid."""
    from harness.check import baselines

    entry = baselines.save(store, name, folders)
    if as_json:
        print_json({"name": entry.name, "entry": entry.number, "folder": str(entry.folder), **entry.document()})
    else:
        show([f"{entry.name}@{entry.number}: {entry.launches} launches in {entry.folder}"])


@baseline_verbs.command("list", epilog="Example: crispbench baseline list")
def list_(store: StoreDir = STORE, as_json: AsJson = False) -> None:
    """List the baselines of a store."""
    from harness.check import baselines

    newest = {name: baselines.entries(store, name)[-1] for name in baselines.names(store)}
    if as_json:
        documents = {name: {"entries": entry.number, **entry.document()} for name, entry in newest.items()}
        print_json({"baselines": documents})
        return
    for name, entry in newest.items():
        saved, commit = entry.saved[:16].replace("T", " "), (entry.commit or "unknown")[:12]
        show([f"{name}  entries: {entry.number}, last saved {saved} UTC, commit {commit}"])
    if not newest:
        say(f"{store} holds no baseline; create one with `crispbench baseline save NAME FOLDER`")


@baseline_verbs.command(epilog="Example: crispbench baseline history main --out results/trend")
def history(
    name: Annotated[str, typer.Argument(help="Name of the baseline.")],
    store: StoreDir = STORE,
    out: Annotated[Path | None, typer.Option(help="Folder to write a report and trend.svg to; default none.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a baseline's figures over time, and the entries at which their level changed."""
    from harness.check import baselines, trend
    from harness.check import history as histories

    result = histories.read(name, baselines.history(store, name))
    page = None if out is None else trend.write(result, out)[0]
    finish(result, lambda: trend.build(result), as_json=as_json, page=page)
