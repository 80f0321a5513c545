"""One engine under two templates: a paired difference, only where nothing but the template differs."""

from collections.abc import Callable
from typing import Any

import pytest

from harness.records import Row
from harness.run.page import content
from harness.run.page.ablation import ablations

MakeRow = Callable[..., Row]


def under(template: str, precision: str = "bf16", **options: str) -> dict[str, Any]:
    """The fields of a row whose engine differs from its siblings only in the template."""
    description = {"model": "m", "precision": precision, "template": template, "template_sha256": f"hash of {template}"}
    return {"description": description, "options": {"model": "m", "template": template, **options}}


def test_two_templates_of_one_engine_give_a_paired_difference(row: MakeRow) -> None:
    rows = [
        row("bm25", description={"model": "bm25"}),
        row("card", (0.5, 0.25, 0.5, 0.25), **under("mxbai-v2-seq")),
        row("reference", (0.75, 0.5, 0.75, 0.5), **under("mxbai-v2")),
    ]
    sentence = "only the template differs: mxbai-v2 minus mxbai-v2-seq is +0.2500 [+0.2500, +0.2500] nDCG@10 over 4"
    assert [(note.about, note.text) for note in ablations(rows)] == [("card, reference", f"{sentence} queries")]
    (section,) = content.build(rows, "").sections
    assert section.notes[0] == ("card, reference", f"{sentence} queries")


@pytest.mark.parametrize(
    "changes",
    [
        under("mxbai-v2", precision="fp32"),
        under("mxbai-v2", max_tokens="512"),
        under("mxbai-v2-seq"),
        {"description": {"model": "m"}},
        {**under("mxbai-v2"), "kind": "remote"},
        {**under("mxbai-v2"), "verdict": "incomplete"},
        {**under("mxbai-v2"), "candidates": {"sha256": "cd" * 32}},
    ],
)
def test_engines_that_differ_in_anything_else_are_not_an_ablation(changes: dict[str, Any], row: MakeRow) -> None:
    assert list(ablations([row("card", **under("mxbai-v2-seq")), row("other", **changes)])) == []


def test_rows_of_a_run_hold_the_options_of_the_engine(
    config: Callable[..., Any], crispbench: Callable[..., Any], animals: Any, tmp_path: Any
) -> None:
    from harness.run.rows import read

    path = config(engines={"fake": {"kind": "fake", "seed": 3}}, benchmarks=[{"source": "beir", "path": str(animals)}])
    assert crispbench("run", path, "--out", tmp_path / "out").code == 0
    (row,) = read(tmp_path / "out")
    assert row.options["seed"] == 3 and row.folder == "out/fake"
