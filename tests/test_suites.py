"""Suites: exact members, sizes and weights in the average."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.base import BadOptions
from harness.benchmarks import BenchmarkError, suites
from harness.benchmarks.beir import BeirFolder
from harness.benchmarks.stdlib import StandardLibrary
from harness.benchmarks.suites import Suite, load_suite, suite_names
from harness.config import read_config

Member = dict[str, Any]


def member(name: str, queries: int | None = 10, documents: int | None = 1000, **more: Any) -> Member:
    return {
        "name": name,
        "benchmark": {"source": "stdlib", "name": "stdlib-code"},
        "queries": queries,
        "documents": documents,
        **more,
    }


def suite(*members: Member) -> Suite:
    return Suite.model_validate({"name": "s", "description": "d", "source": "here", "members": members})


@pytest.fixture
def own_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes a suite `mine` that exists only in this test."""
    monkeypatch.setattr(suites, "FOLDERS", (tmp_path / "suites",))
    (tmp_path / "suites").mkdir()
    load_suite.cache_clear()

    def write(text: str) -> Path:
        path = tmp_path / "suites/mine.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_group_counts_once_for_any_number_of_members() -> None:
    loaded = suite(member("a"), member("b1", group="b"), member("b2", group="b"), member("c"))
    assert list(loaded.units) == ["a", "b", "c"]
    assert loaded.weights == pytest.approx({"a": 1 / 3, "b1": 1 / 6, "b2": 1 / 6, "c": 1 / 3})


def test_the_number_of_pairs_is_limited_by_k_documents_and_native_lists() -> None:
    loaded = suite(
        member("deep", 10, 1000), member("shallow", 10, 60), member("own", 10, 500, own_pairs=450),
        member("own but cut", 10, 5000, own_pairs=4000), member("endless", 10, None),
    )  # fmt: skip
    assert [member.pairs(100) for member in loaded.members] == [1000, 600, 450, 1000, 1000]
    assert loaded.pairs(100) == 4050 and loaded.documents is None and loaded.queries == 50


def test_a_figure_unknown_for_one_member_is_unknown_for_the_suite() -> None:
    loaded = suite(member("a"), member("b", None))
    assert (loaded.queries, loaded.documents, loaded.pairs()) == (None, 2000, None)


# Shipped suites


@pytest.mark.parametrize(
    ("name", "members", "counted", "queries", "pairs"),
    [
        ("beir", 26, 15, 53_359, 5_335_900),
        ("nano-beir", 13, 13, 649, 64_900),
        ("mrtydi", 11, 11, 8_661, 866_100),
        ("miracl", 18, 18, 12_523, 1_247_483),  # Korean: 21,201 candidates of 212 queries; one list of 101 is cut
        ("chinese", 4, 4, 8_008, 397_448),  # 97,422 + 100,026 + 2 x 100,000: whole lists
        ("code", 20, 10, 115_655, 11_565_500),
    ],
)
def test_a_suite_has_the_members_and_the_size_given_by_its_source(
    name: str, members: int, counted: int, queries: int, pairs: int
) -> None:
    loaded = load_suite(name)
    assert loaded.name == name and loaded.source
    assert (len(loaded.members), len(loaded.units)) == (members, counted)
    assert (loaded.queries, loaded.pairs()) == (queries, pairs)
    assert sum(loaded.weights.values()) == pytest.approx(1)


def test_ms_marco_uses_dev_and_every_other_member_of_beir_uses_test() -> None:
    splits = {member.name: member.benchmark["split"] for member in load_suite("beir").members}
    assert splits.pop("MSMARCO") == "dev"
    assert set(splits.values()) == {"test"}


def test_the_twelve_forums_of_cqadupstack_have_the_weight_of_one_dataset() -> None:
    loaded = load_suite("beir")
    assert len(loaded.units["CQADupStack"]) == 12
    assert loaded.weights["CQADupstack-Tex"] == pytest.approx(1 / 180)
    assert loaded.weights["SciFact"] == pytest.approx(1 / 15)


def test_the_code_suite_searches_code_by_its_docstring() -> None:
    tasks = {member.benchmark["name"] for member in load_suite("code").members}
    assert "CodeSearchNetRetrieval" in tasks and "COIRCodeSearchNetRetrieval" not in tasks
    docstrings = [member.name for member in load_suite("code").units["CodeSearchNet"]]
    assert len(docstrings) == 6 and all("docstring-to-code" in name for name in docstrings)


def test_a_size_that_is_wrong_in_the_source_is_null() -> None:
    japanese = next(member for member in load_suite("mrtydi").members if member.name.endswith("japanese"))
    assert (japanese.queries, japanese.documents) == (720, None)


def test_every_name_is_in_only_one_suite() -> None:
    names = [member.name for name in suite_names() for member in load_suite(name).members]
    assert len(names) == len(set(names))


# In a config


def test_the_members_of_suites_come_before_the_benchmarks_of_the_config(
    own_suite: Callable[[str], Path], config: Callable[..., Path], animals: Path
) -> None:
    own_suite(json.dumps(suite(member("first"), member("second")).model_dump()))
    benchmarks = [{"source": "beir", "path": str(animals)}]
    entries = read_config(config(engines={"fake": {"kind": "fake"}}, suites=["mine"], benchmarks=benchmarks)).entries
    assert [name for name, _ in entries] == ["first", "second", None]
    assert [type(entry.source) for _, entry in entries] == [StandardLibrary, StandardLibrary, BeirFolder]


def test_members_run_under_their_names_in_the_suite_and_unselected_ones_are_not_loaded(
    own_suite: Callable[[str], Path], config: Callable[..., Path], crispbench: Callable[..., Any], animals: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    here = member("here") | {"benchmark": {"source": "beir", "path": str(animals)}}
    gone = member("gone") | {"benchmark": {"source": "beir", "path": "nowhere"}}
    own_suite(json.dumps({"name": "mine", "description": "d", "source": "here", "members": [here, gone]}))
    path = config(engines={"fake": {"kind": "fake"}}, suites=["mine"])
    answer = crispbench("run", path, "--out", tmp_path / "out", "--benchmark", "here", "--json")
    assert answer.code == 0, answer.err
    assert list(json.loads(answer.out)["engines"]["fake"]["benchmarks"]) == ["here"]


def test_a_benchmark_may_have_its_own_first_stage(
    config: Callable[..., Path], crispbench: Callable[..., Any], animals: Path, tmp_path: Path
) -> None:
    entry = {"source": "beir", "path": str(animals)}
    benchmarks = [entry, {**entry, "name": "shallow", "candidates": {"k": 2}}]
    path = config(engines={"fake": {"kind": "fake"}}, benchmarks=benchmarks, candidates={"k": 4})
    answer = crispbench("run", path, "--out", tmp_path / "out", "--json")
    results = json.loads(answer.out)["engines"]["fake"]["benchmarks"]
    assert {name: result["candidates"]["k"] for name, result in results.items()} == {"animals": 4, "shallow": 2}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"suites": ["typo"]},
            "suite 'typo' is not known; expected one of beir, chinese, code, miracl, ",
        ),
        ({}, "nothing to measure: name at least one entry under `suites` or `benchmarks`"),
        ({"suites": "beir"}, "suites = 'beir'"),
        (
            {"benchmarks": [{"source": "stdlib", "name": "stdlib-code", "candidates": {"depth": 1}}]},
            "expected one of b, k, k1",
        ),
    ],
)
def test_a_wrong_suite_is_a_usage_error_in_one_line_before_anything_is_loaded(
    entries: dict[str, Any], message: str, config: Callable[..., Path], crispbench: Callable[..., Any]
) -> None:
    answer = crispbench("run", config(engines={"torch": {"kind": "torch", "model": "nowhere"}}, **entries))
    assert answer.code == 2 and message in answer.err and answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: mine\ndescription: d\nsource: s\nmembers: []\n", "members"),
        ("name: mine\ndescription: d\nsource: s\nmembers:\n- {name: a, benchmark: {}, queries: 1}\n", "documents"),
        ("name: mine\nmember: []\n", "did you mean 'members'? expected one of description, members, name, source"),
        (json.dumps({"name": "mine", "description": "d", "source": "s", "members": [member("a"), member("a")]}), "'a'"),
    ],
)
def test_a_suite_with_a_mistake_is_refused_with_its_path(
    text: str, message: str, own_suite: Callable[[str], Path]
) -> None:
    path = own_suite(text)
    with pytest.raises((BenchmarkError, BadOptions)) as error:
        load_suite("mine")
    assert str(path) in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


# The list


def test_list_suites_prints_sizes_and_json_holds_every_member(
    crispbench: Callable[..., Any],
) -> None:
    lines = crispbench("list", "suites").out.splitlines()
    assert [line.split()[0] for line in lines] == suite_names()
    assert "13 benchmarks, 649 queries, 56,723 documents, 64,900 pairs at k=100" in lines[-1]
    assert "unknown documents" in next(line for line in lines if line.startswith("mrtydi"))
    document = json.loads(crispbench("list", "suites", "--json").out)["suites"]
    assert document["beir"]["members"]["SciFact"] == {
        "benchmark": {"source": "mteb", "name": "SciFact", "split": "test"},
        "queries": 300,
        "documents": 5183,
        "pairs at k=100": 30_000,
        "group": None,
        "weight": pytest.approx(1 / 15),
    }
    assert document["miracl"]["pairs at k=100"] == 1_247_483
