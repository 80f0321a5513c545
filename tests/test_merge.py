"""Merged parts equal the run of one process; parts that do not belong together are refused."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.base import Description
from harness.config import ConfigError
from harness.files import write_json
from harness.manifest import Machine, Manifest
from harness.records import Failure, Sample, Score
from harness.run.page import plots
from harness.run.tasks import Part
from harness.store import FILE, Store
from tests import recordings

ROOT = Path(__file__).parents[1]
QUERIES = 12
PATIENCE_S = 60
Crispbench = Callable[..., Any]
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the plots: they take most of a small run's time, and no test here depends on them."""
    monkeypatch.setattr(plots, "draw", lambda rows: [])


@pytest.fixture
def two_sets(beir: Callable[..., Path], config: Callable[..., Path]) -> Path:
    """A config of two benchmarks and two engines; with `noise` every digit of a score affects the order."""
    draw = random.Random(3)
    words = [f"word{number}" for number in range(20)]
    entries = []
    for name in ("letters", "numbers"):
        documents = {f"d{number}": " ".join(draw.choices(words, k=8)) for number in range(30)}
        queries = {f"q{number}": " ".join(draw.choices(words, k=3)) for number in range(QUERIES)}
        qrels = {query_id: {f"d{draw.randrange(30)}": 1 for _ in range(3)} for query_id in queries}
        entries.append({"source": "beir", "path": str(beir(name, documents, queries, qrels))})
    engines = {"fake": {"kind": "fake", "noise": 0.3}, "bm25": {"kind": "bm25"}}
    return config(engines=engines, benchmarks=entries, candidates={"k": 6})


def measures(run: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in run.glob("*/measures.json")}


def content(run: Path) -> dict[str, bytes]:
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("parts", [3, 13])  # 13 parts of 12 queries: one part is empty
def test_parts_of_the_queries_merge_to_the_bytes_of_a_single_process(
    two_sets: Path, crispbench: Crispbench, tmp_path: Path, parts: int
) -> None:
    assert crispbench("run", two_sets, "--out", tmp_path / "whole").code == 0
    names = [tmp_path / f"part-{number}" for number in range(1, parts + 1)]
    for number, name in enumerate(names, start=1):
        answer = crispbench("run", two_sets, "--part", f"{number}/{parts}", "--out", name)
        assert answer.code == 0, answer.err
    before = [content(name) for name in names]
    assert crispbench("merge", tmp_path / "merged", *names).code == 0
    assert measures(tmp_path / "merged") == measures(tmp_path / "whole")
    assert measures(tmp_path / "merged").keys() == {"fake", "bm25"}
    for engine in ("fake", "bm25"):
        manifests = [(tmp_path / run / engine / "manifest.json").read_bytes() for run in ("merged", "whole")]
        assert manifests[0] == manifests[1]
    assert [content(name) for name in names] == before  # the source runs are unchanged
    index = json.loads((tmp_path / "merged/run.json").read_text())
    assert [entry["run"] for entry in index["merged"]] == list(map(str, names))
    assert crispbench("merge", tmp_path / "less", *names[1:]).code == 5
    less = json.loads((tmp_path / "less/fake/measures.json").read_text())["benchmarks"]["letters"]
    assert len(less["missing"]) == QUERIES // parts + (QUERIES % parts > 0)


def test_disjoint_benchmarks_merge_to_the_bytes_of_a_single_process(
    two_sets: Path, crispbench: Crispbench, tmp_path: Path
) -> None:
    assert crispbench("run", two_sets, "--out", tmp_path / "whole").code == 0
    for name in ("letters", "numbers"):
        assert crispbench("run", two_sets, "--benchmark", name, "--out", tmp_path / name).code == 0
    assert crispbench("merge", tmp_path / "merged", tmp_path / "letters", tmp_path / "numbers").code == 0
    assert measures(tmp_path / "merged") == measures(tmp_path / "whole")


def test_a_part_exits_0_when_its_queries_are_scored_and_its_report_names_the_part(
    two_sets: Path, crispbench: Crispbench, tmp_path: Path
) -> None:
    answer = crispbench("run", two_sets, "--part", "2/3", "--out", tmp_path / "part", "--json")
    assert answer.code == 0, answer.err
    benchmark = json.loads(answer.out)["engines"]["fake"]["benchmarks"]["letters"]
    assert (benchmark["verdict"], benchmark["queries"], len(benchmark["missing"])) == ("incomplete", QUERIES, 8)
    assert json.loads((tmp_path / "part/run.json").read_text())["part"] == "2/3"
    label = "part 2 of 3 of the queries"
    assert label in (tmp_path / "part/report/report.md").read_text()
    # The same folder takes the remaining queries.
    assert crispbench("run", two_sets, "--out", tmp_path / "part").code == 0
    assert "part" not in json.loads((tmp_path / "part/run.json").read_text())
    assert label not in (tmp_path / "part/report/report.md").read_text()


def test_a_part_with_a_failed_query_is_incomplete(
    small: Path, moody: Any, crispbench: Crispbench, tmp_path: Path
) -> None:
    from engines.base import ScoringFailed

    moody.answers["animal cat"] = ScoringFailed("no")  # q-cat is the second of the sorted ids q-bird, q-cat, ...
    failed = crispbench("run", small, "--engine", "moody", "--part", "2/5", "--out", tmp_path / "own")
    complete = crispbench("run", small, "--engine", "moody", "--part", "1/5", "--out", tmp_path / "other")
    assert (failed.code, complete.code) == (5, 0)
    assert crispbench("merge", tmp_path / "merged", tmp_path / "own", tmp_path / "other").code == 5
    report = (tmp_path / "merged/report/report.md").read_text()
    assert "1 query failed: no" in report and "4 queries have no scores" in report


@given(
    query_ids=st.lists(st.text(max_size=3), unique=True, max_size=30),
    parts=st.integers(1, 8),
    order=st.randoms(use_true_random=False),
)
def test_parts_are_disjoint_of_equal_size_and_cover_all_queries(
    query_ids: list[str], parts: int, order: random.Random
) -> None:
    shares = [Part(number, parts).of(query_ids) for number in range(1, parts + 1)]
    assert sorted(query_id for share in shares for query_id in share) == sorted(query_ids)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    order.shuffle(query_ids)
    assert [Part(number, parts).of(query_ids) for number in range(1, parts + 1)] == shares


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "3/", "a/b", "1/3/5", "-1/3", "1/0", "", " 1/3", "1/3\n", "²/3"])
def test_an_invalid_part_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected NUMBER/PARTS, such as 3/16"):
        Part.read(text)


ENTRY = {"revision": "sha256:aa", "queries": 2}
SETS = {name: recordings.entry(**ENTRY, candidates={"sha256": "cc"}) for name in ("animals", "plants")}
MACHINE = {"system": "Linux", "cpu": "A", "cores": "8", "memory_gib": "64", "gpu": "none", "gpu_driver": "none"}
QRELS = {"q": {"d": 1}, "r": {"e": 1}}
SCORES = [Score("d", 1, 0.5), Score("e", 2, 0.25)]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a run of one engine: `write("a", {"animals": {"q": scores}}, machine=...)` writes the run `a`."""

    def written(
        name: str,
        scored: dict[str, dict[str, list[Score]]],
        failed: str = "",
        qrels: dict[str, dict[str, int]] = QRELS,
        **changed: Any,
    ) -> Path:
        sets = {benchmark: SETS[benchmark] for benchmark in scored}
        fields: dict[str, Any] = {"description": {"model": "m", "device": "cpu"}, "machine": MACHINE} | changed
        manifest = Manifest(
            engine="large",
            kind="fake",
            options={"seed": 1},
            description=Description.read(fields["description"]),
            versions={"python": "3.11"},
            machine=Machine.read(fields["machine"]),
            benchmarks=fields.get("benchmarks", sets),
        )
        with Store.open(tmp_path / name / "large", manifest) as store:
            for benchmark, queries in scored.items():
                store.save_qrels(benchmark, qrels)
                for query_id, scores in queries.items():
                    store.commit(benchmark, Sample(query_id, 0.125, len(scores), warmup=False), scores)
                if failed:
                    store.fail(benchmark, Failure(failed, "no answer"))
        write_json(
            tmp_path / name / "run.json", {"format": 1, "name": "small", "engines": ["large"], "unavailable": {}}
        )
        return tmp_path / name

    return written


@pytest.mark.parametrize(
    ("changed", "phrase"),
    [
        ({"machine": MACHINE | {"cpu": "B"}}, "machine.cpu was 'A' and is 'B'"),
        ({"description": {"model": "n", "device": "cpu"}}, "description.model was 'm' and is 'n'"),
        (
            {"benchmarks": {"animals": recordings.entry(**ENTRY, candidates={"sha256": "dd"})}},
            "benchmarks.animals.candidates.sha256 was 'cc' and is 'dd'",
        ),
        ({"qrels": QRELS | {"r": {"e": 2}}}, "the judgements of animals in "),
    ],
)
def test_runs_of_different_configurations_are_refused_and_nothing_is_written(
    write: Write, crispbench: Crispbench, tmp_path: Path, changed: Any, phrase: str
) -> None:
    first, second = write("first", {"animals": {"q": SCORES}}), write("second", {"animals": {"r": SCORES}}, **changed)
    answer = crispbench("merge", tmp_path / "merged", first, second)
    assert (answer.code, answer.err.count("\n")) == (4, 1)
    assert phrase in answer.err and str(first) in answer.err and str(second) in answer.err
    assert ("--allow-machine" in answer.err) == ("machine" in changed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_queries_in_two_runs_must_have_bitwise_equal_scores(
    write: Write, crispbench: Crispbench, tmp_path: Path
) -> None:
    first, same = write("first", {"animals": {"q": SCORES}}), write("same", {"animals": {"r": SCORES, "q": SCORES}})
    different = write("different", {"animals": {"q": [SCORES[0], Score("e", 2, 0.25000000000000006)]}})
    assert crispbench("merge", tmp_path / "merged", first, same).code == 0
    answer = crispbench("merge", tmp_path / "refused", first, same, different)
    assert answer.code == 4
    line = f"the scores of query 'q' of animals in {different / 'large'} differ from those in {first / 'large'}"
    assert f"{line} (e 0.25000000000000006, e 0.25): leave one" in answer.err


def test_runs_of_different_machines_are_merged_on_request_without_times(
    write: Write, crispbench: Crispbench, tmp_path: Path
) -> None:
    h100 = {"description": {"model": "m", "device": "NVIDIA H100"}, "machine": MACHINE | {"gpu": "NVIDIA H100"}}
    h200 = {"description": {"model": "m", "device": "NVIDIA H200"}, "machine": MACHINE | {"gpu": "NVIDIA H200"}}
    first, second = (
        write("first", {"animals": {"q": SCORES}}, **h100),
        write("second", {"animals": {"r": SCORES}}, **h200),
    )
    assert crispbench("merge", tmp_path / "merged", first, second).code == 4
    assert crispbench("merge", tmp_path / "merged", first, second, "--allow-machine").code == 0
    manifest = json.loads((tmp_path / "merged/large/manifest.json").read_text())
    assert manifest["machines"] == [h100["machine"], h200["machine"]]
    assert manifest["machine"]["gpu"] == manifest["description"]["device"] == "NVIDIA H100 | NVIDIA H200"
    assert manifest["machine"]["cpu"] == "A"
    latency = json.loads((tmp_path / "merged/large/latency.json").read_text())["benchmarks"]["animals"]
    assert (latency["samples"], latency["pairs_per_s"]) == (0, None)
    assert "2 different machines: times are left out" in (tmp_path / "merged/report/report.md").read_text()
    third = write("third", {"plants": {"q": SCORES, "r": SCORES}}, **h100)
    assert crispbench("merge", tmp_path / "again", tmp_path / "merged", third).code == 4
    assert crispbench("merge", tmp_path / "again", tmp_path / "merged", third, "--allow-machine").code == 0
    again = json.loads((tmp_path / "again/large/manifest.json").read_text())
    assert again["machines"] == manifest["machines"] and again["machine"] == manifest["machine"]


def test_samples_keep_their_order_and_scores_replace_the_failure_of_another_run(
    write: Write, crispbench: Crispbench, tmp_path: Path
) -> None:
    first = write("first", {"animals": {"r": SCORES}}, failed="q")
    second = write("second", {"animals": {"q": SCORES}}, failed="x")
    assert crispbench("merge", tmp_path / "merged", second, first).code == 0
    with Store.read(tmp_path / "merged/large") as store:
        assert [sample.query_id for sample in store.samples("animals")] == ["q", "r"]
        assert [failure.query_id for failure in store.failures("animals")] == ["x"]


def test_an_unavailable_engine_is_reported_only_while_its_scores_are_missing(
    write: Write, crispbench: Crispbench, tmp_path: Path
) -> None:
    first, second = write("first", {"animals": {"q": SCORES}}), write("second", {"animals": {"r": SCORES}})
    absent = tmp_path / "absent"
    absent.mkdir()
    index = {"format": 1, "name": "small", "engines": ["large"], "unavailable": {"large": "unavailable: no GPU"}}
    write_json(absent / "run.json", index)
    assert crispbench("merge", tmp_path / "part", first, absent).code == 5
    assert "unavailable: no GPU" in (tmp_path / "part/report/report.md").read_text()
    assert crispbench("merge", tmp_path / "whole", first, absent, second).code == 0
    assert "unavailable: no GPU" not in (tmp_path / "whole/report/report.md").read_text()
    alone = crispbench("merge", tmp_path / "nothing", absent)
    assert alone.code == 5 and "none of the 1 runs has scores" in alone.err


def test_a_merge_that_is_impossible_is_refused_in_one_line(
    write: Write, crispbench: Crispbench, tmp_path: Path
) -> None:
    first, second = write("first", {"animals": {"q": SCORES}}), write("second", {"animals": {"r": SCORES}})
    (tmp_path / "mine").mkdir()
    for words, code, phrase in (
        ([tmp_path / "mine", first, second], 2, "mine exists"),
        ([tmp_path / "mine", first, second, "--fresh"], 2, "is not a run folder"),
        ([tmp_path / "merged", first, second, first], 2, "first is named twice"),
        ([first, first, second, "--fresh"], 2, "is one of the runs"),
        ([first / "merged", first, second], 2, "lies in one"),
        ([tmp_path / "merged", first, tmp_path / "mine"], 2, "is not a run folder"),
    ):
        answer = crispbench("merge", *words)
        assert (answer.code, answer.err.count("\n")) == (code, 1) and phrase in answer.err, answer.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "mine", "second"]
    assert list((tmp_path / "mine").iterdir()) == []


def test_fresh_replaces_a_merged_run_and_a_refused_merge_keeps_it(
    write: Write, crispbench: Crispbench, tmp_path: Path
) -> None:
    first, second = write("first", {"animals": {"q": SCORES}}), write("second", {"animals": {"r": SCORES}})
    foreign = write("foreign", {"animals": {"r": SCORES}}, machine=MACHINE | {"cpu": "B"})
    assert crispbench("merge", tmp_path / "merged", first).code == 5
    before = content(tmp_path / "merged")
    assert crispbench("merge", tmp_path / "merged", first, foreign, "--fresh").code == 4
    assert content(tmp_path / "merged") == before
    assert crispbench("merge", tmp_path / "merged", first, second, "--fresh").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "foreign", "merged", "second"]


def test_a_damaged_part_is_named_and_nothing_is_written(write: Write, crispbench: Crispbench, tmp_path: Path) -> None:
    first = write("first", {"animals": {"q": SCORES}})
    second = write("second", {"animals": {f"x{number}": SCORES for number in range(500)}})
    file = second / "large" / FILE
    file.write_bytes(file.read_bytes()[:-20000])
    answer = crispbench("merge", tmp_path / "merged", first, second)
    assert (answer.code, answer.err.count("\n")) == (5, 1)
    assert f"{file}: database disk image is malformed" in answer.err
    assert not (tmp_path / "merged").exists()


def test_a_killed_merge_leaves_no_run_and_the_same_command_completes_it(
    write: Write, crispbench: Crispbench, tmp_path: Path
) -> None:
    parts = [write(f"part-{number}", {"animals": {f"{number}-{n}": SCORES for n in range(400)}}) for number in (1, 2)]
    words = ["merge", str(tmp_path / "merged"), *map(str, parts)]
    before = [content(part) for part in parts]
    with subprocess.Popen([sys.executable, "-m", "harness", *words], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not committed(tmp_path):
            assert process.poll() is None and time.monotonic() < deadline
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "merged").exists()
    assert [content(part) for part in parts] == before
    answer = crispbench(*words)
    assert answer.code == 5  # the 800 queries are not the two of the benchmark
    with Store.read(tmp_path / "merged/large") as store:
        assert len(store.done("animals")) == 800


def committed(folder: Path) -> int:
    """Queries in the draft of a merged run, read without the code under test."""
    for path in folder.glob(f".merged.*/merged/large/{FILE}"):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            try:
                return int(connection.execute("SELECT count(*) FROM samples").fetchone()[0])
            except sqlite3.OperationalError:  # its first table does not exist yet
                return 0
    return 0
