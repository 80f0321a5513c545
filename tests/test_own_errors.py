"""Errors that an engine or a benchmark did not raise on purpose: a row with its reason, and no lost run."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from engines.base import Description, Pair
from engines.fake import Fake, FakeOptions
from harness import benchmarks
from harness.benchmarks.base import BenchmarkSource
from harness.records import Benchmark
from harness.store import Store

Crispbench = Callable[..., Any]


class Broken(Fake):
    """The fake engine, which raises an error of its own at one place."""

    place: ClassVar[str]
    error: ClassVar[Exception]

    def _maybe(self, place: str) -> None:
        if self.place == place:
            raise self.error

    def __init__(self, options: FakeOptions) -> None:
        super().__init__(options)
        self._maybe("load")

    def describe(self) -> Description:
        self._maybe("describe")
        return super().describe()

    def score(self, pairs: Sequence[Pair]) -> list[float]:  # type: ignore[override]
        self._maybe("score")
        if self.place == "one query" and "bird" in pairs[0].query:
            raise self.error
        return super().score(pairs)

    def close(self) -> None:
        self._maybe("close")


@pytest.fixture
def broken(register: Callable[..., None]) -> Callable[[str, Exception], None]:
    def write(place: str, error: Exception) -> None:
        register("broken", type("BrokenToday", (Broken,), {"place": place, "error": error}))

    return write


@pytest.fixture
def both(animals: Path, config: Callable[..., Path]) -> Path:
    """A config whose first engine is broken; the second one is not."""
    return config(
        engines={"broken": {"kind": "broken"}, "fake": {"kind": "fake"}},
        benchmarks=[{"source": "beir", "path": str(animals)}],
        candidates={"k": 3},
    )


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("load", (ValueError("bad weights"), "ValueError: bad weights")),
        ("describe", (KeyError("model"), "KeyError: 'model'")),
        ("score", (RuntimeError("kernel\nsecond line"), "RuntimeError: kernel")),
        ("close", (OSError("gone"), "OSError: gone")),
        ("load", (ZeroDivisionError(), "ZeroDivisionError: no message")),
    ],
)
def test_an_engine_that_raises_anything_is_a_row_with_its_reason_and_the_others_are_scored(
    both: Path, broken: Any, crispbench: Crispbench, tmp_path: Path, place: str, error: tuple[Exception, str]
) -> None:
    raised, reason = error
    broken(place, raised)
    answer = crispbench("run", both, "--out", tmp_path / "out")
    assert answer.code == 5 or place == "close"
    assert answer.err.count("\n") == 1 and reason in answer.err and "second line" not in answer.err
    measures = json.loads((tmp_path / "out/fake/measures.json").read_text(encoding="utf-8"))
    assert measures["benchmarks"]["animals"]["verdict"] == "complete"
    assert reason in (tmp_path / "out/report/report.md").read_text(encoding="utf-8")


def test_one_query_on_which_an_engine_raises_costs_that_query(
    both: Path, broken: Any, crispbench: Crispbench, tmp_path: Path
) -> None:
    broken("one query", IndexError("list index out of range"))
    answer = crispbench("run", both, "--engine", "broken", "--out", tmp_path / "out")
    assert (answer.code, answer.err) == (5, "")
    assert "1 query failed: IndexError: list index out of range" in answer.out.replace("\n", " ")
    with Store.read(tmp_path / "out/broken") as store:
        assert len(store.done("animals")) == 4


def test_an_engine_that_always_raises_is_given_up_after_three_queries(
    both: Path, broken: Any, crispbench: Crispbench, tmp_path: Path
) -> None:
    broken("score", TypeError("unhashable"))
    crispbench("run", both, "--engine", "broken", "--out", tmp_path / "out")
    with Store.read(tmp_path / "out/broken") as store:
        assert len(store.failures("animals")) == 3


def test_debug_prints_the_traceback_of_an_error_that_became_a_row(
    both: Path, broken: Any, crispbench: Crispbench, tmp_path: Path
) -> None:
    broken("load", ValueError("bad weights"))
    quiet = crispbench("run", both, "--out", tmp_path / "out")
    shown = crispbench("run", both, "--out", tmp_path / "out", "--debug")
    assert (quiet.code, shown.code) == (5, 5)
    assert "Traceback" not in quiet.err
    assert "Traceback" in shown.err and "in _maybe" in shown.err and "ValueError: bad weights" in shown.err


def test_equal_failures_of_several_engines_are_one_line(
    animals: Path, config: Callable[..., Path], broken: Any, crispbench: Crispbench, tmp_path: Path
) -> None:
    broken("load", ValueError("bad weights"))
    names = ("a", "b", "c")
    data = {"benchmarks": [{"source": "beir", "path": str(animals)}]}
    path = config(engines={name: {"kind": "broken"} for name in names}, **data)
    answer = crispbench("run", path, "--out", tmp_path / "out")
    assert (answer.code, answer.out) == (5, "")
    assert answer.err == "crispbench: no engine could score: a, b, c: ValueError: bad weights\n"
    path = config(engines={"fake": {"kind": "fake"}, **{name: {"kind": "broken"} for name in names}}, **data)
    for verb in (("run", path, "--out", tmp_path / "out"), ("probe", path)):
        assert crispbench(*verb).err == "crispbench: engine a, b, c: ValueError: bad weights\n"


def test_latency_and_probe_name_a_broken_engine_and_use_the_others(
    both: Path, broken: Any, crispbench: Crispbench, tmp_path: Path
) -> None:
    both.write_text(
        both.read_text(encoding="utf-8") + "latency: {queries: 6, warmup: 1, min_duration_s: 0}\n", encoding="utf-8"
    )
    for place in ("load", "describe"):
        broken(place, ValueError("bad weights"))
        measured = crispbench("latency", both, "--out", tmp_path / place, "--json")
        assert (measured.code, list(json.loads(measured.out)["engines"])) == (5, ["fake"])
        assert "crispbench: engine broken: ValueError: bad weights\n" in measured.err
    broken("score", ValueError("bad pair"))
    probed = crispbench("probe", both, "--json")
    verdicts = {name: probe["verdict"] for name, probe in json.loads(probed.out)["engines"].items()}
    assert (probed.code, verdicts) == (1, {"broken": "fail", "fake": "pass"})
    assert "ValueError: bad pair" in probed.out
    measured = crispbench("latency", both, "--out", tmp_path / "out", "--engine", "broken")
    assert measured.code == 5 and "ValueError: bad pair" in measured.out.replace("\n", " ")


# Benchmarks


class Foreign(BenchmarkSource):
    """A source of another package that fails while it is read."""

    name: str = "foreign"

    def load(self) -> Benchmark:
        raise KeyError("text")


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("foreign_source")
    module.Foreign = Foreign  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "foreign_source", module)
    monkeypatch.setitem(benchmarks.SOURCES, "foreign", "foreign_source:Foreign")


@pytest.mark.usefixtures("foreign")
def test_a_benchmark_that_raises_is_a_row_with_its_reason_and_the_others_are_scored(
    animals: Path, config: Callable[..., Path], crispbench: Crispbench, tmp_path: Path
) -> None:
    engines = {"fake": {"kind": "fake"}, "again": {"kind": "fake"}}
    path = config(engines=engines, benchmarks=[{"source": "foreign"}, {"source": "beir", "path": str(animals)}])
    answer = crispbench("run", path, "--out", tmp_path / "out")
    assert (answer.code, answer.err) == (5, "crispbench: benchmark foreign: KeyError: 'text'\n")
    assert "fake, again: the benchmark was not loaded: KeyError: 'text'" in (
        tmp_path / "out/report/report.md"
    ).read_text(encoding="utf-8").replace("**", "")
    measures = json.loads((tmp_path / "out/fake/measures.json").read_text(encoding="utf-8"))
    assert {name: entry["verdict"] for name, entry in measures["benchmarks"].items()} == {"animals": "complete"}
    assert crispbench("report", tmp_path / "out").out == answer.out
    document = json.loads(crispbench("run", path, "--out", tmp_path / "out", "--json").out)
    assert document["missing"] == {"foreign": "KeyError: 'text'"}
    only = crispbench("run", path, "--out", tmp_path / "out", "--benchmark", "animals")
    assert (only.code, only.err) == (0, "")


@pytest.mark.usefixtures("foreign")
def test_a_run_without_any_benchmark_ends_with_one_line(
    config: Callable[..., Path], crispbench: Crispbench, tmp_path: Path
) -> None:
    sources = [{"source": "foreign", "name": name} for name in ("one", "two", "three")]
    path = config(engines={"fake": {"kind": "fake"}}, benchmarks=sources)
    answer = crispbench("run", path, "--out", tmp_path / "out")
    assert (answer.code, answer.out) == (5, "")
    assert answer.err == "crispbench: no benchmark could be loaded: one, two, three: KeyError: 'text'\n"
    timed = crispbench("latency", path, "--out", tmp_path / "out")
    assert (timed.code, timed.err) == (5, "crispbench: benchmark one: KeyError: 'text'\n")


def test_a_mistake_in_a_benchmark_ends_the_run_before_an_engine_is_loaded(
    animals: Path, config: Callable[..., Path], moody: Any, crispbench: Crispbench, tmp_path: Path
) -> None:
    sources = [{"source": "beir", "path": str(animals)}, {"source": "beir", "path": str(tmp_path / "typo")}]
    path = config(engines={"moody": {"kind": "moody"}}, benchmarks=sources)
    answer = crispbench("run", path, "--out", tmp_path / "out")
    assert (answer.code, answer.out, moody.queries) == (2, "", [])


# One code for a missing extra


@pytest.mark.parametrize("verb", ["engine", "source", "first stage", "export", "ray"])
def test_a_missing_extra_has_the_same_exit_code_everywhere(
    animals: Path,
    config: Callable[..., Path],
    crispbench: Crispbench,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    verb: str,
) -> None:
    fake, beir = {"fake": {"kind": "fake"}}, [{"source": "beir", "path": str(animals)}]
    path = config(engines=fake, benchmarks=beir)
    out = tmp_path / "out"
    assert crispbench("run", path, "--out", out).code == 0
    for package in ("mteb", "ray", "sentence_transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    if verb == "engine":
        path = config(engines={"dense": {"kind": "bi_encoder", "model": "m"}}, benchmarks=beir)
    elif verb == "source":
        path = config(engines=fake, benchmarks=[{"source": "mteb", "name": "NFCorpus"}])
    elif verb == "first stage":
        path = config(engines=fake, benchmarks=beir, candidates={"source": "dense", "model": "m"})
    command = {"export": ("export", "mteb", out, tmp_path / "e"), "ray": ("run", path, "--out", out, "--ray", "local")}
    answer = crispbench(*command.get(verb, ("run", path, "--out", tmp_path / "other")))
    assert (answer.code, answer.out) == (5, "")
    assert "pip install 'crispbench[" in answer.err.splitlines()[-1]


# Folders that are something else


def test_a_folder_that_is_not_what_a_verb_reads_is_a_wrong_argument(
    animals: Path, config: Callable[..., Path], crispbench: Crispbench, tmp_path: Path
) -> None:
    path = config(engines={"fake": {"kind": "fake"}}, benchmarks=[{"source": "beir", "path": str(animals)}])
    out, empty = tmp_path / "out", tmp_path / "empty"
    assert crispbench("run", path, "--out", out).code == 0
    empty.mkdir()
    for wrong, hint in (
        (empty, ""),
        (tmp_path / "nowhere", ""),
        (path, ""),
        (out, f"name one of its engines, such as {out / 'fake'}"),
    ):
        for words in (
            ("compare", wrong, out / "fake"),
            ("compare", out / "fake", wrong),
            ("compare", out / "fake", out / "fake", "--noise", wrong),
            ("check", out / "fake", wrong),
            ("baseline", "save", "main", wrong, "--store", tmp_path / "store"),
        ):
            answer = crispbench(*words)
            assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1), words
            assert hint in answer.err or "--noise" in words
    for wrong in (empty, tmp_path / "nowhere", path, out / "fake"):
        for words in (
            ("report", wrong),
            ("merge", tmp_path / "merged", wrong, out),
            ("export", "trec", wrong, tmp_path / "e"),
        ):
            answer = crispbench(*words)
            assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1), words
    assert "it is an engine of the run" in crispbench("report", out / "fake").err


def test_an_output_folder_that_lies_below_a_file_is_a_wrong_argument(
    small: Path, moody: Any, crispbench: Crispbench, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    answer = crispbench("run", small, "--out", tmp_path / "file/out")
    assert (answer.code, answer.out, answer.err.count("\n"), moody.queries) == (2, "", 1, [])
