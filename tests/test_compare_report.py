"""One comparison in every format: the same figures, escaped text, links that resolve."""

import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from harness.compare.comparison import (
    BenchmarkFidelity,
    ComparedEngine,
    Comparison,
    Comparisons,
    Duel,
    Effect,
    Field,
    Loss,
    Matrix,
    QualityVerdict,
    Standing,
)
from harness.compare.page import content, forest
from harness.figures.fidelity import Move, Noise, fidelity
from harness.figures.statistics import Contrast, PValue
from harness.outcome import Outcome
from harness.records import Score
from harness.report import latex, press

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a|b](javascript:alert(1))",
    r"$x_1$ 100% \input{x} ~^{} # &",
    "{{ 7 * 7 }} {% raw %}",
    "line\nbreak \x1b[31mred \u202etxet",
)
FILES = ["index.html", "compare.md", "table.tex", "forest.svg", "forest.png", "compare.json"]


def made(name: str = "new", *, matrices: bool = True) -> Comparisons:
    """A comparison in which every foreign text is the name."""
    near, far = ({"q": [Score("a", 1, 2.0), Score("b", 2, value)]} for value in (1.0, 1.5))
    repeated, changed = (fidelity({"q": {"a": 1}}, near, scores, same_scale=True) for scores in (near, far))
    effect = Effect(
        name=name,
        benchmarks=(name,),
        queries=1234,
        reference=0.5,
        candidate=0.4877,
        difference=Contrast(-0.0123, -0.02, -0.0061, 0.003, 0.0001),
        unseen_loss=0.003,
        p=PValue(0.0004, False),
        wins=10,
        ties=1200,
        losses=24,
        standardised=-0.246,
        outcome=Outcome.REGRESSION,
        needed=None,
        note="a note",
        p_holm=0.0008,
    )
    mean = replace(effect, name="mean of 2", benchmarks=("a", "b"), p_holm=None, standardised=None)
    move = Move(name, 1, 1, 12, 2.5, -0.000123)
    moved = (move, move._replace(grade=None))
    reference, candidate = (ComparedEngine(text, "fake", text, text, text) for text in (f"{name}-ref", name))
    comparison = Comparison(
        reference=reference,
        candidate=candidate,
        verdict=QualityVerdict(Outcome.REGRESSION, 0.005, (name,), (name,)),
        effects=(mean, effect),
        fidelity=(BenchmarkFidelity(name, changed, repeated, Noise(0.25, 0.0, 0.1, 0.3)),),
        losses=(Loss(name, name, None, 1.0, 0.5, moved), Loss(name, "q2", name, 0.5, 0.4, ())),
        differing=(Field("options.precision", "bf16", name), Field("description.model", None, name)),
        left_out=(f"{name} is only in x",),
        notes=(name,),
    )
    standings = (Standing(f"{name}-ref", 0.5, "a"), Standing(name, 0.4877, "b"))
    duels = (Duel(f"{name}-ref", name, 0.0123, 0.0004, 0.0008),)
    return Comparisons((comparison,), (Matrix(name, standings, duels),) if matrices else ())


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for key, value in attrs if key in ("href", "src", "xlink:href", "action")]
        self.ids += [value or "" for key, value in attrs if key == "id"]
        assert not any(key.startswith("on") for key, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def page(text: str) -> Page:
    parsed = Page()
    parsed.feed(text)
    return parsed


def printed(comparisons: Comparisons) -> str:
    stream = io.StringIO()
    press.show(content.build(comparisons, verdict_last=True), Console(file=stream, width=300, force_terminal=False))
    return stream.getvalue()


def test_a_report_has_exactly_its_files_and_the_same_bytes_every_time(tmp_path: Path) -> None:
    paths = content.write(made(), tmp_path / "out")
    assert [path.name for path in paths] == FILES
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)
    assert [path.read_bytes() for path in paths] == [
        path.read_bytes() for path in content.write(made(), tmp_path / "b")
    ]
    assert json.loads(paths[-1].read_text(encoding="utf-8")) == made().document()


def test_every_format_prints_the_same_figures(tmp_path: Path) -> None:
    content.write(made(), tmp_path)
    cells = ["1,234", "−0.0123*", "−0.0200", "<0.001", "10 / 1,200 / 24", "−0.25", "regression", "0.4877"]
    html = page((tmp_path / "index.html").read_text(encoding="utf-8")).text
    rendered = MarkdownIt("commonmark").enable("table").render((tmp_path / "compare.md").read_text(encoding="utf-8"))
    for cell in cells:
        assert cell in html, cell
        assert cell in page(rendered).text, cell
        assert cell in printed(made()), cell
        assert latex.escape(cell) in (tmp_path / "table.tex").read_text(encoding="utf-8"), cell


@pytest.mark.parametrize(
    ("lo", "hi", "outcome", "shown"),
    [
        (-0.00498, 0.0012, Outcome.PASS, "[−0.00498, +0.00120]"),
        (-0.02, -0.00501, Outcome.REGRESSION, "[−0.02000, −0.00501]"),
        (-0.005, 0.0012, Outcome.INCONCLUSIVE, "[−0.0050, +0.0012]"),
        (-0.0049999996, 0.01, Outcome.PASS, "[−0.0049999996, +0.0100000000]"),
        (-0.02, -0.00001, Outcome.INCONCLUSIVE, "[−0.02000, −0.00001]"),
    ],
)
def test_a_printed_bound_lies_on_the_side_of_the_margin_that_the_verdict_names(
    lo: float, hi: float, outcome: Outcome, shown: str, tmp_path: Path
) -> None:
    (comparison,) = made(matrices=False).comparisons
    difference = Contrast(-0.001, lo, hi, 0.003, 0.2)
    effect = replace(comparison.effects[1], difference=difference, outcome=outcome)
    verdict = replace(comparison.verdict, outcome=outcome)
    comparisons = Comparisons((replace(comparison, verdict=verdict, effects=(effect,)),))
    content.write(comparisons, tmp_path)
    assert shown in printed(comparisons)
    assert shown in (tmp_path / "compare.md").read_text(encoding="utf-8")
    assert shown in page((tmp_path / "index.html").read_text(encoding="utf-8")).text
    assert shown[2:].partition(",")[0] in (tmp_path / "table.tex").read_text(encoding="utf-8")


def test_a_regression_that_holms_adjustment_takes_back_is_explained() -> None:
    (comparison,) = made(matrices=False).comparisons
    undecided = replace(comparison.verdict, outcome=Outcome.INCONCLUSIVE, gates=("mean of 2",), regressions=())
    unconfirmed = replace(comparison, verdict=undecided)
    assert "at the margin of 0.005 (beyond it, but not after Holm's adjustment)" in content.sentence(unconfirmed)
    assert content.ALONE in printed(Comparisons((unconfirmed,)))


def test_an_average_has_neither_a_mark_nor_a_standardised_difference() -> None:
    table = content.build(made()).sections[0].table
    assert table is not None
    lines = table.cells
    assert [line[4].value for line in lines] == ["−0.0123", "−0.0123*"]
    assert [line[8].value for line in lines] == ["-", "−0.25"]


def test_one_sentence_states_whether_the_drift_exceeds_the_noise_floor() -> None:
    sentence = next(section.sentence for section in content.build(made()).sections if section.anchor == "fidelity-1")
    assert sentence == (
        "On new the candidate's mean drift of 0.25 exceeds the noise of a repeated reference run, 0 "
        "(difference [+0.1, +0.3])."
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_foreign_text_is_escaped_in_every_format(name: str, tmp_path: Path) -> None:
    content.write(made(name), tmp_path)
    parsed = page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert not parsed.tags & {"script", "img", "iframe", "form", "input", "object"}
    assert all(link.startswith("#") for link in parsed.links)
    for format_page in (page(MarkdownIt("commonmark", {"html": True}).enable("table").render(
        (tmp_path / "compare.md").read_text(encoding="utf-8")
    )), parsed):  # fmt: skip
        assert not format_page.tags & {"script", "iframe"}
        assert not any(link.startswith("javascript") for link in format_page.links)
    ElementTree.parse(tmp_path / "forest.svg")
    assert "\x1b" not in printed(made(name)) and "\u202e" not in printed(made(name))


def test_every_link_of_the_page_resolves_to_a_unique_anchor(tmp_path: Path) -> None:
    content.write(made(), tmp_path)
    parsed = page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert len(parsed.ids) == len(set(parsed.ids))
    targets = {link.removeprefix("#") for link in parsed.links}
    assert {"losses-1", "effects-1", "matrix-1"} <= targets <= set(parsed.ids)
    assert {"loss-1-1", "loss-1-2"} <= set(parsed.ids)


def test_the_page_loads_no_other_file_and_supports_dark_mode(tmp_path: Path) -> None:
    content.write(made(), tmp_path)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text and "prefers-color-scheme: dark" in text
    assert not re.search(r"(src|href)=\"(https?:)?//", text)


def test_the_forest_draws_undecided_effects_differently() -> None:
    decided, (comparison, *_) = forest.draw(made()), made().comparisons
    undecided = {"outcome": Outcome.INCONCLUSIVE, "difference": Contrast(0.0, -0.01, 0.01, 0.005, 0.5)}
    unsure = replace(comparison, effects=tuple(replace(effect, **undecided) for effect in comparison.effects))
    assert decided.svg != forest.draw(Comparisons((unsure,))).svg
    assert decided.png.startswith(b"\x89PNG")


@pytest.mark.skipif(shutil.which("lualatex") is None, reason="no lualatex")
def test_the_latex_table_compiles(tmp_path: Path) -> None:
    content.write(made(HOSTILE[3]), tmp_path)
    (tmp_path / "main.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{table}\\end{document}", encoding="utf-8"
    )
    command = ["lualatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-2000:]
