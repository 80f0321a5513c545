"""Queries without candidates and judgements without documents are named wherever results are read."""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crispbench.recorded import read_run
from harness.benchmarks import BenchmarkError, load
from harness.benchmarks.beir import BeirFolder
from harness.candidates.first_stage import retrieve
from harness.candidates.stages import NativeStage
from harness.manifest import BenchmarkRecord
from harness.records import Benchmark

Crispbench = Callable[..., Any]

NOTE = "queries without any candidate, which count 0 for every engine: 2 (q2, q3)"
ALARM = "2 of 3 queries (67%) have no candidate in the first stage (run) and count 0 for every engine: q2, q3"


@pytest.fixture
def partial(tmp_path: Path, beir: Callable[..., Path], config: Callable[..., Path]) -> Path:
    """Three queries, and a run file that has candidates for the first of them only."""
    texts = {"1": "cats purr", "2": "dogs bark", "3": "birds sing"}
    folder = beir(
        "pets",
        {f"d{number}": text for number, text in texts.items()},
        {f"q{number}": text for number, text in texts.items()},
        {f"q{number}": {f"d{number}": 1} for number in texts},
    )
    (tmp_path / "first.trec").write_text("q1 Q0 d2 1 2 tag\nq1 Q0 d1 2 1 tag\nother Q0 d1 1 1 tag\n")
    return config(
        engines={"bm25": {"kind": "bm25"}, "fake": {"kind": "fake"}},
        benchmarks=[{"source": "beir", "path": str(folder)}],
        candidates={"source": "run", "path": str(tmp_path / "first.trec")},
    )


def test_every_reader_of_a_run_names_the_queries_without_candidates(
    partial: Path, crispbench: Crispbench, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    answer = crispbench("run", partial, "--out", run)
    assert answer.code == 0
    assert f"crispbench: pets: {ALARM}\n" in answer.err
    assert NOTE in " ".join(answer.out.split()) and ALARM in " ".join(answer.out.split())
    for page in ("report.md", "index.html"):
        text = (run / "report" / page).read_text()
        assert text.count(f"pets: {ALARM}") == 1 and NOTE in text
    assert "pets. 3 queries (2 of them without candidates), revision" in (run / "report/table.tex").read_text()
    (row,) = (row for row in read_run(run).rows if row.engine == "fake")
    assert (row.without_candidates, row.alarms) == (("q2", "q3"), (ALARM,))
    assert list(read_run(run).to_pandas()["without_candidates"]) == [2, 2]
    manifest = json.loads((run / "fake/manifest.json").read_text())["benchmarks"]["pets"]
    assert (manifest["without_candidates"], manifest["alarms"]) == (["q2", "q3"], [ALARM])
    measured = json.loads((run / "fake/measures.json").read_text())["benchmarks"]["pets"]
    assert (measured["without_candidates"], measured["missing"]) == (["q2", "q3"], [])
    assert measured["alarms"] == [ALARM]
    assert measured["measures"]["nDCG@10"]["value"] == pytest.approx(1 / 3)  # by hand: q1 is right, q2 and q3 count 0


@pytest.mark.parametrize(
    ("format", "consequence"),
    [("trec", "which the run file lacks and only trec_eval -c counts"), ("mteb", "which count 0 in the means")],
)
def test_an_export_names_them_and_is_still_complete(
    partial: Path, crispbench: Crispbench, tmp_path: Path, format: str, consequence: str
) -> None:
    if format == "mteb":
        pytest.importorskip("mteb")
    assert crispbench("run", partial, "--out", tmp_path / "run", "--engine", "fake").code == 0
    answer = crispbench("export", format, tmp_path / "run", tmp_path / "out", "--json")
    assert answer.code == 0
    note = f"fake on pets: queries without any candidate, {consequence}: 2 (q2, q3)"
    assert json.loads(answer.out)["notes"] == [note]
    assert answer.err == f"crispbench: {note}\n"


def test_merged_parts_name_the_queries_of_all_parts(partial: Path, crispbench: Crispbench, tmp_path: Path) -> None:
    parts = [tmp_path / f"part-{number}" for number in (1, 2, 3)]
    for number, part in enumerate(parts, start=1):
        assert crispbench("run", partial, "--part", f"{number}/3", "--out", part).code == 0
    alone = json.loads((parts[2] / "fake/measures.json").read_text())["benchmarks"]["pets"]
    assert (alone["without_candidates"], alone["missing"]) == (["q2", "q3"], ["q1", "q2"])  # of all parts
    assert crispbench("merge", tmp_path / "all", *parts).code == 0
    joined = json.loads((tmp_path / "all/fake/measures.json").read_text())["benchmarks"]["pets"]
    assert (joined["without_candidates"], joined["missing"]) == (["q2", "q3"], [])
    assert ALARM in (tmp_path / "all/report/report.md").read_text()


def test_comparisons_and_checks_of_such_runs_say_it(partial: Path, crispbench: Crispbench, tmp_path: Path) -> None:
    for name in ("before", "now"):
        assert crispbench("run", partial, "--out", tmp_path / name, "--engine", "fake").code == 0
    sides = (tmp_path / "before/fake", tmp_path / "now/fake")
    crispbench("compare", *sides, "--out", tmp_path / "compared")
    assert f"> pets: {ALARM}" in (tmp_path / "compared/compare.md").read_text()
    assert json.loads((tmp_path / "compared/compare.json").read_text())["comparisons"][0]["alarms"] == [
        f"pets: {ALARM}"
    ]
    assert f"pets: {ALARM}" in json.loads(crispbench("check", *sides, "--json").out)["notes"]


def test_ids_that_no_run_file_holds_leave_only_their_benchmark_out_of_an_export(
    beir: Callable[..., Path], config: Callable[..., Path], animals: Path, crispbench: Crispbench, tmp_path: Path
) -> None:
    documents = {"New York": "a city that never sleeps", "Rome": "an eternal city"}
    cities = beir(
        "cities", documents, {"#1": "never sleeps", "2": "eternal"}, {"#1": {"New York": 1}, "2": {"Rome": 1}}
    )
    sources = [{"source": "beir", "path": str(folder)} for folder in (cities, animals)]
    path = config(engines={"fake": {"kind": "fake"}}, benchmarks=sources)
    assert crispbench("run", path, "--out", tmp_path / "run").code == 0
    measured = json.loads((tmp_path / "run/fake/measures.json").read_text())["benchmarks"]["cities"]
    assert (measured["verdict"], measured["queries"]) == ("complete", 2)
    answer = crispbench("export", "trec", tmp_path / "run", tmp_path / "out", "--json")
    assert answer.code == 5
    document = json.loads(answer.out)
    assert [Path(file).name for file in document["files"]] == ["animals.trec.gz"]
    (problem,) = document["problems"]
    assert problem.startswith("fake on cities: left out, ") and problem.endswith(
        "id '#1' or 'New York' holds white space, which a run file cannot represent"
    )


def test_a_run_from_before_manifests_recorded_them_names_them_too(
    partial: Path, crispbench: Crispbench, tmp_path: Path
) -> None:
    assert crispbench("run", partial, "--out", tmp_path / "run", "--engine", "fake").code == 0
    with sqlite3.connect(tmp_path / "run/fake/scores.sqlite") as store:
        document = json.loads(store.execute("SELECT document FROM manifest").fetchone()[0])
        del document["benchmarks"]["pets"]["without_candidates"], document["benchmarks"]["pets"]["alarms"]
        store.execute("UPDATE manifest SET document = ?", (json.dumps(document),))
    store.close()
    assert NOTE in " ".join(crispbench("report", tmp_path / "run").out.split())


def test_a_limit_outside_the_run_file_is_named_as_the_cause(
    partial: Path, crispbench: Crispbench, tmp_path: Path
) -> None:
    (tmp_path / "first.trec").write_text("q1 Q0 d1 1 1 tag\n")
    (kept,) = load("beir", {"path": str(tmp_path / "pets"), "queries": 1}).queries
    assert kept != "q1"
    answer = crispbench("run", partial, "--limit", 1, "--out", tmp_path / "run")
    assert answer.code == 2
    assert answer.err == (
        f"crispbench: {tmp_path / 'first.trec'}: none of its 1 queries is among the 1 of pets (its first is 'q1', the "
        f"benchmark's {kept!r}): this run is for other queries, or it lacks those that --limit or `queries` sampled\n"
    )


def test_a_foreign_document_in_a_run_file_is_refused_with_its_line(
    partial: Path, crispbench: Crispbench, tmp_path: Path
) -> None:
    (tmp_path / "first.trec").write_text("# a remark\nq1 Q0 d1 1 1 tag\nq1 Q0 d9 2 0.5 tag\n")
    answer = crispbench("run", partial, "--out", tmp_path / "run")
    assert answer.code == 2
    assert answer.err == (
        f"crispbench: {tmp_path / 'first.trec'}:3: document 'd9' of query 'q1' is not in pets's corpus\n"
    )


def benchmark(queries: int) -> Benchmark:
    ids = [f"q{number}" for number in range(queries)]
    return Benchmark("made", "1", dict.fromkeys(ids, "x"), {"d": "x"}, {key: {"d": 1} for key in ids})


@pytest.mark.parametrize(("empty", "alarms"), [(0, 0), (1, 0), (2, 1)])
def test_an_alarm_needs_a_tenth_of_the_queries(empty: int, alarms: int) -> None:
    made = benchmark(20)
    lists = {query_id: ["d"] for query_id in list(made.queries)[empty:]}
    candidates = retrieve(replace(made, candidates=lists), NativeStage())
    assert len(candidates.without_candidates) == empty
    assert len(candidates.alarms) == alarms


def test_judgements_of_another_collection_end_a_run_before_it_scores(
    partial: Path, crispbench: Crispbench, tmp_path: Path
) -> None:
    qrels = tmp_path / "pets/qrels/test.tsv"
    qrels.write_text(qrels.read_text().replace("\td", "\tMED-"))
    for limit in ([], ["--limit", 1]):
        answer = crispbench("run", partial, "--out", tmp_path / "run", *limit)
        assert answer.code == 2 and not (tmp_path / "run").exists()
        assert "none of the 3 relevant judgements is for a document of the corpus" in answer.err


def test_a_large_share_of_missing_documents_is_said_before_scoring_and_shown_first(
    partial: Path, crispbench: Crispbench, tmp_path: Path
) -> None:
    qrels = tmp_path / "pets/qrels/test.tsv"
    qrels.write_text(qrels.read_text().replace("\td2", "\tMED-2"))
    answer = crispbench("run", partial, "--out", tmp_path / "run")
    alarm = "pets: 1 of 3 relevant judgements (33%) are for documents that are not in the corpus and can never be found"
    assert answer.code == 0 and answer.err.startswith(f"crispbench: {alarm}")
    page = (tmp_path / "run/report/report.md").read_text()
    assert page.index(alarm) < page.index("nDCG@10")


def test_a_manifest_from_before_these_fields_is_read_without_them() -> None:
    candidates = {"source": "bm25", "k": 1, "parameters": {}, "sha256": "", "recall": 1.0, "oracle": 1.0, "random": 1.0}
    document = {"revision": "1", "split": "test", "queries": 1, "documents": 1, "analysis": "english"}
    record = BenchmarkRecord.read({**document, "remove_self": False, "warnings": ["w"], "candidates": candidates})
    assert (record.warnings, record.without_candidates, record.alarms) == (("w",), (), ())
    assert BenchmarkRecord.read(record.document()) == record


def test_a_foreign_collection_needs_every_relevant_document_to_be_foreign(tmp_path: Path, animals: Path) -> None:
    qrels = animals / "qrels/test.tsv"
    foreign = qrels.read_text().replace("\td-", "\tMED-")
    qrels.write_text(foreign + "\nq-cat\td-cat\t0\n")  # a document that is judged not relevant proves nothing
    with pytest.raises(BenchmarkError, match="judgements and corpus are of different collections"):
        load("beir", {"path": str(animals)})
    qrels.write_text(foreign + "\nq-cat\td-cat\t1\n")
    assert load("beir", {"path": str(animals)}).qrels["q-cat"] == {"MED-cat": 1, "d-cat": 1}


def test_every_source_is_held_to_its_judgements(
    partial: Path, crispbench: Crispbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = benchmark(3)
    foreign = replace(made, qrels={query_id: {"MED-1": 1} for query_id in made.queries})
    monkeypatch.setattr(BeirFolder, "load", lambda self: foreign)
    answer = crispbench("run", partial, "--out", tmp_path / "run")
    assert answer.code == 2 and answer.err.startswith("crispbench: made: none of the 3 relevant judgements is for a ")
    monkeypatch.setattr(
        BeirFolder, "load", lambda self: replace(foreign, available=99, documents={"d1": "x", "d2": "y"})
    )
    (tmp_path / "first.trec").write_text("q1 Q0 d1 1 2 tag\n")
    answer = crispbench("run", partial, "--out", tmp_path / "run")
    assert answer.code == 0 and "crispbench: made: 3 of 3 relevant judgements (100%) are for documents" in answer.err
