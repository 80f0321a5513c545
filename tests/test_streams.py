"""Standard output as it can be: a pipe without a reader, an encoding without our characters."""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from tests.conftest import write_beir

Crispbench = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, config: Callable[..., Path], crispbench: Crispbench) -> Path:
    """A run of two engines over a benchmark whose name and ids are not ASCII."""
    words = ("cat", "dog", "bird", "fish", "worm")
    data = write_beir(
        tmp_path / "größe",
        {f"d-{word}é": f"a {word} is an animal" for word in words},
        {f"q-{word}é": f"animal {word}" for word in words},
        {f"q-{word}é": {f"d-{word}é": 1} for word in words},
    )
    engines = {"fake": {"kind": "fake"}, "wild": {"kind": "fake", "noise": 9.0}}
    path = config(engines=engines, benchmarks=[{"source": "beir", "path": str(data)}])
    assert crispbench("run", path, "--out", tmp_path / "out").code == 0
    return tmp_path / "out"


@contextmanager
def closed_pipe() -> Iterator[None]:
    """Standard output whose reader has left. Closing it at the end fails if it still holds text."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "__stdout__", stream)
        yield


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["list", "engines"],
        ["list", "engines", "--json"],
        ["doctor"],
        ["report", "RUN"],
        ["report", "RUN", "--json"],
        ["compare", "RUN/fake", "RUN/wild"],
        ["compare", "RUN/fake", "RUN/wild", "--json"],
        ["check", "RUN/fake", "RUN/wild"],
    ],
)
def test_a_pipe_whose_reader_has_left_never_reads_as_a_regression(run: Path, words: list[str]) -> None:
    with closed_pipe():
        assert main([word.replace("RUN", str(run)) for word in words]) == 141


def test_a_broken_pipe_of_something_else_is_an_error_in_one_line(
    crispbench: Crispbench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("harness.run.report.report", fail)
    answer = crispbench("report", tmp_path)
    assert (answer.code, answer.out, answer.err.count("\n")) == (5, "", 1)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_characters_that_the_output_lacks_are_replaced(
    run: Path, crispbench: Crispbench, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    words = ["compare", str(run / "fake"), str(run / "wild")]
    expected = crispbench(*words)
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(words) == expected.code
        shown = raw.getvalue().decode(encoding)
    lowest = expected.out.partition("[\N{MINUS SIGN}")[2].partition(",")[0]
    assert lowest and f"[-{lowest}," in shown
    assert ("gr??e" in shown) == (encoding == "ascii")


def test_json_in_ascii_keeps_every_character(
    run: Path, crispbench: Crispbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = crispbench("report", run, "--json").out
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["compare", str(run / "fake"), str(run / "wild"), "--json"]) == 3
        document = json.loads(raw.getvalue().decode("ascii"))
    assert [effect["name"] for effect in document["comparisons"][0]["effects"]] == ["größe"]
    assert json.loads(expected)["run"] == str(run)


def test_every_command_has_the_short_help_and_the_program_its_version(crispbench: Crispbench) -> None:
    for words in ((), ("run",), ("compare",), ("baseline",), ("baseline", "save"), ("list",)):
        assert crispbench(*words, "-h") == crispbench(*words, "--help")
    answer = crispbench("--version")
    assert (answer.code, answer.err) == (0, "") and answer.out.startswith("crispbench ")
    assert "--install-completion" in crispbench("--help").out
