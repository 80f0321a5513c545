"""Notes on measurements. A note that applies to several measurements appears once."""

from collections.abc import Iterator, Sequence

from harness.latency.summary import Summary
from harness.report.content import Note


def label(summary: Summary) -> str:
    """The name of a measurement in a note."""
    return f"{summary.engine}, {summary.scenario}"


def shared_notes(noted: Sequence[tuple[Summary, Sequence[str]]]) -> Iterator[Note]:
    """The notes of one table, labelled with the measurements to which they apply."""
    holders: dict[str, list[Summary]] = {}
    for summary, lines in noted:
        for line in lines:
            holders.setdefault(line, []).append(summary)
    everyone = [summary for summary, _ in noted]
    for line, summaries in holders.items():
        yield Note(_names(summaries, everyone), line)


def _names(summaries: Sequence[Summary], everyone: Sequence[Summary]) -> str:
    """`all`, or the names of engines for all of their scenarios, and of single measurements."""
    if len(summaries) == len(everyone) > 1:
        return "all"
    names: list[str] = []
    for engine in dict.fromkeys(summary.engine for summary in summaries):
        group = [summary for summary in summaries if summary.engine == engine]
        whole = len(group) > 1 and len(group) == sum(summary.engine == engine for summary in everyone)
        names += [engine] if whole else map(label, group)
    return "; ".join(names)
