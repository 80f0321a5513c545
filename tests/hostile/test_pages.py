"""No report executes text from queries, ids or names, in a browser, in Markdown, in LaTeX or on a terminal."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from engines.base import Description
from engines.fake import Fake
from harness.report import latex
from tests.hostile import chromium, texts

NO_BROWSER = "no chromium, chromium-browser or google-chrome on the path: apt-get install chromium"


class Hostile(Fake):
    """An engine whose description holds hostile texts; its errors repeat hostile queries."""

    def describe(self) -> Description:
        return Description(
            model=" ".join(texts.ALL),
            precision=texts.HTML[0],
            details={f"note {number}": text for number, text in enumerate(texts.ALL)},
        )


@pytest.fixture
def run(
    beir: Callable[..., Path],
    config: Callable[..., Path],
    register: Callable[..., None],
    crispbench: Callable[..., Any],
    tmp_path: Path,
) -> Path:
    """A folder with the reports of a run, a comparison, an A/B test and a latency measurement."""
    register("hostile", Hostile)
    ids = [" ".join(text.split()) for text in texts.ALL]
    documents = {f"{key} d{number}": f"animal {key}" for number, key in enumerate(ids)}
    queries = {key: f"animal {text}" for key, text in zip(ids, texts.ALL, strict=True)}
    folder = beir(
        "animals", documents, queries, {key: {doc_id: 1} for key, doc_id in zip(queries, documents, strict=False)}
    )
    written = config(
        engines={
            "fake": {"kind": "fake"},
            "odd": {"kind": "fake", "nan_on": " ".join(texts.HTML + texts.MARKDOWN)},  # ab.md repeats this option
            "hostile": {"kind": "hostile", "noise": 3.0},
            "failing": {"kind": "hostile", "fail_on": "<script>"},
        },
        benchmarks=[
            {"source": "beir", "path": str(folder), "name": " ".join(texts.HTML + texts.MARKDOWN)},
            {"source": "beir", "path": str(folder), "name": " ".join(texts.LATEX + texts.TERMINAL + texts.FORMULAS)},
        ],
        candidates={"k": 20},
        latency={"queries": 5, "warmup": 1, "min_duration_s": 0},
    )
    out = tmp_path / "run"
    assert crispbench("run", written, "--out", out).code == 5  # one engine fails at some queries
    compared = crispbench("compare", out / "fake", out / "hostile", "--config", written, "--out", out / "compared")
    assert compared.code in (1, 3), compared.err
    few = ("--max-pairs", 1, "--rounds", 1, "--queries", 2, "--warmup", 0)
    timed = crispbench("ab", written, "--engine", "fake", "--engine", "odd", *few, "--out", out / "ab")
    assert timed.code in (1, 3), timed.err
    measured = crispbench("latency", written, "--out", out, "--engine", "hostile")
    assert measured.code in (0, 5), measured.err
    return out


def pages(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Every report as a page for a browser; the renderer of Markdown lets HTML through."""
    shown = {}
    for path in sorted(folder.rglob("*")):
        name = f"/{path.relative_to(folder).as_posix()}"
        if path.suffix == ".html":
            shown[name] = ("text/html", path.read_bytes())
        elif path.suffix == ".svg":
            shown[name] = ("image/svg+xml", path.read_bytes())
        elif path.suffix == ".md":
            body = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(path.read_text())
            body = re.sub(r'<img src="[a-z]+\.png"', "<img ", body)  # plots are not served
            shown[f"{name}.html"] = ("text/html", f"<!doctype html><title>md</title>{body}".encode())
    return shown


def check_latex(run: Path) -> None:
    """Asserts that the LaTeX files hold only our own commands."""
    for path in run.rglob("*.tex"):
        text = re.sub(r"^%.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        commands = set(re.findall(r"\\([A-Za-z]+)", text))
        assert commands <= {
            *("begin", "end", "centering", "scriptsize", "setlength", "tabcolsep", "toprule", "midrule", "bottomrule"),
            *("caption", "label", "textbf", "textbackslash", "textasciitilde", "textasciicircum", "textless"),
            *("textgreater", "textbar", "Delta"),
        }
        assert "^^" not in text  # TeX first reads ^^5c as a backslash


def test_no_report_runs_code_opens_a_dialog_or_sends_a_request(run: Path, tmp_path: Path) -> None:
    check_latex(run)
    if chromium.BROWSER is None:
        pytest.skip(NO_BROWSER)
    shown = pages(run)
    assert {Path(name).name for name in shown} >= {
        "index.html",
        "report.md.html",
        "compare.md.html",
        "latency.md.html",
        "ab.md.html",
    }
    activity = chromium.visit(shown, tmp_path / "profile")
    assert (activity.console, activity.requests) == ([], [])


@pytest.mark.skipif(chromium.BROWSER is None, reason=NO_BROWSER)
def test_the_browser_detects_every_kind_of_attack(tmp_path: Path) -> None:
    """The test above relies on this: unescaped text is detected, even if a policy blocks its script."""
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
    attacks = [*texts.HTML[:7], f"{policy}{texts.HTML[0]}"]
    logged = [text.replace("alert('ran');", "").replace("'ran'", f"'ran {n}'") for n, text in enumerate(attacks)]
    numbered = [text.replace(texts.LEAK, f"{texts.LEAK}/{n}") for n, text in enumerate(logged)]
    shown = {f"/{n}.html": ("text/html", f"<p>{text}".encode()) for n, text in enumerate(numbered)}
    activity = chromium.visit(shown, tmp_path / "profile")
    for number, page in enumerate(numbered[:-1]):
        ran = any(f"ran {number}" in line for line in activity.console)
        leaked = any(request.endswith(f"/leak/{number}") for request in activity.requests)
        assert ran or leaked, page
    assert any("Content Security Policy" in line for line in activity.console)


@pytest.mark.parametrize("text", texts.ALL)
def test_no_error_sends_control_characters_to_a_terminal(
    text: str, crispbench: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "x.trec"
    run.write_text("q Q0 d 1 1 t\n")
    qrels = tmp_path / "q.tsv"
    key = "".join(text.split()) or "x"
    qrels.write_text(f"q 0 d 1\n{key} 0 d 1\n", encoding="utf-8")
    for answer in (
        crispbench("run", tmp_path / "absent" / text),
        crispbench("measure", run, qrels),
        crispbench("list", text),
        crispbench("probe", tmp_path, "--engine", text),
        crispbench("report", tmp_path / key),
    ):
        assert len(answer.err.splitlines()) == 1, answer.err
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", answer.err), answer.err


def test_latex_escapes_carets_of_character_codes() -> None:
    assert latex.escape("^^5cinput") == r"\textasciicircum{}\textasciicircum{}5cinput"
