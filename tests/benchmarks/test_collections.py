"""Published collections have the sizes that their authors state. Skipped where the files are missing."""

import os
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.benchmarks import load
from harness.records import Benchmark


class Sizes(NamedTuple):
    documents: int
    queries: int
    judgements: int


def collection(name: str) -> Benchmark:
    data = Path(os.environ.get("CRISPBENCH_DATA") or Path(__file__).parents[3] / "shared/data")
    folder = data / name / "beir"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set CRISPBENCH_DATA to the folder of collections")
    return load("beir", {"path": folder, "name": name})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("scifact", Sizes(5183, 300, 339)),
        ("nfcorpus", Sizes(3633, 323, 12334)),
        ("arguana", Sizes(8674, 1406, 1406)),
    ],
)
def test_a_published_collection_has_its_published_size(name: str, expected: Sizes) -> None:
    benchmark = collection(name)
    judgements = sum(len(grades) for grades in benchmark.qrels.values())
    assert Sizes(len(benchmark.documents), len(benchmark.queries), judgements) == expected
    assert benchmark.remove_self == (name == "arguana")


def test_the_official_arguana_judges_five_documents_missing_from_its_corpus() -> None:
    (warning,) = collection("arguana").warnings
    assert warning.startswith("judged documents that are not in the corpus and can never be found: 5 (test-")


@pytest.mark.parametrize("name", ["scifact", "nfcorpus"])
def test_a_clean_collection_has_no_warnings(name: str) -> None:
    assert collection(name).warnings == ()
