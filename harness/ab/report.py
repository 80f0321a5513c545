"""The report of an A/B run from its ab.json: a table for a CI log, a Markdown page, a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.ab.records import LaunchPlan
from harness.figures.shifts import fewest_launch_pairs
from harness.report import notation
from harness.report.markdown import escape

Document = Mapping[str, Any]
FILES = ("ab.md", "ratios.svg", "ratios.png")
TITLES = {"pass": "PASS", "regression": "REGRESSION", "inconclusive": "INCONCLUSIVE"}


def lines(document: Document) -> list[str]:
    """The terminal's text: what was compared, one line per metric, the verdict, what to know about it."""
    found = [heading(document), ""]
    for title, entries in _sets(document):
        found += [*([title] if title else []), *_aligned(_table(entries)), ""]
    if document["canary"]:
        found.append(f"A against A: {floor(document['metrics'])}")
    return [*found, conclusion(document), *(f"note: {note}" for note in document["notes"])]


def heading(document: Document) -> str:
    arms, plan = document["arms"], LaunchPlan(**document["plan"])
    return (
        f"A {arms['A']['engine']}  B {arms['B']['engine']}  on {document['benchmark']['name']}: "
        f"launch pairs {plan.launch_pairs}, rounds {plan.rounds}, queries per round {plan.queries}"
    )


def conclusion(document: Document) -> str:
    """The verdict in one sentence."""
    first, second = document["metrics"], document["confirmation"]
    verdict = TITLES[document["outcome"]]
    if document["outcome"] == "regression":
        names = [name for name, entry in second.items() if entry["outcome"] == "regression"]
        return f"{verdict}: B is slower than the margin allows ({', '.join(names)}), in both sets of launches"
    if second is not None:
        return f"{verdict}: the first set of launches showed a regression ({', '.join(second)}), the second did not"
    measured = [name for name, entry in first.items() if entry["outcome"] is not None]
    if document["outcome"] == "pass":
        return f"{verdict}: B is not slower than the margins allow ({', '.join(measured)})"
    return f"{verdict}: {', '.join(name for name in measured if first[name]['outcome'] != 'pass')} not decided"


def floor(metrics: Document) -> str:
    """`p50 ratio 1.002 [0.99, 1.01], ...`, of the metrics that were measured."""
    return ", ".join(
        f"{name} ratio {entry['slowdown']:.3f} [{_ratio(entry['lo'])}, {_ratio(entry['hi'])}]"
        for name, entry in metrics.items()
        if entry["slowdown"] is not None
    )


def notes(document: Document) -> list[str]:
    """What a reader has to know about the figures."""
    return [*_power_notes(document), *_machine_notes(document), *_noise_notes(document)]


def markdown(document: Document) -> str:
    """ab.md."""
    arms = document["arms"]
    parts = [f"# {document['name']}: A {arms['A']['engine']}, B {arms['B']['engine']}", f"**{conclusion(document)}.**"]
    for title, entries in _sets(document):
        header, *body = _table(entries)
        rows = [header, ["---"] * len(header), *body]
        parts += [*([f"## {title}"] if title else []), "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    parts.append("![Slowdown of every launch pair](ratios.svg)")
    if document["canary"]:
        parts.append(f"A against A: {floor(document['metrics'])}.")
    known = [*document["notes"], f"{heading(document)}."]
    for arm in ("A", "B"):
        record, side = document["records"][arm], document["arms"][arm]
        facts = {"kind": side["kind"], **side["options"], **record["description"], **record["machine"]}
        known.append(f"{arm} {side['engine']}: {', '.join(f'{name} {value}' for name, value in facts.items())}")
    return "\n\n".join([*parts, "\n".join(f"- {escape(notation.plain(note))}" for note in known)]) + "\n"


def write(document: Document, folder: Path) -> list[Path]:
    """ab.md and the plot."""
    from harness.ab import plot

    drawn = plot.draw(document)
    paths = [folder / name for name in FILES]
    for path, data in zip(paths, (markdown(document).encode(), drawn.svg, drawn.png), strict=True):
        path.write_bytes(data)
    return paths


def _sets(document: Document) -> list[tuple[str, Document]]:
    if document["confirmation"] is None:
        return [("", document["metrics"])]
    return [("First set of launches", document["metrics"]), ("Second set, to confirm", document["confirmation"])]


def _table(entries: Document) -> list[list[str]]:
    rows = [["metric", "B slower by", "interval", "margin", "p (Holm)", "verdict"]]
    for name, entry in entries.items():
        known = entry["slowdown"] is not None
        p_holm = entry["p_holm"]
        rows.append(
            [
                name,
                _change(entry["slowdown"]),
                f"[{_change(entry['lo'])}, {_change(entry['hi'])}]" if known else "-",
                f"{entry['margin']:.1%}",
                "-" if p_holm is None else f"{p_holm:.4f}",
                " - ".join(filter(None, [entry["outcome"] or "not measured", entry["reason"]])),
            ]
        )
    return rows


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _change(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio - 1:+.1%}"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.3f}"


def _power_notes(document: Document) -> list[str]:
    measured = [entry for entry in document["metrics"].values() if entry["outcome"] is not None]
    launch_pairs, fewest = document["plan"]["launch_pairs"], fewest_launch_pairs(len(measured))
    level = next((entry["level"] for entry in measured if entry["level"] is not None), None)
    found = [] if level is None else [f"each end of an interval holds with {level:.1%} confidence"]
    if launch_pairs < fewest:
        found.append(
            f"{launch_pairs} launch pairs cannot show a regression on one of {len(measured)} metrics: "
            f"at least {fewest} are needed"
        )
    return found


def _machine_notes(document: Document) -> list[str]:
    marked, launches = document["marked"], document["launches"]
    if not marked:
        return []
    first = marked[0]
    place = f"set {first['set']}, launch pair {first['launch_pair']}, {first['arm']}"
    return [f"{len(marked)} of {launches} launches are marked, such as {place}: {'; '.join(first['marks'])}"]


def _noise_notes(document: Document) -> list[str]:
    known = document["noise_floor"]
    if document["canary"]:
        return []
    if known is None:
        return ["no noise floor is known: run the same with --canary"]
    arm, machine = document["arms"]["A"], document["records"]["A"]["machine"]
    if (known["engine"], known["options"], known["machine"]) != (arm["engine"], arm["options"], machine):
        return [f"the noise floor beside this run is of engine {known['engine']!r} or of another machine: not used"]
    reached = {name: share for name, share in known["metrics"].items() if share is not None}
    found = [f"noise floor, A against A: {', '.join(f'{name} {share:.1%}' for name, share in reached.items())}"]
    loud = [name for name, share in reached.items() if share > document["margins"].get(name, 1)]
    if loud:
        found.append(f"the noise floor of {', '.join(loud)} is above its margin: a verdict there needs more launches")
    return found
