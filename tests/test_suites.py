"""Suites: exact members, sizes, and how often each counts in the average."""

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
    """Writes configs/suites/mine.yaml of this test."""
    monkeypatch.setattr(suites, "FOLDERS", (tmp_path / "suites",))
    (tmp_path / "suites").mkdir()
    load_suite.cache_clear()

    def write(text: str) -> Path:
        path = tmp_path / "suites/mine.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_group_counts_once_however_many_members_it_has() -> None:
    found = suite(member("a"), member("b1", group="b"), member("b2", group="b"), member("c"))
    assert list(found.units) == ["a", "b", "c"]
    assert found.weights == pytest.approx({"a": 1 / 3, "b1": 1 / 6, "b2": 1 / 6, "c": 1 / 3})


def test_pairs_are_queries_times_k_but_never_more_than_the_documents_or_the_own_lists_hold() -> None:
    found = suite(
        member("deep", 10, 1000), member("shallow", 10, 60), member("own", 10, 500, own_pairs=450),
        member("own but cut", 10, 5000, own_pairs=4000), member("endless", 10, None),
    )  # fmt: skip
    assert [each.pairs(100) for each in found.members] == [1000, 600, 450, 1000, 1000]
    assert found.pairs(100) == 4050 and found.documents is None and found.queries == 50


def test_what_is_not_known_of_one_member_is_not_known_of_the_whole() -> None:
    found = suite(member("a"), member("b", None))
    assert (found.queries, found.documents, found.pairs()) == (None, 2000, None)


# Those that ship


@pytest.mark.parametrize(
    ("name", "members", "counted", "queries", "pairs"),
    [
        ("beir", 26, 15, 53_359, 5_335_900),
        ("nano-beir", 13, 13, 649, 64_900),
        ("mrtydi", 11, 11, 8_661, 866_100),
        ("miracl", 18, 18, 12_523, 1_247_483),  # Korean: 21,201 candidates of 212 queries, one list of 101 is cut
        ("chinese", 4, 4, 8_008, 397_448),  # 97,422 + 100,026 + 2 x 100,000: whole lists
        ("code", 20, 10, 115_655, 11_565_500),
    ],
)
def test_a_suite_has_the_members_and_the_size_that_its_source_gives(
    name: str, members: int, counted: int, queries: int, pairs: int
) -> None:
    found = load_suite(name)
    assert found.name == name and found.source
    assert (len(found.members), len(found.units)) == (members, counted)
    assert (found.queries, found.pairs()) == (queries, pairs)
    assert sum(found.weights.values()) == pytest.approx(1)


def test_ms_marco_is_on_dev_and_every_other_member_of_beir_on_test() -> None:
    splits = {each.name: each.benchmark["split"] for each in load_suite("beir").members}
    assert splits.pop("MSMARCO") == "dev"
    assert set(splits.values()) == {"test"}


def test_the_twelve_forums_of_cqadupstack_weigh_as_much_as_one_dataset() -> None:
    found = load_suite("beir")
    assert len(found.units["CQADupStack"]) == 12
    assert found.weights["CQADupstack-Tex"] == pytest.approx(1 / 180)
    assert found.weights["SciFact"] == pytest.approx(1 / 15)


def test_the_code_suite_searches_code_by_its_docstring_and_never_a_summary_by_code() -> None:
    tasks = {each.benchmark["name"] for each in load_suite("code").members}
    assert "CodeSearchNetRetrieval" in tasks and "COIRCodeSearchNetRetrieval" not in tasks
    docstrings = [each.name for each in load_suite("code").units["CodeSearchNet"]]
    assert len(docstrings) == 6 and all("docstring-to-code" in name for name in docstrings)


def test_a_size_that_the_source_has_wrong_is_null_and_no_guess() -> None:
    japanese = next(each for each in load_suite("mrtydi").members if each.name.endswith("japanese"))
    assert (japanese.queries, japanese.documents) == (720, None)


def test_no_name_is_in_two_suites() -> None:
    names = [each.name for name in suite_names() for each in load_suite(name).members]
    assert len(names) == len(set(names))


# In a config


def test_a_config_of_suites_has_their_members_by_name_before_its_own_benchmarks(
    own_suite: Callable[[str], Path], config: Callable[..., Path], animals: Path
) -> None:
    own_suite(json.dumps(suite(member("one"), member("two")).model_dump()))
    benchmarks = [{"source": "beir", "path": str(animals)}]
    found = read_config(config(engines={"fake": {"kind": "fake"}}, suites=["mine"], benchmarks=benchmarks)).entries
    assert [name for name, _ in found] == ["one", "two", None]
    assert [type(entry.source) for _, entry in found] == [StandardLibrary, StandardLibrary, BeirFolder]


def test_members_run_under_the_suites_names_and_those_not_asked_for_are_not_loaded(
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


def test_a_benchmark_may_have_a_first_stage_of_its_own(
    config: Callable[..., Path], crispbench: Callable[..., Any], animals: Path, tmp_path: Path
) -> None:
    entry = {"source": "beir", "path": str(animals)}
    benchmarks = [entry, {**entry, "name": "shallow", "candidates": {"k": 2}}]
    path = config(engines={"fake": {"kind": "fake"}}, benchmarks=benchmarks, candidates={"k": 4})
    answer = crispbench("run", path, "--out", tmp_path / "out", "--json")
    found = json.loads(answer.out)["engines"]["fake"]["benchmarks"]
    assert {name: each["candidates"]["k"] for name, each in found.items()} == {"animals": 4, "shallow": 2}


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"suites": ["typo"]}, "suite 'typo' is not known; known are beir, chinese, code, miracl, mrtydi, nano-beir"),
        ({}, "nothing to measure: name at least one entry under `suites` or `benchmarks`"),
        ({"suites": "beir"}, "suites = 'beir'"),
        (
            {"benchmarks": [{"source": "stdlib", "name": "stdlib-code", "candidates": {"depth": 1}}]},
            "known are b, k, k1",
        ),
    ],
)
def test_a_wrong_suite_is_a_usage_error_in_one_line_before_anything_is_loaded(
    entries: dict[str, Any], said: str, config: Callable[..., Path], crispbench: Callable[..., Any]
) -> None:
    answer = crispbench("run", config(engines={"torch": {"kind": "torch", "model": "nowhere"}}, **entries))
    assert answer.code == 2 and said in answer.err and answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: mine\ndescription: d\nsource: s\nmembers: []\n", "members"),
        ("name: mine\ndescription: d\nsource: s\nmembers:\n- {name: a, benchmark: {}, queries: 1}\n", "documents"),
        ("name: mine\nmember: []\n", "known are description, members, name, source"),
        (json.dumps({"name": "mine", "description": "d", "source": "s", "members": [member("a"), member("a")]}), "'a'"),
    ],
)
def test_a_suite_with_a_mistake_is_refused_with_its_path(
    text: str, said: str, own_suite: Callable[[str], Path]
) -> None:
    path = own_suite(text)
    with pytest.raises((BenchmarkError, BadOptions)) as error:
        load_suite("mine")
    assert str(path) in str(error.value) and said in str(error.value) and "\n" not in str(error.value)


# Listed


def test_list_suites_tells_queries_documents_and_pairs_and_json_every_member_by_name(
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
