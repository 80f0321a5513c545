"""A store returns exactly what was written, also to the next process, and refuses other configurations."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engines.base import COUNT_NAMES, Counts, Description
from harness.manifest import Manifest
from harness.records import Failure, Oddities, Sample, Score
from harness.store import FILE, NotComparable, Store, StoreError
from tests import recordings

SETS = {"animals": recordings.entry(revision="sha256:aa", queries=3, candidates={"k": 100, "sha256": "cc"})}
MANIFEST = Manifest(
    engine="large",
    kind="fake",
    options={"seed": 1, "model": "überall"},
    description=Description(model="word overlap"),
    versions={"python": "3.11.9", "numpy": "2.0"},
    machine=recordings.machine(cpu="A"),
    benchmarks=SETS,
)
SAMPLE = Sample("q", 0.25, 1, warmup=False, counts=Counts(tokens=3))

# All texts that UTF-8 can encode, that is without lone surrogates.
texts = st.text(st.characters(codec="utf-8"), max_size=8)
counted = st.dictionaries(st.sampled_from(COUNT_NAMES), st.integers(0))
finite = st.floats(allow_nan=False, allow_infinity=False)
queries = st.dictionaries(texts, st.lists(finite, max_size=4), max_size=5)


@contextmanager
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name) / "run" / "large"


@settings(max_examples=40, deadline=None)
@given(
    benchmark=texts,
    values=queries,
    seconds=st.floats(0, 1e6),
    counts=st.dictionaries(st.sampled_from(COUNT_NAMES), st.integers(0)),
)
@example("b", {"": [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -1 / 3], "\0": [0.0]}, 0.1, {})
def test_scores_and_samples_are_read_back_exactly(
    benchmark: str, values: dict[str, list[float]], seconds: float, counts: dict[str, int]
) -> None:
    scores = {
        query_id: [Score(f"{query_id}/{rank}", rank, value) for rank, value in enumerate(listed, start=1)]
        for query_id, listed in values.items()
    }
    samples = [
        Sample(query_id, seconds, len(scores[query_id]), not scores[query_id], Counts(**counts)) for query_id in scores
    ]
    with folder() as path:
        with Store.open(path, MANIFEST) as store:
            for sample in samples:
                store.commit(benchmark, sample, scores[sample.query_id])
        with Store.read(path) as store:
            assert store.scores(benchmark) == scores
            assert store.samples(benchmark) == samples  # in the order of commits
            assert store.done(benchmark) == scores.keys()
            assert store.scores(benchmark + "x") == {}


@settings(max_examples=20, deadline=None)
@given(
    qrels=st.dictionaries(texts, st.dictionaries(texts, st.integers(-2, 4), min_size=1, max_size=3), max_size=3),
    errors=st.dictionaries(texts, texts, max_size=3),
)
def test_judgements_and_failures_are_read_back(qrels: dict[str, dict[str, int]], errors: dict[str, str]) -> None:
    with folder() as path:
        with Store.open(path, MANIFEST) as store:
            store.save_qrels("animals", {"old": {"d": 1}})
            store.save_qrels("animals", qrels)
            for query_id, error in errors.items():
                store.fail("animals", Failure(query_id, "an earlier error"))
                store.fail("animals", Failure(query_id, error))
        with Store.read(path) as store:
            assert store.qrels("animals") == qrels
            assert {failure.query_id: failure.error for failure in store.failures("animals")} == errors
            assert store.done("animals") == set()


def test_scores_read_one_by_one_are_those_read_at_once_and_only_of_committed_queries(tmp_path: Path) -> None:
    with Store.open(tmp_path, MANIFEST) as store:
        store.commit("animals", replace(SAMPLE, query_id="r"), [Score("d", 1, 0.5), Score("a", 2, 0.75)])
        store.commit("animals", replace(SAMPLE, query_id="empty"), [])
        store.commit("plants", SAMPLE, [Score("d", 1, 0.25)])
        store.fail("animals", Failure("failed", "no answer"))
        scored = store.scored("animals")
        assert list(scored) == ["empty", "r"] and len(scored) == 2
        assert dict(scored) == store.scores("animals") == {"empty": [], "r": [Score("d", 1, 0.5), Score("a", 2, 0.75)]}
        assert isinstance(scored["r"][0], Score)
        for query_id in ("failed", "q"):
            assert query_id not in scored


def test_a_query_that_is_scored_later_is_no_longer_a_failure(tmp_path: Path) -> None:
    with Store.open(tmp_path, MANIFEST) as store:
        store.fail("animals", Failure("q", "no answer"))
        store.fail("animals", Failure("r", "no answer"))
        store.commit("animals", SAMPLE, [Score("d", 1, 0.5)])
        assert store.failures("animals") == [Failure("r", "no answer")]


def test_a_query_is_never_committed_twice(tmp_path: Path) -> None:
    with pytest.raises(StoreError), Store.open(tmp_path, MANIFEST) as store:
        store.commit("animals", SAMPLE, [Score("d", 1, 0.5)])
        store.commit("animals", replace(SAMPLE, pairs=2), [Score("e", 2, 0.75)])
    with Store.read(tmp_path) as store:
        assert store.samples("animals") == [SAMPLE]
        assert store.scores("animals") == {"q": [Score("d", 1, 0.5)]}


@pytest.mark.parametrize("value", [float("nan"), None])
def test_a_score_that_is_not_a_number_discards_its_whole_query(tmp_path: Path, value: Any) -> None:
    with pytest.raises(StoreError), Store.open(tmp_path, MANIFEST) as store:
        store.commit("animals", SAMPLE, [Score("d", 1, 0.5), Score("e", 2, value)])
    with Store.read(tmp_path) as store:
        assert (store.done("animals"), store.scores("animals")) == (set(), {})


def test_oddities_are_read_back_per_benchmark(tmp_path: Path) -> None:
    oddities = {"q": Oddities(1, 2, 3), "r": Oddities(0, 0, 0)}
    with Store.open(tmp_path, MANIFEST) as store:
        assert store.oddities("animals") is None
        store.save_oddities("animals", {"gone": Oddities(9, 9, 9)})
        store.save_oddities("animals", oddities)
        store.save_oddities("plants", {"q": Oddities(0, 0, 1)})
    with Store.read(tmp_path) as store:
        assert store.oddities("animals") == oddities
        assert store.oddities("plants") == {"q": Oddities(0, 0, 1)}
        assert store.oddities("stones") is None


def test_a_store_without_the_table_of_oddities_is_read_and_written(tmp_path: Path) -> None:
    with Store.open(tmp_path, MANIFEST) as store:
        store.commit("animals", SAMPLE, [Score("d", 1, 0.5)])
    older = sqlite3.connect(tmp_path / FILE)
    older.execute("DROP TABLE oddities")
    older.close()
    with Store.read(tmp_path) as store:
        assert store.oddities("animals") is None and store.done("animals") == {"q"}
    with Store.open(tmp_path, MANIFEST) as store:
        store.save_oddities("animals", {"q": Oddities(0, 0, 0)})
        assert store.oddities("animals") == {"q": Oddities(0, 0, 0)} and store.done("animals") == {"q"}


def test_the_longest_preparation_is_kept(tmp_path: Path) -> None:
    with Store.open(tmp_path, MANIFEST) as store:
        assert store.preparation_s("animals") is None
        store.prepared("animals", 2.5)
        store.prepared("animals", 0.5)
        assert store.preparation_s("animals") == 2.5


@pytest.mark.parametrize(
    ("changed", "phrase"),
    [
        (replace(MANIFEST, options={"seed": 2, "model": "überall"}), "options.seed was 1 and is 2"),
        (replace(MANIFEST, options={"seed": 1}), "options.model was 'überall' and is 'nothing'"),
        (
            replace(MANIFEST, description=Description(model="another")),
            "description.model was 'word overlap' and is 'another'",
        ),
        (replace(MANIFEST, machine=recordings.machine(cpu="B")), "machine.cpu was 'A' and is 'B'"),
        (replace(MANIFEST, kind="bm25"), "kind was 'fake' and is 'bm25'"),
        (
            replace(MANIFEST, benchmarks={"animals": replace(SETS["animals"], revision="sha256:bb")}),
            "benchmarks.animals.revision was 'sha256:aa' and is 'sha256:bb'",
        ),
        (
            replace(MANIFEST, benchmarks={"animals": recordings.entry(candidates={"k": 50})}),
            "benchmarks.animals.candidates.k was 100 and is 50",
        ),
    ],
)
def test_another_configuration_is_refused_with_the_differing_field(
    tmp_path: Path, changed: Manifest, phrase: str
) -> None:
    with Store.open(tmp_path, MANIFEST) as store:
        store.commit("animals", SAMPLE, [Score("d", 1, 0.5)])
    with pytest.raises(NotComparable) as refused, Store.open(tmp_path, changed):
        pass
    assert phrase in str(refused.value)
    assert "--out or --fresh" in str(refused.value) and "\n" not in str(refused.value)
    with Store.open(tmp_path, MANIFEST) as store:  # the results are unchanged
        assert store.scores("animals") == {"q": [Score("d", 1, 0.5)]}


def test_a_store_without_scores_takes_another_configuration_and_forgets_what_the_first_left(tmp_path: Path) -> None:
    with Store.open(tmp_path, MANIFEST) as store:
        store.save_qrels("animals", {"q": {"d": 1}})
        store.fail("animals", Failure("q", "wrong key"))
    changed = replace(MANIFEST, options={"key": "right"})
    with Store.open(tmp_path, changed) as store:
        assert store.manifest() == changed
        assert (store.failures("animals"), store.qrels("animals")) == ([], {})


def test_a_long_list_of_differences_is_shortened_to_a_count(tmp_path: Path) -> None:
    with Store.open(tmp_path, MANIFEST) as store:
        store.commit("animals", SAMPLE, [Score("d", 1, 0.5)])
    options = {f"option{number}": number for number in range(7)}  # two more options were removed
    with pytest.raises(NotComparable, match="and 4 more"), Store.open(tmp_path, replace(MANIFEST, options=options)):
        pass


def test_a_new_benchmark_is_added_and_the_others_are_kept(tmp_path: Path) -> None:
    with Store.open(tmp_path, MANIFEST) as store:
        store.commit("animals", SAMPLE, [Score("d", 1, 0.5)])
    with Store.open(tmp_path, replace(MANIFEST, benchmarks={"plants": SETS["animals"]})) as store:
        store.commit("plants", SAMPLE, [Score("d", 1, 0.75)])
    with Store.read(tmp_path) as store:
        manifest = store.manifest()
        assert manifest is not None and list(manifest.benchmarks) == ["animals", "plants"]
        assert store.scores("animals") == {"q": [Score("d", 1, 0.5)]}
        assert store.scores("plants") == {"q": [Score("d", 1, 0.75)]}


def test_a_second_writer_is_refused_in_one_line(tmp_path: Path) -> None:
    with Store.open(tmp_path, MANIFEST) as store:
        with pytest.raises(StoreError, match="being written by another process") as refused:
            with Store.open(tmp_path, MANIFEST):
                pass
        assert "\n" not in str(refused.value)
        store.commit("animals", SAMPLE, [Score("d", 1, 0.5)])  # the first writer continues
    with Store.open(tmp_path, MANIFEST) as store:  # the lock is free again
        assert store.done("animals") == {"q"}


def test_a_reader_sees_committed_queries_while_a_writer_continues(tmp_path: Path) -> None:
    seen: list[set[str]] = []

    def look() -> None:
        with Store.read(tmp_path) as store:
            seen.append(store.done("animals"))

    with Store.open(tmp_path, MANIFEST) as store:
        for query_id in ("q", "r"):
            store.commit("animals", replace(SAMPLE, query_id=query_id), [Score("d", 1, 0.5)])
            reader = threading.Thread(target=look)
            reader.start()
            reader.join()
    assert seen == [{"q"}, {"q", "r"}]


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    with Store.open(tmp_path, MANIFEST):
        pass
    with pytest.raises(StoreError, match="readonly"), Store.read(tmp_path) as store:
        store.commit("animals", SAMPLE, [])


def test_a_folder_without_a_store_is_refused_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=rf"holds no {FILE}.*crispbench run"), Store.read(tmp_path):
        pass


@pytest.mark.parametrize(
    "content", [b"this is not a database despite its file name " * 40, b"SQLite format 3\0cut off"]
)
def test_a_file_that_is_not_a_database_is_refused_in_one_line_with_the_next_step(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(StoreError, match=r"not a database.*--fresh") as refused, Store.open(tmp_path, MANIFEST):
        pass
    assert str(tmp_path / FILE) in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(StoreError, match="not a database"), Store.read(tmp_path) as store:
        store.manifest()
    assert (tmp_path / FILE).read_bytes() == content


def test_a_fresh_store_is_empty_after_any_configuration(tmp_path: Path) -> None:
    with Store.open(tmp_path, MANIFEST, fresh=True) as store:
        store.commit("animals", SAMPLE, [Score("d", 1, 0.5)])
    with Store.open(tmp_path, replace(MANIFEST, kind="bm25"), fresh=True) as store:
        assert store.done("animals") == set()
    (tmp_path / FILE).write_bytes(b"no database")
    with Store.open(tmp_path, MANIFEST, fresh=True) as store:
        assert store.done("animals") == set()


def test_a_store_that_is_being_written_cannot_be_made_fresh(tmp_path: Path) -> None:
    with Store.open(tmp_path, MANIFEST) as store:
        store.commit("animals", SAMPLE, [Score("d", 1, 0.5)])
        with pytest.raises(StoreError, match="another process"), Store.open(tmp_path, MANIFEST, fresh=True):
            pass
    with Store.read(tmp_path) as store:
        assert store.done("animals") == {"q"}


def test_every_query_is_on_disk_as_soon_as_it_is_committed(tmp_path: Path) -> None:
    with Store.open(tmp_path, MANIFEST) as store:
        store.commit("animals", SAMPLE, [Score("d", 1, 0.5)])
        reader = sqlite3.connect(tmp_path / FILE)
        assert reader.execute("SELECT query_id, score FROM scores").fetchall() == [("q", 0.5)]
        reader.close()
