"""mteb's tasks as benchmarks: downloaded from a hub on loopback, or made in the test."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.benchmarks import BenchmarkError, load
from harness.benchmarks.languages import ANALYSES, analysis_of
from harness.benchmarks.stored import StoredDocuments
from harness.interop.export import export_mteb
from tests.hub import MAIN, Hub

ROOT = Path(__file__).parents[1]
TASKS = {"SciFact": "scifact", "NFCorpus": "nfcorpus", "ArguAna": "arguana"}
QUERIES = {"SciFact": {"queries": 12}, "NFCorpus": {}, "ArguAna": {"queries": 12}}  # no limit means all 323

pytestmark = [
    pytest.mark.skipif(find_spec("mteb") is None, reason="mteb is not installed: pip install 'crispbench[mteb]'"),
    pytest.mark.filterwarnings("default::DeprecationWarning", "default::FutureWarning"),  # mteb's imports raise them
]


# A hub on loopback, a separate cache, a separate process


@pytest.fixture(scope="module")
def data() -> Path:
    folder = Path(os.environ.get("CRISPBENCH_DATA") or ROOT.parent / "shared/data")
    if not all((folder / name).is_dir() for name in TASKS.values()):
        pytest.skip(f"not all of {', '.join(TASKS.values())} in {folder}; set CRISPBENCH_DATA to their folder")
    return folder


@pytest.fixture(scope="module")
def hub(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    hub = Hub(tmp_path_factory.mktemp("hub"))
    for name in TASKS.values():
        hub.add_beir(f"mteb/{name}", data / name / "beir")
    with hub.serve():
        yield hub


@pytest.fixture(scope="module")
def warm(hub: Hub, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and the cache that it filled: every task by mteb and from its BEIR folder."""
    folder = tmp_path_factory.mktemp("warm")
    benchmarks: list[dict[str, Any]] = [{"source": "mteb", "name": task, **QUERIES[task]} for task in TASKS]
    for task, name in TASKS.items():
        benchmarks.append({"source": "beir", "path": str(data / name / "beir"), "name": name, **QUERIES[task]})
    ran = run(folder, benchmarks, cache=folder / "cache", endpoint=hub.url)
    assert ran.returncode == 0, ran.stderr
    return folder


def run(
    folder: Path, benchmarks: list[dict[str, Any]], *, cache: Path, endpoint: str = "", offline: bool = False
) -> "subprocess.CompletedProcess[str]":
    """`crispbench run` in a separate process, because the hub's address and cache are read at its start.

    BM25 retrieves the candidates; the fake engine's scores change with every character of a query or a document.
    """
    config = {"name": "hub", "engines": {"words": {"kind": "fake"}}, "candidates": {"k": 20}, "benchmarks": benchmarks}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    surroundings |= {"HF_HOME": str(cache), "HF_ENDPOINT": endpoint or "http://127.0.0.1:9"}
    surroundings |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    command = [sys.executable, "-m", "harness", "run", str(folder / "config.yaml"), "--out", str(folder / "out")]
    return subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True)


def measures(folder: Path) -> dict[str, Any]:
    benchmarks: dict[str, Any] = json.loads((folder / "out/words/measures.json").read_text())["benchmarks"]
    return benchmarks


def size(task: str) -> int:
    return {"SciFact": 300, "ArguAna": 1406}[task]


def manifest(folder: Path) -> dict[str, Any]:
    benchmarks: dict[str, Any] = json.loads((folder / "out/words/manifest.json").read_text())["benchmarks"]
    return benchmarks


@pytest.mark.parametrize("task", TASKS)
def test_a_task_of_mteb_and_its_beir_folder_give_identical_measures(warm: Path, task: str) -> None:
    by_mteb, from_folder = measures(warm)[task], measures(warm)[TASKS[task]]
    assert by_mteb["queries"] == QUERIES[task].get("queries", 323)
    assert by_mteb["measures"]["nDCG@10"]["value"] > 0
    assert by_mteb == from_folder


@pytest.mark.parametrize("task", TASKS)
def test_the_same_content_has_the_same_hash_from_mteb_and_from_a_folder(warm: Path, task: str) -> None:
    by_mteb, from_folder = manifest(warm)[task], manifest(warm)[TASKS[task]]
    path, _, rest = by_mteb["revision"].partition("+")
    assert path.startswith(f"mteb/{TASKS[task]}@")
    assert rest.partition(" ")[0] == from_folder["revision"]
    assert rest.partition(" ")[2] == ("(NFCorpus)" if task == "NFCorpus" else f"({task}, 12 of {size(task)} queries)")
    assert {**by_mteb, "revision": ""} == {**from_folder, "revision": ""}
    assert by_mteb["remove_self"] == (task == "ArguAna")


def test_a_task_is_downloaded_at_the_revision_that_mteb_pins(warm: Path, hub: Hub) -> None:
    (revision,) = {manifest(warm)["NFCorpus"]["revision"].partition("@")[2].partition("+")[0]}
    assert len(revision) == 40 and revision != MAIN
    assert any("nfcorpus" in request and revision in request and "corpus.jsonl" in request for request in hub.requests)


def test_only_a_task_that_was_run_in_full_is_exported_to_mteb(warm: Path, tmp_path: Path) -> None:
    import mteb

    exported = export_mteb(warm / "out", tmp_path)
    assert exported.problems == [
        "words on SciFact: left out, a file of mteb cannot represent '12 of 300 queries'",
        "words on ArguAna: left out, a file of mteb cannot represent '12 of 1406 queries'",
    ]
    results = {loaded.task_name: loaded for loaded in map(mteb.TaskResult.from_disk, exported.files)}
    result = results["NFCorpus"]
    assert result.dataset_revision == mteb.get_task("NFCorpus").metadata.revision
    assert result.scores["test"][0]["languages"] == ["eng-Latn"]
    assert result.main_score == pytest.approx(measures(warm)["NFCorpus"]["measures"]["nDCG@10"]["value"], abs=1e-6)
    assert result.main_score == results["nfcorpus"].main_score


def test_a_warm_cache_needs_no_network(warm: Path, tmp_path: Path) -> None:
    benchmarks = [{"source": "mteb", "name": "NFCorpus"}]
    ran = run(tmp_path, benchmarks, cache=warm / "cache", offline=True)
    assert ran.returncode == 0, ran.stderr
    assert measures(tmp_path)["NFCorpus"] == measures(warm)["NFCorpus"]
    assert manifest(tmp_path)["NFCorpus"]["revision"] == manifest(warm)["NFCorpus"]["revision"]


def test_a_cold_cache_without_network_is_an_error_of_one_line_with_the_next_step(tmp_path: Path) -> None:
    ran = run(tmp_path, [{"source": "mteb", "name": "NFCorpus"}], cache=tmp_path / "cold", offline=True)
    assert ran.returncode == 5
    assert ran.stderr.splitlines() == [
        "crispbench: no benchmark could be loaded: NFCorpus: mteb task NFCorpus: mteb/nfcorpus is not in the cache, "
        "and HF_HUB_OFFLINE is set; load it once where the hub can be reached, or point HF_HOME to a cache that has it"
    ]
    unreachable = run(tmp_path, [{"source": "mteb", "name": "NFCorpus"}], cache=tmp_path / "cold")
    (line,) = unreachable.stderr.splitlines()  # and not one line for every repetition
    assert unreachable.returncode == 5 and "http://127.0.0.1:9 cannot be reached" in line
    assert not (tmp_path / "out").exists()


# Tasks made in the test


CORPUS = [
    {"id": "d1", "title": "Cats", "text": "purr"},
    {"id": "d2", "title": None, "text": " dogs bark "},
    {"id": "d3", "title": "", "text": "birds sing"},
]
QUESTIONS = [{"id": "q1", "text": "who purrs"}, {"id": "q2", "text": "who barks"}]
QRELS = {"q1": {"d1": 1}, "q2": {"d2": 2, "d3": 0}}


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Adds a task named Made to mteb: `task(corpus=[...], subsets={"de": ["deu-Latn"]})`."""
    import datasets
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    def add(subsets: Mapping[str, list[str]] | None = None, ignore: bool = False, **parts: Any) -> None:
        rows = {"corpus": CORPUS, "queries": QUESTIONS, "qrels": QRELS, "top_ranked": None} | parts

        class Made(AbsTaskRetrieval):
            metadata = TaskMetadata(
                name="Made",
                description="made in a test",
                type="Retrieval",
                main_score="ndcg_at_10",
                eval_langs=dict(subsets) if subsets else ["eng-Latn"],
                eval_splits=["dev"],
                dataset={"path": "made/here", "revision": "1" * 40},
            )
            ignore_identical_ids = ignore

            def load_data(self, *arguments: Any, **options: Any) -> None:
                part = {
                    "corpus": datasets.Dataset.from_list(rows["corpus"]),
                    "queries": datasets.Dataset.from_list(rows["queries"]),
                    "relevant_docs": rows["qrels"],
                    "top_ranked": rows["top_ranked"],
                }
                self.dataset = {subset: {"dev": part} for subset in self.hf_subsets}
                self.data_loaded = True

        monkeypatch.setitem(sys.modules["mteb.get_tasks"]._TASKS_REGISTRY, "Made", Made)

    return add


def test_titles_and_texts_are_joined_as_in_mteb_and_null_is_empty(task: Callable[..., None]) -> None:
    task()
    made = load("mteb", {"name": "Made"})
    assert dict(made.documents) == {"d1": "Cats purr", "d2": "dogs bark", "d3": "birds sing"}
    assert dict(made.queries) == {"q1": "who purrs", "q2": "who barks"}
    assert made.qrels == QRELS
    assert (made.name, made.split, made.analysis, made.remove_self) == ("Made", "dev", "english", False)
    assert made.candidates is None
    assert made.warnings == ()


def test_mteb_decides_whether_the_query_itself_is_removed_unless_the_config_does(task: Callable[..., None]) -> None:
    task(ignore=True)
    assert load("mteb", {"name": "Made"}).remove_self
    assert not load("mteb", {"name": "Made", "remove_self": False}).remove_self


def test_a_task_with_several_subsets_requires_one_and_lists_them(task: Callable[..., None]) -> None:
    task(subsets={"de": ["deu-Latn"], "zh": ["cmn-Hans"], "bn": ["ben-Beng"]})
    for options, message in (({}, "needs a `subset`"), ({"subset": "fr"}, "has no subset 'fr'")):
        with pytest.raises(BenchmarkError, match=f"Made {message}; it has de, zh, bn$"):
            load("mteb", {"name": "Made", **options})
    german = load("mteb", {"name": "Made", "subset": "de"})
    assert (german.name, german.analysis) == ("Made.de", "german")
    chinese = load("mteb", {"name": "Made", "subset": "zh", "label": "Made in Chinese"})
    assert (chinese.name, chinese.analysis) == ("Made in Chinese", "chinese")


def test_an_unknown_split_is_refused_with_the_list_of_splits(task: Callable[..., None]) -> None:
    task()
    with pytest.raises(BenchmarkError, match=r"Made has no split 'test'; it has dev$"):
        load("mteb", {"name": "Made", "split": "test"})


def test_candidates_of_a_task_keep_their_order(task: Callable[..., None]) -> None:
    task(top_ranked={"q1": ["d3", "d1", "d3"]})
    made = load("mteb", {"name": "Made"})
    assert made.candidates == {"q1": ("d3", "d1"), "q2": ()}
    assert made.warnings == ("queries that list a candidate twice; it is used once: 1 (q1)",)
    assert load("mteb", {"name": "Made", "queries": 1}).candidates in ({"q1": ("d3", "d1")}, {"q2": ()})


def test_instructions_and_conversations_become_part_of_the_query_as_in_mteb(task: Callable[..., None]) -> None:
    task(queries=[{**row, "instruction": "Be exact."} for row in QUESTIONS])
    assert load("mteb", {"name": "Made"}).queries["q1"] == "who purrs Be exact."
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    task(queries=[{"id": row["id"], "text": turns} for row in QUESTIONS])
    assert load("mteb", {"name": "Made"}).queries["q1"] == "user: hello; assistant: hi"


def test_a_judged_query_without_a_text_is_left_out_and_named(task: Callable[..., None]) -> None:
    task(qrels={**QRELS, "q9": {"d1": 1}, "q8": {}})
    made = load("mteb", {"name": "Made"})
    assert set(made.qrels) == {"q1", "q2"}
    assert made.alarms == ("1 of 3 judged queries (33%) have no text and are left out",)
    assert made.warnings == ("judged queries without a text, which are left out as mteb leaves them out: 1 (q9)",)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"corpus": [*CORPUS, {"id": "d1", "title": "", "text": "other"}]}, "document id 'd1' has two different texts"),
        ({"top_ranked": {"q1": ["d1", "d7"]}}, "candidate 'd7' of query 'q1' is not in the corpus"),
        ({"qrels": {"q1": {"d1": 0}}}, "no grade above 0 for any of 1 queries"),
        ({"qrels": {"q1": {"d1": 1.5}}}, "grade 1.5 of query 'q1' is not a whole number below a million"),
        ({"qrels": {"q7": {"d1": 1}}}, "none of its 1 judged queries has a text .*'q7', the first with a text 'q1'"),
        ({"qrels": {"q1": {"d7": 1}}}, "none of the 1 relevant judgements is for a document of the corpus .*'d7'"),
    ],
)
def test_contradictory_data_is_an_error(task: Callable[..., None], parts: dict[str, Any], message: str) -> None:
    task(**parts)
    with pytest.raises(BenchmarkError, match=message):
        load("mteb", {"name": "Made"})


def test_a_document_that_occurs_twice_with_one_text_counts_once(task: Callable[..., None]) -> None:
    task(corpus=[*CORPUS, CORPUS[0]])
    made = load("mteb", {"name": "Made"})
    assert len(made.documents) == 3
    assert made.warnings == ("documents that occur in the corpus twice: 1 (d1)",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NFcorpus", "mteb has no task 'NFcorpus'; similar are NFCorpus, "),
        ("zzzzzzzz", "mteb has no task 'zzzzzzzz'; none of its .* has a similar name"),
        ("CQADupstackRetrieval", "average of other tasks; list them instead: CQADupstackAndroidRetrieval, "),
        ("Banking77Classification", "of type Classification on text; expected Retrieval, Reranking, "),
        ("MSCOCOT2IRetrieval", "of type Any2AnyRetrieval on text, image; expected"),
    ],
)
def test_a_name_of_another_kind_of_task_is_refused_with_the_expected_kinds(name: str, message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        load("mteb", {"name": name})


def test_without_mteb_the_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(BenchmarkError, match=r"pip install 'crispbench\[mteb\]'"):
        load("mteb", {"name": "NFCorpus"})


# Parts


def test_stored_documents_are_a_mapping_for_any_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    rows = [{"id": str(i % 7), "title": f"t{i % 7}", "text": f"text {i % 7}"} for i in range(11)]
    expected = {str(i): f"t{i} text {i}" for i in range(7)}
    for size in (1, 2, 3, 7, 100):
        monkeypatch.setattr("harness.benchmarks.stored.BATCH", size)
        documents = StoredDocuments(Dataset.from_list(rows))
        assert dict(documents) == dict(documents.items()) == expected
        assert list(documents.values()) == list(expected.values())
        assert list(documents) == list(expected)
        assert len(documents) == 7 and "6" in documents and "7" not in documents
        assert documents.repeated == [(str(i), i + 7) for i in range(4)]


def test_a_corpus_without_titles_has_texts_only() -> None:
    from datasets import Dataset

    documents = StoredDocuments(Dataset.from_list([{"id": 3, "text": "only text"}]))
    assert dict(documents.items()) == {"3": "only text"} == dict(documents)


@pytest.mark.parametrize(
    ("languages", "analysis"),
    [
        (["eng-Latn"], "english"), (["cmn-Hans"], "chinese"), (["jpn-Jpan"], "japanese"), (["tha-Thai"], "thai"),
        (["python-Code"], "code"), (["eng-Latn", "go-Code"], "code"), (["kat-Geor"], "simple"),
        (["deu-Latn", "fra-Latn"], "german"),
    ],
)  # fmt: skip
def test_a_language_determines_its_analysis(languages: list[str], analysis: str) -> None:
    assert analysis_of(languages) == analysis


def test_every_language_has_an_analysis_that_bm25_knows() -> None:
    from engines.bm25.analysis import names

    assert set(ANALYSES.values()) <= set(names())


def test_a_cached_copy_of_another_revision_causes_a_warning(task: Callable[..., None]) -> None:
    from types import SimpleNamespace

    from harness.benchmarks.mteb import _revision_warning

    pinned = SimpleNamespace(metadata=SimpleNamespace(revision="1" * 40))
    for cached, expected in (("1" * 40, 0), ("2" * 40, 1), ("train", 0)):
        corpus = SimpleNamespace(cache_files=[{"filename": f"/cache/mteb___made/corpus/0.0.0/{cached}/made.arrow"}])
        assert len(_revision_warning(pinned, corpus)) == expected
