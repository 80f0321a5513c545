"""Our runs as files of trec_eval and mteb, and our engines inside mteb and beir: all give the same numbers."""

import json
import random
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ir_measures
import pytest
import yaml
from ir_measures import AP, RR, nDCG

import engines
from engines.base import BadOptions, Description, Pair, ScoringFailed
from engines.fake import Fake, FakeOptions
from engines.torch.engine import TorchOptions
from harness.benchmarks.mteb import Provenance
from harness.candidates.trec import read_run, write_run
from harness.cli import main
from harness.interop.beir_model import BeirModel
from harness.interop.export import _target, export_mteb, export_trec, mteb_scores
from harness.outcome import Outcome
from tests.conftest import write_beir

NEEDS_MTEB = pytest.mark.skipif(find_spec("mteb") is None, reason="mteb is not installed")
NEEDS_BEIR = pytest.mark.skipif(find_spec("beir") is None, reason="beir is not installed")
pytestmark = pytest.mark.filterwarnings(
    "default::DeprecationWarning", "default::FutureWarning"
)  # mteb's imports raise them

WORDS = "amber basil cedar delta ember flint grove heron ivory jade kelp lotus maple nectar olive pearl".split()
CUT = 20


class Collection:
    """Thirty queries with twenty candidates each, over sixty documents of four words, graded at random."""

    def __init__(self) -> None:
        draw = random.Random(3)
        self.documents = {f"d{i}": " ".join(draw.sample(WORDS, 4)) for i in range(60)}
        self.queries = {f"q{i}": " ".join(draw.sample(WORDS, 3)) for i in range(30)}
        self.qrels = {
            query_id: {doc_id: draw.choice((0, 1, 2)) for doc_id in draw.sample(list(self.documents), 8)}
            for query_id in self.queries
        }
        self.candidates = {query_id: draw.sample(list(self.documents), CUT) for query_id in self.queries}


@pytest.fixture(scope="module")
def collection() -> Collection:
    return Collection()


@pytest.fixture(scope="module")
def ran(collection: Collection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of two engines over the collection's candidates."""
    folder = tmp_path_factory.mktemp("made")
    write_beir(folder / "made", collection.documents, collection.queries, collection.qrels)
    write_run(folder / "candidates.trec", collection.candidates, "made")
    config = {
        "name": "made",
        "engines": {"first": {"kind": "fake"}, "second": {"kind": "fake", "noise": 0.3}},
        "benchmarks": [{"source": "beir", "path": str(folder / "made"), "name": "made here"}],
        "candidates": {"source": "run", "path": str(folder / "candidates.trec"), "k": CUT},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert main(["run", str(folder / "config.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def measured(run_dir: Path, engine: str) -> dict[str, float]:
    document = json.loads((run_dir / engine / "measures.json").read_text())
    return {name: entry["value"] for name, entry in document["benchmarks"]["made here"]["measures"].items()}


def test_every_exported_run_has_the_same_measures_in_trec_eval(
    ran: Path, collection: Collection, crispbench: Callable[..., Any], tmp_path: Path
) -> None:
    answer = crispbench("export", "trec", ran, tmp_path / "runs", "--json")
    assert answer.code == 0, answer.err
    files = [Path(name) for name in json.loads(answer.out)["files"]]
    assert [path.relative_to(tmp_path / "runs").as_posix() for path in files] == [
        "first/made%20here.trec.gz",
        "second/made%20here.trec.gz",
    ]
    for engine, path in zip(("first", "second"), files, strict=True):
        run = read_run(path)
        assert {query_id: set(docs) for query_id, docs in run.items()} == {
            query_id: set(docs) for query_id, docs in collection.candidates.items()
        }
        by_trec_eval = ir_measures.calc_aggregate([nDCG @ 10, AP, RR @ 10], collection.qrels, run)
        ours = measured(ran, engine)
        assert {str(name): value for name, value in by_trec_eval.items()} == pytest.approx(
            {name: ours[name] for name in ("nDCG@10", "AP", "RR@10")}
        )


def test_an_incomplete_run_is_exported_with_a_warning(
    small: Path, moody: Any, crispbench: Callable[..., Any], tmp_path: Path
) -> None:
    moody.answers["animal cat"] = ScoringFailed("not today")
    assert crispbench("run", small, "--out", tmp_path / "run").code == 5
    answer = crispbench("export", "trec", tmp_path / "run", tmp_path / "runs")
    assert answer.code == 5
    assert answer.err == (
        "crispbench: moody on animals: 1 queries have no scores and are not in the run; only trec_eval -c counts them\n"
    )
    assert len(read_run(tmp_path / "runs/moody/animals.trec.gz")) == 4
    assert len(read_run(tmp_path / "runs/fake/animals.trec.gz")) == 5


def test_scores_that_are_all_equal_are_not_exported(
    animals: Path, config: Callable[..., Path], crispbench: Callable[..., Any], tmp_path: Path
) -> None:
    path = config(
        engines={"flat": {"kind": "fake", "constant": True}}, benchmarks=[{"source": "beir", "path": str(animals)}]
    )
    crispbench("run", path, "--out", tmp_path / "run")
    exported = export_trec(tmp_path / "run", tmp_path / "runs")
    assert (exported.files, exported.problems) == ([], ["flat on animals: left out, its scores are all equal"])
    assert exported.outcome == Outcome.INCOMPLETE


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("ranx", "results/none"), 2, "export to 'ranx' is not possible; known formats are trec, mteb"),
        (("trec", "results/none"), 2, "results/none is not a run folder"),
    ],
)
def test_an_impossible_export_is_refused_in_one_line(
    crispbench: Callable[..., Any], tmp_path: Path, arguments: tuple[str, str], code: int, message: str
) -> None:
    answer = crispbench("export", *arguments, tmp_path)
    assert (answer.code, len(answer.err.splitlines())) == (code, 1)
    assert message in answer.err


@NEEDS_MTEB
def test_mteb_loads_our_export_with_the_same_measures(
    ran: Path, crispbench: Callable[..., Any], tmp_path: Path
) -> None:
    import mteb

    answer = crispbench("export", "mteb", ran, tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    files = [Path(name) for name in json.loads(answer.out)["files"]]
    assert len(set(files)) == 2
    for engine, path in zip(("first", "second"), files, strict=True):
        result = mteb.TaskResult.from_disk(path)
        ours = measured(ran, engine)
        (scores,) = result.scores["test"]
        assert (result.task_name, path.name) == ("made here", "made here.json")
        assert result.main_score == pytest.approx(ours["nDCG@10"], abs=1e-6)
        assert scores["mrr_at_10"] == pytest.approx(ours["RR@10"], abs=1e-6)
        assert scores["map_at_1000"] == pytest.approx(ours["AP"], abs=1e-6)
        assert scores["recall_at_100"] == pytest.approx(ours["R@100"], abs=1e-6)
        json.dumps(json.loads(path.read_text()), allow_nan=False)


@NEEDS_MTEB
def test_an_incomplete_result_is_not_exported_to_mteb(
    small: Path, moody: Any, crispbench: Callable[..., Any], tmp_path: Path
) -> None:
    moody.answers["animal cat"] = ScoringFailed("not today")
    crispbench("run", small, "--out", tmp_path / "run")
    exported = export_mteb(tmp_path / "run", tmp_path / "out")
    assert [path.name for path in exported.files] == ["animals.json"]
    assert exported.problems == ["moody on animals: left out, a file of mteb cannot represent 'incomplete'"]


@NEEDS_MTEB
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (("mteb/nfcorpus", "ec0fa4", "NFCorpus", "", ""), ("NFCorpus", "ec0fa4", "default", ["eng-Latn"])),
        (("mteb/MIRACL", "d11a14", "MIRACLReranking", "yo", ""), ("MIRACLReranking", "d11a14", "yo", ["yor-Latn"])),
        (("mteb/gone", "main", "GoneRetrieval", "", ""), ("GoneRetrieval", "main", "default", ["und-Zyyy"])),
    ],
)
def test_an_mteb_benchmark_keeps_its_task_revision_and_subset(
    source: tuple[str, ...], expected: tuple[Any, ...]
) -> None:
    import mteb

    revision = Provenance(*source).with_hash("0123abcd")
    assert Provenance.read(revision) == Provenance(*source)
    row: Any = SimpleNamespace(benchmark="shown name", revision=revision)
    target = _target(row, "dev", Provenance.read(revision), mteb)
    assert (target.task, target.revision, target.subset, list(target.languages)) == expected
    assert (target.split, target.main_score) == ("dev", "ndcg_at_10")


@NEEDS_MTEB
def test_the_main_score_is_the_one_of_the_mteb_task() -> None:
    import mteb

    row: Any = SimpleNamespace(benchmark="T2Reranking", revision="")
    source = Provenance("mteb/T2Reranking", "a34fe6", "T2Reranking", "", "")
    assert _target(row, "dev", source, mteb).main_score == "map_at_1000"


@pytest.mark.parametrize("revision", ["sha256:0123", "python-3.11.9+sha256:0123", ""])
def test_benchmarks_from_other_sources_have_no_mteb_provenance(revision: str) -> None:
    assert Provenance.read(revision) is None


# mteb runs our engine


@pytest.fixture
def task(collection: Collection) -> Any:
    """The collection as a reranking task of mteb, without any download."""
    pytest.importorskip("mteb")
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class Made(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="MadeReranking",
            description="made in a test",
            type="Reranking",
            main_score="ndcg_at_10",
            eval_langs=["eng-Latn"],
            eval_splits=["test"],
            dataset={"path": "made/here", "revision": "1" * 40},
        )

        def load_data(self, *arguments: Any, **options: Any) -> None:
            rows = [{"id": key, "title": "", "text": text} for key, text in collection.documents.items()]
            queries = [{"id": key, "text": text} for key, text in collection.queries.items()]
            part = {
                "corpus": Dataset.from_list(rows),
                "queries": Dataset.from_list(queries),
                "relevant_docs": collection.qrels,
                "top_ranked": collection.candidates,
            }
            self.dataset = {"default": {"test": part}}
            self.data_loaded = True

    return Made()


def evaluated(task: Any, kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    import mteb

    from harness.interop.mteb_model import MtebModel

    model = MtebModel(kind, options)
    (result,) = mteb.evaluate(model, task, cache=None, show_progress_bar=False).task_results
    model.close()
    (scores,) = result.scores["test"]
    return dict(scores)


@NEEDS_MTEB
@pytest.mark.parametrize(("engine", "options"), [("first", {}), ("second", {"noise": 0.3})])
def test_the_same_candidates_give_the_same_measures_in_mteb_and_here(
    ran: Path, task: Any, engine: str, options: dict[str, Any]
) -> None:
    document = json.loads((ran / engine / "measures.json").read_text())["benchmarks"]["made here"]
    assert document["tie_rate"] == 0
    ours = measured(ran, engine)
    by_mteb = evaluated(task, "fake", options)
    assert by_mteb["ndcg_at_10"] == pytest.approx(ours["nDCG@10"], abs=1e-5)
    assert by_mteb["mrr_at_10"] == pytest.approx(ours["RR@10"], abs=1e-5)
    assert by_mteb["map_at_1000"] == pytest.approx(ours["AP"], abs=1e-5)


@NEEDS_MTEB
def test_equal_scores_give_the_same_measures_in_mteb_and_in_an_export(
    task: Any, collection: Collection, crispbench: Callable[..., Any], tmp_path: Path
) -> None:
    write_beir(tmp_path / "made", collection.documents, collection.queries, collection.qrels)
    write_run(tmp_path / "candidates.trec", collection.candidates, "made")
    tied = {"kind": "fake", "decimals": 0}
    config = {
        "name": "tied",
        "engines": {"tied": tied},
        "benchmarks": [{"source": "beir", "path": str(tmp_path / "made")}],
        "candidates": {"source": "run", "path": str(tmp_path / "candidates.trec"), "k": CUT},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert crispbench("run", tmp_path / "config.yaml", "--out", tmp_path / "run").code == 0
    assert crispbench("export", "mteb", tmp_path / "run", tmp_path / "out").code == 0
    (path,) = (tmp_path / "out").rglob("made.json")
    (exported,) = json.loads(path.read_text())["scores"]["test"]
    by_mteb = evaluated(task, "fake", {"decimals": 0})
    names = [name for name in exported if name.partition("_at_")[0] in ("ndcg", "map", "mrr", "recall")]
    assert len(names) == 4 * 7
    assert {name: by_mteb[name] for name in names} == pytest.approx({name: exported[name] for name in names}, abs=1e-5)


@NEEDS_MTEB
def test_scores_for_mteb_fall_strictly_in_float32_and_move_by_the_smallest_step() -> None:
    import numpy as np

    from harness.interop.mteb_model import descending

    assert descending([3.5, 0.25, -1.0]) == [3.5, 0.25, -1.0]
    given = [1e300, 1.0, 1.0, 1.0 - 1e-12, 0.5, 0.0, 0.0, -1e300, -1e300]
    separated = descending(given)
    assert separated[1:5] == [1.0, 1 - 2**-24, 1 - 2**-23, 0.5]  # 2^-24 is the step of float32 below 1
    as_float32 = np.asarray(separated, dtype=np.float32)
    assert np.isfinite(as_float32).all() and (np.diff(as_float32) < 0).all()


@NEEDS_MTEB
def test_every_exported_mteb_score_equals_the_one_mteb_computes(
    ran: Path, task: Any, collection: Collection, tmp_path: Path
) -> None:
    by_mteb = evaluated(task, "fake", {})
    exported = export_trec(ran, tmp_path / "runs")
    ranked = {query_id: list(scores) for query_id, scores in read_run(exported.files[0]).items()}
    ours = mteb_scores(collection.qrels, ranked)
    theirs = {name: value for name, value in by_mteb.items() if name in ours}
    assert len(theirs) == len(ours) == 6 * 7 + 1
    assert ours == pytest.approx(theirs, abs=1e-5)


@NEEDS_MTEB
def test_an_engine_that_needs_a_corpus_gets_that_of_the_mteb_task(task: Any, collection: Collection) -> None:
    from harness.interop.mteb_model import MtebModel

    task.load_data()
    part = task.dataset["default"]["test"]
    model = MtebModel("bm25", {})
    model.index(part["corpus"], task_metadata=task.metadata, hf_subset="default")
    results = model.search(part["queries"], top_k=3, top_ranked={"q0": list(collection.documents)})
    with engines.load("bm25", {}) as bm25:
        bm25.prepare(collection.documents.values(), analysis="english")
        pairs = [Pair(collection.queries["q0"], text) for text in collection.documents.values()]
        scores = dict(zip(collection.documents, bm25.score(pairs), strict=True))
    best = sorted(scores, key=lambda doc_id: -scores[doc_id])[:3]
    assert results["q0"] == {doc_id: scores[doc_id] for doc_id in best}
    assert results["q1"] == {}


@NEEDS_MTEB
@pytest.mark.parametrize(
    ("revision", "folder"),
    [
        (f"sha256:{'ab' * 8}", f"sha256-{'ab' * 8}"),
        ("refs/pr/3", "refs-pr-3"),
        ("ec0fa4", "ec0fa4"),
        ("", "no_revision_available"),
    ],
)
def test_a_revision_is_a_folder_name_on_every_system(revision: str, folder: str) -> None:
    from harness.interop.mteb_model import model_meta

    meta = model_meta("torch", Description(model="/models/a:b", revision=revision, template="a:b"), "bm25-k100", [])
    assert meta.revision == folder
    assert not set('<>:"|?*') & set(meta.model_name_as_path() + (meta.experiment_name or ""))


@NEEDS_MTEB
def test_mteb_distinguishes_engines_with_different_scores() -> None:
    from harness.interop.mteb_model import MtebModel

    def experiment(first_stage: str = "task", **options: Any) -> tuple[str, str]:
        meta = MtebModel("fake", options, first_stage=first_stage).mteb_model_meta
        return meta.name, meta.experiment_name

    names = {experiment(), experiment(noise=0.1), experiment(seed=1), experiment("bm25-k100"), experiment("bm25-k50")}
    assert len(names) == 5
    assert experiment() == experiment()
    assert {name for name, _ in names} == {"crispbench/fake"}


@NEEDS_MTEB
def test_mteb_treats_our_model_as_a_search_model_and_not_as_a_cross_encoder() -> None:
    from mteb.models import CrossEncoderProtocol, SearchProtocol

    from harness.interop.mteb_model import MtebModel

    model = MtebModel("fake", {})
    assert isinstance(model, SearchProtocol)
    assert not isinstance(model, CrossEncoderProtocol)


@NEEDS_MTEB
def test_a_task_without_candidates_or_a_nan_score_stops_the_evaluation(task: Any) -> None:
    with pytest.raises(ScoringFailed, match="expected a finite number"):
        evaluated(task, "fake", {"nan_on": "amber"})
    task.load_data()
    task.dataset["default"]["test"]["top_ranked"] = None
    with pytest.raises(ScoringFailed, match="convert_to_reranking"):
        evaluated(task, "fake", {})


# beir runs our engine


@NEEDS_BEIR
def test_beir_rerank_returns_our_scores(collection: Collection) -> None:
    from beir.reranking.rerank import Rerank

    corpus = {doc_id: {"title": "", "text": text} for doc_id, text in collection.documents.items()}
    results = {query_id: dict.fromkeys(docs, 1.0) for query_id, docs in collection.candidates.items()}
    with engines.load("fake", {"noise": 0.3}) as engine:
        reranked = Rerank(BeirModel(engine)).rerank(corpus, collection.queries, results, top_k=CUT)
        for query_id, doc_ids in collection.candidates.items():
            pairs = [Pair(collection.queries[query_id], collection.documents[doc_id]) for doc_id in doc_ids]
            assert reranked[query_id] == dict(zip(doc_ids, engine.score(pairs), strict=True))


def test_beir_scores_one_query_per_call_and_never_gets_a_nan_score(moody: Any) -> None:
    with engines.load("moody", {}) as engine:
        model = BeirModel(engine)
        assert model.predict([]) == []
        assert len(model.predict([["a", "x"], ["a", "y"], ["b", "x"]], batch_size=2)) == 3
        assert moody.queries == ["a", "b"]
        moody.answers["a"] = [float("nan"), 1.0]
        with pytest.raises(ScoringFailed):
            model.predict([["a", "x"], ["a", "y"]])


def test_pairs_from_beir_prepare_an_engine_that_needs_documents() -> None:
    with engines.load("bm25", {}) as engine:
        scores = BeirModel(engine).predict([["red fox", "a red fox"], ["red fox", "a blue whale"]])
    assert scores[0] > scores[1] == 0


def test_importing_the_adapters_imports_neither_mteb_nor_beir() -> None:
    import subprocess

    code = (
        "import sys, harness.interop.export, harness.interop.mteb_model, harness.interop.beir_model; "
        "print(*({'mteb', 'beir', 'datasets', 'torch'} & sys.modules.keys()))"
    )
    root = Path(__file__).parents[1]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


@NEEDS_MTEB
def test_an_engine_with_random_weights_is_refused_as_a_model_of_mteb_or_beir() -> None:
    from harness.interop.mteb_model import MtebModel

    options: dict[str, Any] = {"model": "nowhere", "weights": "random"}
    with pytest.raises(BadOptions, match="random weights, whose scores mean nothing"):
        MtebModel("torch", options)
    engine = Fake(FakeOptions())
    engine.options = TorchOptions(**options)  # type: ignore[assignment]
    with pytest.raises(BadOptions, match="random weights, whose scores mean nothing"):
        BeirModel(engine)
