"""Benchmark sources are loaded by name, and their options are checked before anything is read."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engines.base import BadOptions
from harness.benchmarks import SOURCES, BenchmarkError, BenchmarkSource, load, source_class


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_in_the_table_exists(name: str) -> None:
    assert issubclass(source_class(name), BenchmarkSource)


def test_an_unknown_source_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(
        BenchmarkError,
        match=r"^benchmark source 'bier' is not known; did you mean 'beir'\? expected one of beir, ",
    ):
        load("bier", {})


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "beir",
            {"path": "/none", "splt": "dev"},
            "benchmark source 'beir': unknown option 'splt'; did you mean 'split'? expected one of analysis,",
        ),
        ("beir", {}, "benchmark source 'beir': option 'path' is missing; the options are "),
        ("beir", {"path": "/none", "queries": 0}, "benchmark source 'beir': queries = 0: "),
        (
            "stdlib",
            {"name": "stdlib-code", "k": 1},
            "benchmark source 'stdlib': unknown option 'k'; expected one of name, ",
        ),
        ("stdlib", {"name": "code"}, "benchmark source 'stdlib': name = 'code': "),
    ],
)
def test_a_wrong_option_is_an_error_before_anything_is_read(source: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadOptions) as caught:  # /none does not exist, so reading it would raise a different error
        load(source, options)
    assert str(caught.value).startswith(message)


def test_importing_the_package_imports_no_source() -> None:
    code = "import sys, harness.benchmarks; print([m for m in sys.modules if m.startswith('harness.benchmarks.')])"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['harness.benchmarks.base']"
