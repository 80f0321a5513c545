"""The report of a recorded run: measures, latencies, tables and plots, computed from the raw scores and samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import progress
from harness.files import write_json
from harness.outcome import Outcome
from harness.published import Reproduction
from harness.records import Row
from harness.report import press
from harness.report.content import Report
from harness.run.folder import RunIndex
from harness.run.page import content
from harness.run.rows import latency_document, measures_document, read, reproductions, unmatched_tables
from harness.store import FILE, Store

PUBLISHED = "published.json"


@dataclass(frozen=True)
class ReportResult:
    """The rows of a run folder, and the files that show them."""

    folder: Path
    name: str  # name of the run
    rows: Sequence[Row]
    files: Sequence[Path]  # index.html, report.md, table.tex, then the plots
    reproductions: Sequence[Reproduction]  # comparisons of published figures with those of the rows
    unmatched: Sequence[str]  # one line per published table without a benchmark of the run

    @property
    def outcome(self) -> Outcome:
        """PASS, because the report is written. The report itself shows which results are missing."""
        return Outcome.PASS

    @property
    def page(self) -> Path:
        return self.files[0]

    def report(self) -> Report:
        return content.build(self.rows, self.name, self.reproductions, self.unmatched)

    def document(self) -> dict[str, Any]:
        return {"run": str(self.folder), "files": [str(path) for path in self.files]}


def report(folder: Path) -> ReportResult:
    """Write the measures, latencies and report of a run folder again. Raises StoreError if it is not one."""
    from harness.run.page import plots  # draws with matplotlib

    with progress.waiting("writing the report"):
        name, rows = RunIndex.read(folder).name, read(folder)
        _write_figures(folder, rows)
        published = reproductions(folder, rows)
        if published:
            write_json(folder / PUBLISHED, {"format": 1, "figures": [figure.document() for figure in published]})
        else:  # an earlier config of this run may have had published tables
            (folder / PUBLISHED).unlink(missing_ok=True)
        unmatched = unmatched_tables(folder, rows)
        page = content.build(rows, name, published, unmatched)
        files = press.write(page, folder / "report", name=content.NAME, plots=plots.draw(rows))
        return ReportResult(folder, name, rows, files, published, unmatched)


def _write_figures(folder: Path, rows: Sequence[Row]) -> None:
    """Write manifest.json, measures.json and latency.json of every engine."""
    rows_by_engine: dict[str, list[Row]] = {}
    for row in rows:
        rows_by_engine.setdefault(row.engine, []).append(row)
    for engine, engine_rows in rows_by_engine.items():
        if (folder / engine / FILE).is_file():
            with Store.read(folder / engine) as store:
                manifest = store.manifest()
            write_json(folder / engine / "manifest.json", manifest.document() if manifest else {})
            write_json(folder / engine / "measures.json", measures_document(engine_rows))
            write_json(folder / engine / "latency.json", latency_document(engine_rows))
