"""The BM25 index on disk: it gives the scores of bm25s, is reused, is never incomplete and needs little memory."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import bm25s
import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import Pair, ScoringFailed, load
from engines.base import Retriever
from engines.bm25 import index as module
from engines.bm25.analysis import terms
from engines.bm25.index import ABSENT, IndexSettings, open_index

ROOT = Path(__file__).parents[2]
CORPUS = ["Cat, cat and the dog.", "A dog!", "bird bird bird bird", "", "A dog!"]
SIMPLE = IndexSettings("simple", k1=0.9, b=0.4)


class CountedReads(Collection[str]):
    """Documents that count how many times they are read."""

    def __init__(self, texts: list[str]) -> None:
        self.texts, self.times = texts, 0

    def __len__(self) -> int:
        return len(self.texts)

    def __contains__(self, text: object) -> bool:
        return text in self.texts

    def __iter__(self) -> Iterator[str]:
        self.times += 1
        return iter(self.texts)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the test's indexes."""
    monkeypatch.setenv("CRISPBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bm25"


def stored(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.suffix)


def by_bm25s(documents: list[str], settings: IndexSettings) -> Any:
    theirs = bm25s.BM25(method="lucene", k1=settings.k1, b=settings.b)
    theirs.index([terms(document, settings.analysis) for document in documents], show_progress=False)
    return theirs


def assert_scores_are_those_of_bm25s(documents: list[str], settings: IndexSettings) -> None:
    ours, theirs = open_index(documents, settings), by_bm25s(documents, settings)
    vocabulary = sorted(set(theirs.vocab_dict) - {""})
    for query in [*([term] for term in vocabulary), vocabulary, vocabulary[:2] * 2]:
        assert ours.scores(query).tobytes() == theirs.get_scores(query).tobytes(), query


def test_every_weight_of_real_text_equals_that_of_bm25s() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    assert_scores_are_those_of_bm25s(text.split("\n"), IndexSettings("english", k1=1.2, b=0.75))


WORDS = st.sampled_from("ant bee cat dog eel fox gnu hen".split())


@hypothesis.settings(deadline=None)
@given(
    documents=st.lists(st.lists(WORDS, max_size=12), min_size=1, max_size=12).filter(any),
    run=st.integers(min_value=1, max_value=30),
    k1=st.floats(0, 3),
    b=st.floats(0, 1),
)
def test_every_weight_equals_that_of_bm25s_at_any_size_of_a_run(
    documents: list[list[str]], run: int, k1: float, b: float
) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as cache:
        patch.setenv("CRISPBENCH_CACHE", cache)
        patch.setattr(module, "RUN", run)
        assert_scores_are_those_of_bm25s([" ".join(words) for words in documents], IndexSettings("simple", k1=k1, b=b))


def test_a_range_of_terms_fits_one_run_or_holds_a_single_term(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUN", 5)
    # postings of each term: 3, 2, 0, 7, 1
    assert list(module._ranges(np.array([0, 3, 5, 5, 12, 13]))) == [(0, 3), (3, 4), (4, 5)]


def test_bm25s_can_load_the_folder(folder: Path) -> None:
    open_index(CORPUS, SIMPLE)
    ours, theirs = bm25s.BM25.load(stored(folder)[0], load_vocab=False), by_bm25s(CORPUS, SIMPLE)
    numbers = [theirs.vocab_dict[term] for term in "cat and the dog a bird".split()]  # in their order in the text
    for number, their_number in enumerate(numbers):
        for name in ("data", "indices"):
            (values, starts), (expected, their_starts) = (
                (bm25.scores[name], bm25.scores["indptr"]) for bm25 in (ours, theirs)
            )
            np.testing.assert_array_equal(
                values[starts[number] : starts[number + 1]],
                expected[their_starts[their_number] : their_starts[their_number + 1]],
            )
            assert values.dtype == expected.dtype


def test_scores_match_a_computation_by_hand() -> None:
    # N = 5, lengths 5, 2, 4, 0, 2, mean 2.6; dog: idf ln(1 + 2.5/3.5) = 0.53900
    # 0.539 / (1 + 0.9 (0.6 + 0.4 * 5/2.6)) = 0.24145; 0.539 / (1 + 0.9 (0.6 + 0.4 * 2/2.6)) = 0.29666
    scores = open_index(CORPUS, SIMPLE).scores(["dog"])
    assert scores.tolist() == pytest.approx([0.24145, 0.29666, 0, 0, 0.29666], abs=1e-5)


def test_a_second_opening_reads_the_documents_once_and_writes_nothing(folder: Path) -> None:
    documents = CountedReads(CORPUS)
    first = open_index(documents, SIMPLE)
    assert documents.times == 2
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = open_index(documents, SIMPLE)
    assert documents.times == 3
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == written
    assert again.scores(["dog"]).tolist() == first.scores(["dog"]).tolist()


@pytest.mark.parametrize(
    ("documents", "settings"),
    [
        (CORPUS[::-1], SIMPLE),
        ([*CORPUS, ""], SIMPLE),
        (["".join(CORPUS[:2]), *CORPUS[2:]], SIMPLE),
        (CORPUS, IndexSettings("english", k1=0.9, b=0.4)),
        (CORPUS, IndexSettings("simple", k1=1.0, b=0.4)),
        (CORPUS, IndexSettings("simple", k1=0.9, b=0.5)),
    ],
)
def test_different_documents_order_or_settings_make_a_new_index(
    folder: Path, documents: list[str], settings: IndexSettings
) -> None:
    open_index(CORPUS, SIMPLE)
    open_index(documents, settings)
    assert len(stored(folder)) == 2


@pytest.mark.parametrize("name", ["bm25s", "Stemmer", "unicodedata"])
def test_another_version_of_bm25s_stemmer_or_unicode_makes_a_new_index(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_index(CORPUS, SIMPLE)
    if name == "Stemmer":
        monkeypatch.setattr("Stemmer.version", lambda: "0")
    else:
        monkeypatch.setattr({"bm25s": "bm25s.__version__", "unicodedata": "unicodedata.unidata_version"}[name], "0")
    open_index(CORPUS, SIMPLE)
    assert len(stored(folder)) == 2


def cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def edit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)


FILES = [
    "data.csc.index.npy",
    "documents.digests.npy",
    "documents.positions.npy",
    "indices.csc.index.npy",
    "indptr.csc.index.npy",
    "manifest.json",
    "params.index.json",
    "terms.digests.npy",
    "terms.positions.npy",
]


def test_an_index_has_exactly_the_listed_files(folder: Path) -> None:
    open_index(CORPUS, SIMPLE)
    assert sorted(path.name for path in stored(folder)[0].iterdir()) == FILES


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [cut_short, edit, Path.unlink])
def test_a_damaged_index_is_detected_and_rebuilt(
    folder: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    good = open_index(CORPUS, SIMPLE).scores(["dog", "cat"]).tolist()
    damage(stored(folder)[0] / name)
    assert open_index(CORPUS, SIMPLE).scores(["dog", "cat"]).tolist() == good
    (message,) = caplog.messages
    assert (
        message
        == f"crispbench: the BM25 index in {stored(folder)[0]} has changed since it was written: it is built again"
    )
    open_index(CORPUS, SIMPLE)
    assert len(caplog.messages) == 1


def test_an_intact_index_of_other_documents_is_not_used(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_index(CORPUS, SIMPLE)
    (path,) = stored(folder)
    open_index(CORPUS[::-1], SIMPLE)
    (other_path,) = set(stored(folder)) - {path}
    shutil.rmtree(path)
    shutil.copytree(other_path, path)
    assert open_index(CORPUS, SIMPLE).scores(["bird"]).argmax() == 2
    assert len(caplog.messages) == 1


def test_documents_that_change_between_readings_are_refused_and_leave_no_index(folder: Path) -> None:
    class Once(CountedReads):
        def __iter__(self) -> Iterator[str]:
            self.times += 1
            return iter(self.texts if self.times == 1 else [])

    with pytest.raises(ScoringFailed, match=r"second reading gave other documents \(0\) than the first \(5\)"):
        open_index(Once(CORPUS), SIMPLE)
    assert [path.suffix for path in folder.iterdir()] == [".lock"]


def test_an_unwritable_cache_folder_is_only_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("CRISPBENCH_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    index = open_index(CORPUS, SIMPLE)
    assert index.scores(["bird"]).argmax() == 2
    (message,) = caplog.messages
    assert message.startswith("crispbench: the BM25 index is kept until the end of the run only: [Errno ")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_full_cache_folder_is_only_a_warning_and_leaves_no_draft(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    build = module._build

    def full(target: Path, *rest: Any) -> None:
        build(target, *rest)
        if folder in target.parents:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_build", full)
    assert open_index(CORPUS, SIMPLE).scores(["bird"]).argmax() == 2
    assert [path.suffix for path in folder.iterdir()] == [".lock"]
    assert caplog.messages == [
        "crispbench: the BM25 index is kept until the end of the run only: [Errno 28] No space left on device"
    ]


def test_without_space_in_any_folder_the_engine_is_unavailable(folder: Path) -> None:
    code = """
import resource, signal
from engines import EngineUnavailable, load
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # most bytes of a file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    load("bm25", {}).prepare([str(number) for number in range(1000)], analysis="simple")
except EngineUnavailable as error:
    print(error)
"""
    done = python(code)
    assert done.stdout == (
        "the BM25 index cannot be written: [Errno 27] File too large; "
        "set CRISPBENCH_CACHE or TMPDIR to a folder with room\n"
    )
    assert [path.suffix for path in folder.iterdir()] == [".lock"]


def python(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )


SLOW = """
import time
from engines import load

class Slow(list):
    readings = 0
    def __iter__(self):
        self.readings += 1
        for number, text in enumerate(super().__iter__()):
            if self.readings == 2 and number == 2:
                print("building", flush=True)
                time.sleep(%s)
            yield text

with load("bm25", {"analysis": "simple"}) as engine:
    engine.prepare(Slow(%r), analysis="simple")
    print(engine.search("dog", 9))
"""


def test_a_killed_build_leaves_no_index_that_looks_complete(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    builder = subprocess.Popen(
        [sys.executable, "-c", SLOW % (600, CORPUS)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "building\n"
        builder.send_signal(signal.SIGKILL)
    assert stored(folder) == []
    assert any(path.suffix == ".draft" for path in folder.iterdir())
    assert open_index(CORPUS, SIMPLE).scores(["bird"]).argmax() == 2
    assert sorted(path.suffix for path in folder.iterdir()) == ["", ".lock"]
    assert caplog.messages == []


def test_concurrent_processes_build_an_index_once(folder: Path) -> None:
    builders = [
        subprocess.Popen([sys.executable, "-c", SLOW % (0.5, CORPUS)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [builder.communicate()[0] for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0, 0]
    assert sorted(outputs) == ["[1, 4, 0]\n", "[1, 4, 0]\n", "building\n[1, 4, 0]\n"]
    assert sorted(path.suffix for path in folder.iterdir()) == ["", ".lock"]


def test_every_document_is_found_at_its_first_position() -> None:
    # some of 5,000 digests end in zero bytes, which must not end the string
    documents = [f"document {number}" for number in range(5000)]
    index = open_index([*documents, *documents[:100]], SIMPLE)
    assert index.positions(documents).tolist() == list(range(5000))
    assert index.positions(["document 5000", "Document 1", ""]).tolist() == [ABSENT] * 3
    assert all(index.scores([str(number)])[number] > 0 for number in range(5000))


@pytest.mark.parametrize("text", ["\ud800 cat", "cat\x00", "cat \U0001f408"])
def test_unusual_characters_are_indexed_like_other_text(text: str) -> None:
    with load("bm25", {}) as engine:
        engine.prepare(["dog", text], analysis="simple")  # ln(1 + 1.5/1.5) / (1 + 0.9) = 0.3648
        assert engine.score([Pair("cat", text), Pair("dog", text)]) == pytest.approx([0.3648, 0], abs=1e-4)
        with pytest.raises(ScoringFailed, match="was not in the corpus"):
            engine.score([Pair("cat", "cat")])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_closing_releases_the_maps_and_the_corpus(folder: Path) -> None:
    engine = load("bm25", {})
    assert isinstance(engine, Retriever)
    engine.prepare(CORPUS, analysis="simple")
    assert str(folder) in Path("/proc/self/maps").read_text()
    engine.close()
    assert str(folder) not in Path("/proc/self/maps").read_text()
    with pytest.raises(ScoringFailed, match="call prepare first"):
        engine.search("dog", 1)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA holds for mapped memory on Linux only")
def test_a_corpus_of_60_mb_is_indexed_and_searched_in_16_mb() -> None:
    code = """
import re, resource
from collections.abc import Collection
from pathlib import Path
import bm25s, Stemmer
from engines import Pair, load
from engines.bm25 import index as bm25_index

WORDS = [f"word{number:06}" for number in range(20_000)]
class Documents(Collection):
    def __len__(self): return 59_700
    def __contains__(self, text): raise NotImplementedError
    def __iter__(self):
        return (" ".join(WORDS[number * 7919 % 19_900 :][:100]) for number in range(59_700))

documents = Documents()
bm25_index.RUN = 2**16
engine = load("bm25", {})
engine.prepare(["warm up"], analysis="simple")
used = 1024 * int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
resource.setrlimit(resource.RLIMIT_DATA, (used + 2**24, used + 2**24))
for _ in range(2):
    engine.prepare(documents, analysis="simple")
    print(len(engine.search("word000500 word000501", 1000)))
try:
    print(len(list(documents)))
except MemoryError:
    print("the text does not fit")
"""
    assert python(code).stdout.splitlines() == ["303", "303", "the text does not fit"]
