"""The content of a run's report, built once from its rows for every format."""

import re
from collections.abc import Iterator, Sequence

from harness.published import Reproduction
from harness.records import Row
from harness.report import notation
from harness.report.content import Audited, Origin, OriginLine, Report, Scorer, Section, Term
from harness.run.page import odd_texts, precision, reproduction
from harness.run.page.ablation import ablations
from harness.run.page.table import by_benchmark, is_measured, tabulate
from harness.run.page.verdict import sentence

DEMO = "A demonstration model was scored: these numbers show that the pipeline works, not how well a model ranks."


# How the tables are read, in the words that every format uses.
LEGEND = (
    Term(
        "nDCG@10",
        "rates the first ten documents of a ranking by their judged relevance, earlier places counting more; "
        "1 is the best order that the judgements allow, and a query without an answer counts 0",
    ),
    Term("[lo, hi]", "95% interval: how far the mean would move had other queries of the same kind been drawn"),
    Term(
        "Δ",
        "paired difference to the baseline, the first engine of the table, on the same queries; "
        "where the interval holds zero, the two cannot be told apart",
    ),
    Term("oracle", "nDCG@10 of the candidates in their best order: no reranker of them can score higher"),
    Term("R@k", "share of a query's relevant documents that are among its k candidates: no reranker finds the others"),
    Term("random order", "nDCG@10 to expect of the candidates in random order: an engine near it knows nothing"),
    Term("p50, p90", "time for all candidates of one query that half, or nine tenths, of the queries stay within"),
    Term(
        "other top 10, drift",
        "queries whose first ten documents are others than those of the same model in the reference precision, and by "
        "how much the score of a pair moved: nDCG@10 sees neither where both orders are equally good",
    ),
    Term(
        "special-token text, cut, empty, duplicate, shared",
        "documents that hold a string which the model's tokenizer takes for a special token (queries with one count "
        "too), that were cut to fit the prompt, that have no text, that have the text of another candidate of the "
        "query, or of any query; each counts once per query it is a candidate of",
    ),
    Term(
        "reproduced, differs",
        "whether a figure lies within the tolerance of the published one, above or below it; unspecified: how it was "
        "measured was not published, so it neither passes nor fails; incomplete: a part of it has no complete run",
    ),
    Term("bold", "the best figure among the complete runs"),
    Term(notation.MISSING, "not known: not measured, too few samples or an invalid run; never zero"),
)


def build(rows: Sequence[Row], title: str, reproductions: Sequence[Reproduction] = ()) -> Report:
    """The content of a report; where numbers of others stand beside ours, those come first."""
    scorers = {row.engine: _scorer(row) for row in reversed(rows)}
    engines = dict.fromkeys(row.engine for row in rows)
    remarks = (*(() if rows else ("There is no result yet.",)), *((DEMO,) if _has_demo(rows) else ()))
    return Report(
        title=notation.plain(title),
        sections=(*_published(reproductions), *_sections(rows)),
        scorers=tuple(scorers[engine] for engine in engines),
        legend=LEGEND,
        remarks=remarks,
    )


def _scorer(row: Row) -> Scorer:
    return Scorer(
        *(notation.plain(text) or notation.MISSING for text in (row.engine, row.kind, row.model, row.machine))
    )


def _has_demo(rows: Sequence[Row]) -> bool:
    return any("demo" in row.model.lower() for row in rows)


def _sections(rows: Sequence[Row]) -> Iterator[Section]:
    taken: set[str] = set()
    for name, group in by_benchmark(rows).items():
        anchor = _anchor(name, taken)
        taken.add(anchor)
        notes = (*(Term(*found) for found in ablations(group)), *_shared_notes(group))
        origins, audited = tuple(_origins(group)), _audited(group)
        yield Section(anchor, tabulate(group), sentence(group), origins, notes, audit=audited)
        for number, found in enumerate(precision.groups(group)):
            yield Section(f"precision-{number}-{anchor}", precision.tabulate(found), precision.sentence(found), ())


def _audited(rows: Sequence[Row]) -> Audited | None:
    audits = [row for row in rows if row.audit]
    if not audits:
        return None
    notes = tuple(Term(*found) for found in odd_texts.reasons(audits))
    return Audited(odd_texts.tabulate(audits), odd_texts.sentence(audits), notes, odd_texts.found(audits))


def _published(reproductions: Sequence[Reproduction]) -> Iterator[Section]:
    for group in reproduction.by_table(reproductions):
        published = group[0].table
        yield Section(
            anchor=f"published-{published.name}",
            table=reproduction.tabulate(group),
            sentence=reproduction.sentence(group),
            origins=(OriginLine(reproduction.source(published), reproduction.brief(published)),),
            traces=reproduction.traces(group),
        )


def _anchor(name: str, taken: set[str]) -> str:
    stem = "benchmark-" + (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed")
    anchor, number = stem, 1
    while anchor in taken:
        number += 1
        anchor = f"{stem}-{number}"
    return anchor


def _origins(rows: Sequence[Row]) -> Iterator[Origin]:
    engines: dict[Origin, list[str]] = {}
    for row in [row for row in rows if row.candidates] or rows:  # an engine that never started saw none
        engines.setdefault(_origin(row), []).append(notation.plain(row.engine))
    for origin, names in engines.items():
        yield origin._replace(engines=", ".join(names)) if len(engines) > 1 else origin


def _origin(row: Row) -> Origin:
    found = {name: row.candidates.get(name) for name in ("source", "k", "sha256")}
    source, k, sha256 = (notation.MISSING if value is None else notation.plain(str(value)) for value in found.values())
    recall, oracle, random = (notation.decimal(row.candidates.get(name)) for name in ("recall", "oracle", "random"))
    revision = notation.plain(row.revision) or notation.MISSING
    return Origin(f"{row.queries:,}", source, k, recall, oracle, random, sha256, revision)


def _shared_notes(rows: Sequence[Row]) -> Iterator[Term]:
    """What is said of several engines is said once."""
    engines: dict[str, list[str]] = {}
    for row in rows:
        for line in _notes(row):
            engines.setdefault(line, []).append(notation.plain(row.engine))
    for line, names in engines.items():
        yield Term(", ".join(names), line)


def _notes(row: Row) -> Iterator[str]:
    yield from map(notation.plain, row.notes)
    if not is_measured(row):
        return
    for name, percentile in (("p50", row.p50), ("p90", row.p90)):
        if percentile.value is None:
            yield f"{name} is shown from {percentile.needed:,} samples on; {percentile.samples:,} were taken"
