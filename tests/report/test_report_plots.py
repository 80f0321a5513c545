import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.records import Measurement, Percentile, Row
from harness.report.plots import PALETTE, style
from harness.run.page import plots
from tests.report.pages import write

MakeRow = Callable[..., Row]


def test_a_run_report_has_exactly_its_files_and_the_same_bytes_every_time(rows: list[Row], tmp_path: Path) -> None:
    paths = write(rows, tmp_path / "report", "title")
    names = ["index.html", "report.md", "table.tex"]
    names += [f"{plot}.{kind}" for plot in ("quality", "latency", "tradeoff") for kind in ("svg", "png")]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(names)
    again = write(rows, tmp_path / "again", "title")
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]


def test_a_failed_write_keeps_the_old_report(rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.md").write_text("old")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(path: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(plots, "draw", lambda rows: [])
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(rows, tmp_path, "new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_engine_has_one_colour_in_every_plot(rows: list[Row]) -> None:
    drawn = plots.draw(rows)
    for plot in drawn:
        assert PALETTE[0].encode() in plot.svg  # bm25
        assert PALETTE[1].encode() in plot.svg  # large
        assert PALETTE[3].encode() not in plot.svg  # broken is invalid and has no mark


def test_an_unknown_percentile_is_not_drawn(row: MakeRow) -> None:
    assert [plot.name for plot in plots.draw([row(p50=Percentile(None, 4, 20))])] == ["quality", "latency"]


def test_invalid_rows_alone_have_no_plot(row: MakeRow) -> None:
    assert plots.draw([row(verdict="invalid")]) == []


def test_hostile_names_are_drawn_as_outlines(row: MakeRow) -> None:
    names = ["$x_1^{$", "<script>&", "--> a", "汉字 \N{GRINNING FACE}", "x" * 300]
    for plot in plots.draw([row(name, benchmark=names[0]) for name in names]):
        ElementTree.fromstring(plot.svg)  # well-formed
        assert b"<text" not in plot.svg and b"<!--" not in plot.svg and b"script>" not in plot.svg


def test_engines_with_the_same_colour_have_different_marks(row: MakeRow) -> None:
    crowd = {f"engine-{number}": row(f"engine-{number}") for number in range(len(PALETTE) + 1)}
    styles = style(list(crowd))
    assert len(set(styles.values())) == len(crowd)
    assert styles["engine-0"].colour == styles[f"engine-{len(PALETTE)}"].colour


def test_a_row_of_one_query_without_an_oracle_can_be_drawn(row: MakeRow) -> None:
    lone = row(measures={"nDCG@10": Measurement(0.5, None, None)}, candidates={}, service_s=(0.5,))
    assert len(plots.draw([lone])) == 3
