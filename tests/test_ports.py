"""Installed packages add dialects and benchmark sources by entry points, as docs/adding-a-*.md describe."""

import json
import math
import re
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

import engines
from engines import BadOptions, EngineUnavailable, Pair
from engines.remote import dialects
from harness import benchmarks
from harness.benchmarks import BenchmarkError

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {"crispbench.dialects": DOCS / "adding-a-dialect.md", "crispbench.benchmarks": DOCS / "adding-a-benchmark.md"}
Install = Callable[[str, str, str], None]


def block(page: Path, language: str) -> str:
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return str(code)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution with one entry point in one group."""

    def with_entry_point(group: str, line: str, code: str) -> None:
        package, _, module = line.partition("=")[2].partition(":")[0].strip().partition(".")
        path = tmp_path / "site" / package / f"{module or '__init__'}.py"
        path.parent.mkdir(parents=True)
        path.write_text(code)
        metadata = tmp_path / "site" / f"{package}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[{group}]\n{line}\n")
        monkeypatch.syspath_prepend(tmp_path / "site")
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)

    return with_entry_point


@pytest.fixture
def documented(install: Install) -> Callable[[str], dict[str, Any]]:
    """Installs the example of a page under the page's own entry point; returns the page's config."""

    def install_example(group: str) -> dict[str, Any]:
        page = PAGES[group]
        ((name, target),) = tomllib.loads(block(page, "toml"))["project"]["entry-points"][group].items()
        install(group, f"{name} = {target}", block(page, "python"))
        entries: dict[str, Any] = yaml.safe_load(block(page, "yaml"))
        return entries

    return install_example


class Plain(BaseHTTPRequestHandler):
    """The server of the documented dialect: texts that hold the query get the probability 0.75, the others 0.25."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        scores = [0.75 if body["query"] in text else 0.25 for text in body["texts"]]
        content = json.dumps({"scores": scores}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Plain) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


# Dialects


def test_the_documented_dialect_scores_through_its_server(
    documented: Callable[[str], dict[str, Any]], url: str
) -> None:
    ((_, entry),) = documented("crispbench.dialects")["engines"].items()
    assert entry["dialect"] in dialects.names()
    with engines.load(entry.pop("kind"), {**entry, "url": url}) as engine:
        scores = engine.score([Pair("cat", "a cat"), Pair("cat", "a dog"), Pair("dog", "a dog")])
    assert scores == pytest.approx([math.log(3), -math.log(3), math.log(3)])


def test_the_error_for_an_unknown_dialect_lists_the_installed_ones(install: Install) -> None:
    install("crispbench.dialects", "plain = plugin:DIALECT", block(PAGES["crispbench.dialects"], "python"))
    with pytest.raises(
        BadOptions,
        match=r"dialect = 'plane': did you mean 'plain'\? expected one of baseten, cohere, .*jina, plain, tei",
    ):
        engines.options("remote", {"dialect": "plane", "url": "http://127.0.0.1"})


def test_an_entry_point_does_not_replace_a_built_in_dialect(install: Install) -> None:
    install("crispbench.dialects", "tei = plugin:DIALECT", block(PAGES["crispbench.dialects"], "python"))
    assert dialects.find("tei").request.__module__ == "engines.remote.dialects.tei"


def test_a_broken_dialect_is_reported_in_one_line(install: Install) -> None:
    install("crispbench.dialects", "plain = plugin:request", block(PAGES["crispbench.dialects"], "python"))
    message = "dialect 'plain' points to 'plugin:request', which is not a Dialect"
    with pytest.raises(BadOptions, match=f"^remote: dialect = 'plain': {message}$"):
        engines.options("remote", {"dialect": "plain", "url": "http://127.0.0.1"})


def test_a_dialect_whose_module_is_missing_is_unavailable(install: Install) -> None:
    install("crispbench.dialects", "plain = plugin:DIALECT", "import no_such_module")
    with pytest.raises(EngineUnavailable, match="dialect 'plain' points to 'plugin:DIALECT': No module named"):
        engines.options("remote", {"dialect": "plain", "url": "http://127.0.0.1"})


# Benchmark sources


def test_the_documented_source_runs_from_a_config(
    documented: Callable[[str], dict[str, Any]],
    config: Callable[..., Path],
    crispbench: Callable[..., Any],
    tmp_path: Path,
) -> None:
    (entry,) = documented("crispbench.benchmarks")["benchmarks"]
    faq = [{"question": f"where is the {word}?", "answer": f"the {word} is here"} for word in ("cat", "dog", "fish")]
    (tmp_path / "questions.json").write_text(json.dumps(faq))
    entry |= {"path": str(tmp_path / "questions.json"), "queries": 2}
    path = config(engines={"bm25": {"kind": "bm25"}}, benchmarks=[entry])
    answer = crispbench("run", path, "--out", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    (benchmark,) = json.loads(answer.out)["engines"]["bm25"]["benchmarks"].values()
    assert (benchmark["queries"], benchmark["measures"]["nDCG@10"]["value"]) == (2, 1.0)
    assert "faq" in crispbench("list", "benchmarks").out


def test_a_wrong_option_of_an_installed_source_is_a_usage_error(
    documented: Callable[[str], dict[str, Any]], config: Callable[..., Path], crispbench: Callable[..., Any]
) -> None:
    (entry,) = documented("crispbench.benchmarks")["benchmarks"]
    path = config(engines={"bm25": {"kind": "bm25"}}, benchmarks=[{**entry, "pth": "x"}])
    answer = crispbench("run", path)
    assert answer.code == 2
    assert (
        "benchmark source 'faq': unknown option 'pth'; did you mean 'path'? expected one of name, path, queries"
        in answer.err
    )


def test_an_entry_point_does_not_replace_a_built_in_source(install: Install) -> None:
    install("crispbench.benchmarks", "beir = plugin:Faq", block(PAGES["crispbench.benchmarks"], "python"))
    assert benchmarks.source_class("beir").__module__ == "harness.benchmarks.beir"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("plugin:Nothing", "benchmark source 'faq' points to 'plugin:Nothing', which is not a BenchmarkSource"),
        ("plugin:json", "benchmark source 'faq' points to 'plugin:json', which is not a BenchmarkSource"),
        ("absent:Faq", "benchmark source 'faq' points to 'absent:Faq': No module named 'no_such_module'"),
    ],
)
def test_a_broken_source_is_reported_in_one_line_and_hides_no_other_source(
    install: Install, crispbench: Callable[..., Any], target: str, message: str
) -> None:
    code = "import no_such_module" if target.startswith("absent") else block(PAGES["crispbench.benchmarks"], "python")
    install("crispbench.benchmarks", f"faq = {target}", code)
    with pytest.raises(BenchmarkError, match=f"^{message}$"):
        benchmarks.load("faq", {})
    answer = crispbench("list", "benchmarks")
    assert f"cannot be used: {message}"[:60] in " ".join(answer.out.split())
    assert "stdlib" in answer.out


@pytest.mark.parametrize(("page", "lines"), [("adding-a-dialect.md", 20), ("adding-a-benchmark.md", 40)])
def test_the_documented_examples_are_short_and_their_length_is_stated(page: str, lines: int) -> None:
    counted = len(block(DOCS / page, "python").splitlines())
    assert counted <= lines
    assert f"has {counted} lines" in (DOCS / page).read_text(encoding="utf-8")
