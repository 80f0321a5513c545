"""Precisions of one model side by side: their cost in ranking and their gain in speed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.base import Description
from engines.fake import Fake, FakeOptions
from harness.records import Difference, Measurement, PrecisionShift, Row
from harness.run import rows
from harness.run.page import content, precision

MakeRow = Callable[..., Row]


class Model(Fake):
    """The fake engine, whose noise stands for a precision."""

    def __init__(self, options: FakeOptions) -> None:
        super().__init__(options)
        self._precision = {0.0: "fp32", 0.5: "int8"}[options.noise]

    def describe(self) -> Description:
        return Description(model="m", template_sha256="t", revision="r", weights_mb=7.5, precision=self._precision)


@pytest.fixture
def measured(
    config: Callable[..., Path],
    crispbench: Callable[..., Any],
    animals: Path,
    tmp_path: Path,
    register: Callable[..., None],
) -> dict[str, Row]:
    register("model", Model)
    engines = {
        "words": {"kind": "fake"},
        "full": {"kind": "model"},
        "again": {"kind": "model"},
        "small": {"kind": "model", "noise": 0.5},
    }
    path = config(engines=engines, benchmarks=[{"source": "beir", "path": str(animals), "name": "animals"}])
    answer = crispbench("run", path, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    return {row.engine: row for row in rows.read(tmp_path / "out")}


def test_a_row_holds_its_shift_from_the_same_model_in_another_precision(measured: dict[str, Row]) -> None:
    shift = measured["small"].shift
    assert shift is not None and shift.reference == "full"
    assert shift.difference.value == pytest.approx(
        measured["small"].measures["nDCG@10"].value - measured["full"].measures["nDCG@10"].value
    )
    assert 0 < shift.mean < shift.maximum
    assert shift.top10 == 0  # with fewer than ten documents none can leave the top 10
    assert [name for name, row in measured.items() if row.shift] == ["small"]  # `again` has the same precision


def test_the_table_of_precisions_follows_that_of_the_benchmark(measured: dict[str, Row]) -> None:
    sections = content.build(list(measured.values()), "").sections
    assert [section.title for section in sections] == ["animals", "animals: precision"]
    assert len({section.anchor for section in sections}) == 2
    table = sections[1].table
    assert table is not None
    assert [line[0].value for line in table.cells] == ["full", "again", "small"][::2]


def test_every_figure_of_a_precision_is_printed(row: MakeRow) -> None:
    description = {"precision": "fp32", "weights_mb": "15.0"}
    full = row("full", description=description, measures={"nDCG@10": Measurement(0.5, 0.4, 0.6)}, pairs_per_s=44.25)
    shift = PrecisionShift("full", Difference(-0.0125, -0.05, 0.025, 4), 4, 3, 0.0625, 0.5)
    small = row("small", description={"precision": "int8"}, measures=full.measures, pairs_per_s=60.0, shift=shift)
    (group,) = precision.groups([row("bm25"), full, small])
    assert precision.sentence(group) == ("The top 10 differs from full in 3 of 4 queries with small.")
    table = precision.section("p", group).table
    assert table is not None
    quality, difference = "0.5000 [0.4000, 0.6000]", "−0.0125 [−0.0500, +0.0250]"
    assert [[cell.text for cell in line] for line in table.cells] == [
        ["full", "fp32", "15.0 MB", quality, "reference", "", "", "", "44.2"],
        ["small", "int8", "-", quality, difference, "3 of 4", "0.0625", "0.5000", "60.0"],
    ]
