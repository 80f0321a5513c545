"""Parts of a run that were scored apart, joined, are the run of one process; what does not belong together stays so."""

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
    """They take most of a small run's time, and nothing here depends on them."""
    monkeypatch.setattr(plots, "draw", lambda rows: [])


@pytest.fixture
def two_sets(beir: Callable[..., Path], config: Callable[..., Path]) -> Path:
    """A config of two benchmarks and two engines; `noise` gives every digit of a score a say in the order."""
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


@pytest.mark.parametrize("parts", [3, 13])  # 13: of 12 queries, so that one machine has nothing to do
def test_parts_of_the_queries_merge_to_the_bytes_of_one_process(
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
    assert [content(name) for name in names] == before  # the runs are as they were
    index = json.loads((tmp_path / "merged/run.json").read_text())
    assert [entry["run"] for entry in index["merged"]] == list(map(str, names))
    assert crispbench("merge", tmp_path / "less", *names[1:]).code == 5
    less = json.loads((tmp_path / "less/fake/measures.json").read_text())["benchmarks"]["letters"]
    assert len(less["missing"]) == QUERIES // parts + (QUERIES % parts > 0)


def test_disjoint_benchmarks_merge_to_the_bytes_of_one_process(
    two_sets: Path, crispbench: Crispbench, tmp_path: Path
) -> None:
    assert crispbench("run", two_sets, "--out", tmp_path / "whole").code == 0
    for name in ("letters", "numbers"):
        assert crispbench("run", two_sets, "--benchmark", name, "--out", tmp_path / name).code == 0
    assert crispbench("merge", tmp_path / "merged", tmp_path / "letters", tmp_path / "numbers").code == 0
    assert measures(tmp_path / "merged") == measures(tmp_path / "whole")


def test_a_part_is_complete_when_its_queries_are_and_its_report_says_what_it_is(
    two_sets: Path, crispbench: Crispbench, tmp_path: Path
) -> None:
    answer = crispbench("run", two_sets, "--part", "2/3", "--out", tmp_path / "part", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)["engines"]["fake"]["benchmarks"]["letters"]
    assert (found["verdict"], found["queries"], len(found["missing"])) == ("incomplete", QUERIES, 8)
    assert json.loads((tmp_path / "part/run.json").read_text())["part"] == "2/3"
    said = "part 2 of 3 of the queries"
    assert said in (tmp_path / "part/report/report.md").read_text()
    assert crispbench("run", two_sets, "--out", tmp_path / "part").code == 0  # the rest, into the same folder
    assert "part" not in json.loads((tmp_path / "part/run.json").read_text())
    assert said not in (tmp_path / "part/report/report.md").read_text()


def test_a_part_with_a_failed_query_of_its_own_is_incomplete(
    small: Path, moody: Any, crispbench: Crispbench, tmp_path: Path
) -> None:
    from engines.base import ScoringFailed

    moody.answers["animal cat"] = ScoringFailed("no")  # of the ids in order, q-bird, q-cat, ... the second
    own = crispbench("run", small, "--engine", "moody", "--part", "2/5", "--out", tmp_path / "own")
    other = crispbench("run", small, "--engine", "moody", "--part", "1/5", "--out", tmp_path / "other")
    assert (own.code, other.code) == (5, 0)
    assert crispbench("merge", tmp_path / "merged", tmp_path / "own", tmp_path / "other").code == 5
    report = (tmp_path / "merged/report/report.md").read_text()
    assert "1 queries failed: no" in report and "4 queries have no scores" in report


@given(
    query_ids=st.lists(st.text(max_size=3), unique=True, max_size=30),
    parts=st.integers(1, 8),
    order=st.randoms(use_true_random=False),
)
def test_parts_are_disjoint_equally_large_and_together_everything(
    query_ids: list[str], parts: int, order: random.Random
) -> None:
    shares = [Part(number, parts).of(query_ids) for number in range(1, parts + 1)]
    assert sorted(query_id for share in shares for query_id in share) == sorted(query_ids)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    order.shuffle(query_ids)
    assert [Part(number, parts).of(query_ids) for number in range(1, parts + 1)] == shares


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "3/", "a/b", "1/3/5", "-1/3", "1/0", "", " 1/3", "1/3\n", "²/3"])
def test_a_part_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="expected NUMBER/PARTS, such as 3/16"):
        Part.read(text)


ENTRY = {"revision": "sha256:aa", "queries": 2}
SETS = {name: recordings.entry(**ENTRY, candidates={"sha256": "cc"}) for name in ("animals", "plants")}
MACHINE = {"system": "Linux", "cpu": "A", "cores": "8", "memory_gib": "64", "gpu": "none", "gpu_driver": "none"}
QRELS = {"q": {"d": 1}, "r": {"e": 1}}
SCORES = [Score("d", 1, 0.5), Score("e", 2, 0.25)]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the run `name` of one engine: `write("a", {"animals": {"q": scores}}, machine=...)`."""

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
def test_another_configuration_is_refused_by_its_name_and_nothing_is_left(
    write: Write, crispbench: Crispbench, tmp_path: Path, changed: Any, phrase: str
) -> None:
    one, other = write("one", {"animals": {"q": SCORES}}), write("other", {"animals": {"r": SCORES}}, **changed)
    answer = crispbench("merge", tmp_path / "merged", one, other)
    assert (answer.code, answer.err.count("\n")) == (4, 1)
    assert phrase in answer.err and str(one) in answer.err and str(other) in answer.err
    assert ("--allow-machine" in answer.err) == ("machine" in changed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


def test_queries_that_two_runs_hold_must_have_the_same_scores_to_the_last_bit(
    write: Write, crispbench: Crispbench, tmp_path: Path
) -> None:
    one, same = write("one", {"animals": {"q": SCORES}}), write("same", {"animals": {"r": SCORES, "q": SCORES}})
    other = write("other", {"animals": {"q": [SCORES[0], Score("e", 2, 0.25000000000000006)]}})
    assert crispbench("merge", tmp_path / "merged", one, same).code == 0
    answer = crispbench("merge", tmp_path / "refused", one, same, other)
    assert answer.code == 4
    line = f"the scores of query 'q' of animals in {other / 'large'} differ from those in {one / 'large'}"
    assert f"{line} (e 0.25000000000000006, e 0.25): leave one" in answer.err


def test_unlike_machines_are_merged_on_request_without_their_times(
    write: Write, crispbench: Crispbench, tmp_path: Path
) -> None:
    gpu = {"description": {"model": "m", "device": "NVIDIA H100"}, "machine": MACHINE | {"gpu": "NVIDIA H100"}}
    other = {"description": {"model": "m", "device": "NVIDIA H200"}, "machine": MACHINE | {"gpu": "NVIDIA H200"}}
    one, two = write("one", {"animals": {"q": SCORES}}, **gpu), write("two", {"animals": {"r": SCORES}}, **other)
    assert crispbench("merge", tmp_path / "merged", one, two).code == 4
    assert crispbench("merge", tmp_path / "merged", one, two, "--allow-machine").code == 0
    manifest = json.loads((tmp_path / "merged/large/manifest.json").read_text())
    assert manifest["machines"] == [gpu["machine"], other["machine"]]
    assert manifest["machine"]["gpu"] == manifest["description"]["device"] == "NVIDIA H100 | NVIDIA H200"
    assert manifest["machine"]["cpu"] == "A"
    latency = json.loads((tmp_path / "merged/large/latency.json").read_text())["benchmarks"]["animals"]
    assert (latency["samples"], latency["pairs_per_s"]) == (0, None)
    assert "2 unlike machines: times are left out" in (tmp_path / "merged/report/report.md").read_text()
    third = write("three", {"plants": {"q": SCORES, "r": SCORES}}, **gpu)
    assert crispbench("merge", tmp_path / "again", tmp_path / "merged", third).code == 4
    assert crispbench("merge", tmp_path / "again", tmp_path / "merged", third, "--allow-machine").code == 0
    again = json.loads((tmp_path / "again/large/manifest.json").read_text())
    assert again["machines"] == manifest["machines"] and again["machine"] == manifest["machine"]


def test_samples_keep_their_order_and_a_failure_ends_where_another_run_has_the_scores(
    write: Write, crispbench: Crispbench, tmp_path: Path
) -> None:
    one = write("one", {"animals": {"r": SCORES}}, failed="q")
    two = write("two", {"animals": {"q": SCORES}}, failed="x")
    assert crispbench("merge", tmp_path / "merged", two, one).code == 0
    with Store.read(tmp_path / "merged/large") as store:
        assert [sample.query_id for sample in store.samples("animals")] == ["q", "r"]
        assert [failure.query_id for failure in store.failures("animals")] == ["x"]


def test_an_engine_that_one_run_could_not_load_is_said_only_while_its_scores_lack(
    write: Write, crispbench: Crispbench, tmp_path: Path
) -> None:
    one, two = write("one", {"animals": {"q": SCORES}}), write("two", {"animals": {"r": SCORES}})
    absent = tmp_path / "absent"
    absent.mkdir()
    index = {"format": 1, "name": "small", "engines": ["large"], "unavailable": {"large": "unavailable: no GPU"}}
    write_json(absent / "run.json", index)
    assert crispbench("merge", tmp_path / "part", one, absent).code == 5
    assert "unavailable: no GPU" in (tmp_path / "part/report/report.md").read_text()
    assert crispbench("merge", tmp_path / "whole", one, absent, two).code == 0
    assert "unavailable: no GPU" not in (tmp_path / "whole/report/report.md").read_text()
    alone = crispbench("merge", tmp_path / "nothing", absent)
    assert alone.code == 5 and "none of the 1 runs has scores" in alone.err


def test_what_cannot_be_merged_to_or_from_is_one_line(write: Write, crispbench: Crispbench, tmp_path: Path) -> None:
    one, two = write("one", {"animals": {"q": SCORES}}), write("two", {"animals": {"r": SCORES}})
    (tmp_path / "mine").mkdir()
    for words, code, phrase in (
        ([tmp_path / "mine", one, two], 2, "mine exists"),
        ([tmp_path / "mine", one, two, "--fresh"], 2, "is not a run folder"),
        ([tmp_path / "merged", one, two, one], 2, "one is named twice"),
        ([one, one, two, "--fresh"], 2, "is one of the runs"),
        ([one / "merged", one, two], 2, "lies in one"),
        ([tmp_path / "merged", one, tmp_path / "mine"], 5, "is not a run folder"),
    ):
        answer = crispbench("merge", *words)
        assert (answer.code, answer.err.count("\n")) == (code, 1) and phrase in answer.err, answer.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "one", "two"]
    assert list((tmp_path / "mine").iterdir()) == []


def test_fresh_replaces_a_merged_run_and_a_refused_merge_leaves_it(
    write: Write, crispbench: Crispbench, tmp_path: Path
) -> None:
    one, two = write("one", {"animals": {"q": SCORES}}), write("two", {"animals": {"r": SCORES}})
    other = write("other", {"animals": {"r": SCORES}}, machine=MACHINE | {"cpu": "B"})
    assert crispbench("merge", tmp_path / "merged", one).code == 5
    before = content(tmp_path / "merged")
    assert crispbench("merge", tmp_path / "merged", one, other, "--fresh").code == 4
    assert content(tmp_path / "merged") == before
    assert crispbench("merge", tmp_path / "merged", one, two, "--fresh").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged", "one", "other", "two"]


def test_a_damaged_part_is_named_and_not_the_folder_that_is_written(
    write: Write, crispbench: Crispbench, tmp_path: Path
) -> None:
    one = write("one", {"animals": {"q": SCORES}})
    two = write("two", {"animals": {f"x{number}": SCORES for number in range(500)}})
    file = two / "large" / FILE
    file.write_bytes(file.read_bytes()[:-20000])
    answer = crispbench("merge", tmp_path / "merged", one, two)
    assert (answer.code, answer.err.count("\n")) == (5, 1)
    assert f"{file}: database disk image is malformed" in answer.err
    assert not (tmp_path / "merged").exists()


def test_a_merge_that_is_killed_leaves_no_run_and_the_same_command_makes_it(
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
    assert answer.code == 5  # the 400 queries are not the benchmark's two
    with Store.read(tmp_path / "merged/large") as store:
        assert len(store.done("animals")) == 800


def committed(folder: Path) -> int:
    """Queries in the draft of a merged run, read without the code under test."""
    for path in folder.glob(f".merged.*/merged/large/{FILE}"):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            try:
                return int(connection.execute("SELECT count(*) FROM samples").fetchone()[0])
            except sqlite3.OperationalError:  # its first table is not there yet
                return 0
    return 0
