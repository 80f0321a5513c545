"""The content of a run's report, built from its rows once for all formats."""

import re
from collections.abc import Iterator, Sequence

from harness.published import Reproduction
from harness.records import Row
from harness.report import notation
from harness.report.content import EngineLine, Note, Report, Section, SourceLine, Term
from harness.run.page import odd_texts, precision, reproduction
from harness.run.page.ablation import ablations
from harness.run.page.sources import sources
from harness.run.page.table import by_benchmark, is_measured, tabulate
from harness.run.page.verdict import sentence

NAME = "report"  # stem of the Markdown file
DEMO = "A demonstration model was scored: these numbers show that the pipeline works, not how well a model ranks."
HINT = "Best in bold; [95% interval]; '-' means unknown, never zero. index.html explains every column."

# The legend of the tables, in every format.
LEGEND = (
    Term(
        "nDCG@10",
        "rates the first ten documents of a ranking by their judged relevance; earlier ranks count more. "
        "1 is the best order that the judgements allow, and a query without scores counts 0",
    ),
    Term("[lo, hi]", "95% interval: how far the mean could move if different queries of the same kind had been drawn"),
    Term(
        "Δ",
        "paired difference to the baseline, the first engine of the table, on the same queries; "
        "if the interval includes zero, the two cannot be told apart",
    ),
    Term("oracle", "nDCG@10 of the candidates in their best order, which no reranker can exceed"),
    Term("R@k", "share of a query's relevant documents among its k candidates; a reranker cannot find the rest"),
    Term("random order", "expected nDCG@10 of the candidates in random order; an engine near it ranks by chance"),
    Term("p50, p90", "time within which 50% and 90% of the queries have all their candidates scored"),
    Term(
        "other top 10, drift",
        "queries whose first ten documents differ from those of the same model in the reference precision, and how far "
        "the score of a pair moved; nDCG@10 shows neither if both orders are equally good",
    ),
    Term(
        "special-token text, cut, empty, duplicate, shared",
        "documents that contain a string which the model's tokenizer takes for a special token (such queries count "
        "too), documents that were cut to fit the prompt, that have no text, that have the text of another candidate "
        "of the query, and that have the text of a candidate of any query; a document counts once per query",
    ),
    Term(
        "reproduced, differs",
        "whether a figure lies within the tolerance of the published one. unspecified: it was not published how the "
        "figure was measured, so it neither passes nor fails. incomplete: a part of it has no complete run",
    ),
    Term("bold", "the best figure among the complete runs"),
    Term(notation.MISSING, "unknown: not measured, too few samples or an invalid run; never zero"),
)


def build(
    rows: Sequence[Row], title: str, reproductions: Sequence[Reproduction] = (), unmatched: Sequence[str] = ()
) -> Report:
    """The report of a run. Tables of published figures come first; `unmatched` says which tables had none to show."""
    engines = {row.engine: _engine(row) for row in reversed(rows)}
    warnings = (
        *(() if rows else ("There is no result yet.",)),
        *((DEMO,) if _has_demo(rows) else ()),
        *unmatched,
        *dict.fromkeys(f"{row.benchmark}: {alarm}" for row in rows for alarm in row.alarms),
    )
    return Report(
        title=title,
        sections=(*_published(reproductions), *_sections(rows)),
        warnings=warnings,
        engines=tuple(engines[name] for name in dict.fromkeys(row.engine for row in rows)),
        legend=LEGEND if rows or reproductions else (),
        hint=HINT if rows or reproductions else "",
    )


def _engine(row: Row) -> EngineLine:
    facts = (row.engine, row.kind, row.model, row.machine)
    return EngineLine(*(fact.strip() or notation.MISSING for fact in facts))


def _has_demo(rows: Sequence[Row]) -> bool:
    return any(row.description.demonstration for row in rows)


def _sections(rows: Sequence[Row]) -> Iterator[Section]:
    taken: set[str] = set()
    for name, group in by_benchmark(rows).items():
        anchor = _anchor(name, taken)
        taken.add(anchor)
        yield Section(
            anchor,
            name,
            tabulate(group),
            sentence(group),
            sources=tuple(sources(group)),
            notes=(*ablations(group), *_notes(group)),
            details=tuple(odd_texts.details(f"odd-texts-{anchor}", group)),
        )
        for number, same_model in enumerate(precision.groups(group)):
            yield precision.section(f"precision-{number}-{anchor}", same_model)


def _published(reproductions: Sequence[Reproduction]) -> Iterator[Section]:
    for group in reproduction.by_table(reproductions):
        published = group[0].table
        yield Section(
            anchor=f"published-{published.name}",
            title=f"Published and measured: {published.name}",
            table=reproduction.tabulate(group),
            sentence=reproduction.sentence(group),
            sources=(SourceLine(reproduction.source(published), reproduction.brief(published)),),
            notes=tuple(reproduction.moved_by_ties(group)),
            footnotes=reproduction.footnotes(group),
        )


def _anchor(name: str, taken: set[str]) -> str:
    stem = "benchmark-" + (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed")
    anchor, number = stem, 1
    while anchor in taken:
        number += 1
        anchor = f"{stem}-{number}"
    return anchor


def _notes(rows: Sequence[Row]) -> Iterator[Note]:
    """The notes of one benchmark; a note that holds for several engines appears once."""
    engines: dict[str, list[str]] = {}
    for row in rows:
        for line in _notes_of_row(row):
            engines.setdefault(line, []).append(row.engine)
    for line, names in engines.items():
        yield Note(", ".join(names), line)


def _notes_of_row(row: Row) -> Iterator[str]:
    yield from row.notes
    if not is_measured(row):
        return
    for name, percentile in (("p50", row.p50), ("p90", row.p90)):
        if percentile.value is None:
            yield f"{name} needs {percentile.needed:,} samples; {percentile.samples:,} were taken"
