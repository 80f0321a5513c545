"""The baseline store: saves are never overwritten, cut short or mixed up. Also the history and its plot."""

import json
import multiprocessing
import shutil
import sqlite3
from pathlib import Path

import pytest

from engines.base import BadOptions
from harness.check import baselines, plot, trend
from harness.check import history as histories
from harness.check.baselines import DRAFT, BaselineEntry, entries, find, names, save
from harness.check.history import changes
from harness.check.verb import CheckOptions, check
from harness.store import NotComparable, StoreError
from tests.check_folders import MACHINE, SETTINGS, changed, record, record_launches, score
from tests.conftest import printed

STEADY = (1.0, 1.002, 0.998, 1.004, 0.996)


@pytest.fixture(scope="module")
def scored_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return score(tmp_path_factory.mktemp("scored"))


@pytest.fixture
def good(scored_once: Path, tmp_path: Path) -> Path:
    """A folder with scores and a recording."""
    folder = Path(shutil.copytree(scored_once / "r/good", tmp_path / "r/good"))
    return record(folder, 1.0, machine=changed(MACHINE, commit="feed" * 10))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_saved_baseline_can_be_checked_after_its_folder_is_deleted(good: Path, store: Path) -> None:
    entry = save(store, "main", [good])
    shutil.rmtree(good)
    assert sorted(path.relative_to(entry.folder).as_posix() for path in entry.folder.rglob("*") if path.is_file()) == [
        "1/latency/single-stream.jsonl",
        "1/scores.sqlite",
        "entry.json",
    ]
    again = record(store.parent / "again/e", 1.0)
    result = check("main", [str(again)], CheckOptions(store=store))
    assert (result.baseline.name, result.baseline.saved, result.baseline.launches) == ("main", entry.saved, 1)
    assert [row.metric for row in result.latency.rows] == ["p50", "p95", "p99", "throughput"]


def test_a_stored_baseline_and_its_folder_give_the_same_quality_verdict(
    good: Path, scored_once: Path, store: Path
) -> None:
    save(store, "main", [good])
    for name, outcome in (("again", "pass"), ("wild", "regression")):
        folders = [str(scored_once / "r" / name)]
        quality = CheckOptions(quality=0.06, slower={}, store=store)  # 60 queries cannot pass at less
        stored, plain = (check(text, folders, quality) for text in ("main", str(good)))
        assert stored.outcome == plain.outcome == outcome
        assert stored.quality == plain.quality


def test_every_save_appends_an_entry_and_changes_no_other(tmp_path: Path, store: Path) -> None:
    before = {}
    for number, seconds in enumerate((1.0, 2.0, 3.0), start=1):
        entry = save(store, "main", [record(tmp_path / str(seconds) / "e", seconds)])
        assert entry.number == number
        now = {path: path.read_bytes() for path in store.rglob("*") if path.is_file() and path.name != ".lock"}
        assert before.items() <= now.items()
        before = now
    save(store, "release-1.0", [tmp_path / "1.0/e"])
    assert names(store) == ["main", "release-1.0"]
    assert [entry.number for entry in entries(store, "main")] == [1, 2, 3]


def test_the_newest_entry_is_used_unless_a_number_or_a_count_is_given(tmp_path: Path, store: Path) -> None:
    for number in (1, 2, 3):
        save(store, "main", record_launches(tmp_path / str(number), STEADY[:2]))

    def chosen(text: str, last: int = 1) -> list[str]:
        stored = find(store, text, last)
        assert stored is not None
        return [folder.relative_to(store / "main").as_posix() for folder in stored.folders]

    assert chosen("main") == ["0003/1", "0003/2"]
    assert chosen("main@1") == ["0001/1", "0001/2"]
    assert chosen("main", 2) == ["0003/1", "0003/2", "0002/1", "0002/2"]
    assert find(store, "other") is None
    assert find(store, "results/demo/e") is None
    with pytest.raises(BadOptions, match="has no entry '7'"):
        find(store, "main@7")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "-flag", "a b", "a" * 101, "main@2"])
def test_a_name_is_one_path_component(tmp_path: Path, store: Path, name: str) -> None:
    with pytest.raises(BadOptions, match="baseline name"):
        save(store, name, [record(tmp_path / "e", 1.0)])
    assert not store.exists()


def test_invalid_incomplete_and_mixed_baselines_are_refused_and_nothing_is_written(
    scored_once: Path, tmp_path: Path, store: Path
) -> None:
    short = record(tmp_path / "short/e", 1.0, settings=changed(SETTINGS, min_duration_s=1e6))
    launches = record_launches(tmp_path / "a", STEADY)
    foreign = record(tmp_path / "b/e", 1.0, machine=changed(MACHINE, cpu="Xeon"))
    for folders, error, message in (
        ([short], StoreError, "is INVALID: too short.*a baseline has to be valid"),
        ([scored_once / "r/failing"], StoreError, "is incomplete on words: a baseline has to be complete"),
        ([*launches, foreign], NotComparable, "cpu EPYC -> Xeon"),
        ([launches[0], launches[0]], BadOptions, "given twice"),
        ([], BadOptions, "no folder"),
        ([tmp_path / "nowhere"], StoreError, "nowhere holds neither"),
    ):
        with pytest.raises(error, match=message):
            save(store, "main", folders)
    assert not store.exists()


def test_a_killed_save_leaves_no_entry_and_the_next_one_removes_its_draft(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = record(tmp_path / "e", 1.0)
    save(store, "main", [launch])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(baselines, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            save(store, "main", [launch])
    assert list((store / "main").glob(f"{DRAFT}*"))
    assert [entry.number for entry in entries(store, "main")] == [1]
    assert save(store, "main", [launch]).number == 2
    assert list((store / "main").glob(f"{DRAFT}*")) == []


def _save_often(store: Path, launch: Path) -> None:
    for _ in range(5):
        save(store, "main", [launch])


def test_two_concurrent_writers_lose_no_save(tmp_path: Path, store: Path) -> None:
    launch = record(tmp_path / "e", 1.0)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_save_often, args=(store, launch)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [entry.number for entry in entries(store, "main")] == list(range(1, 11))


def test_scores_that_are_still_in_the_write_ahead_log_are_saved(good: Path, store: Path) -> None:
    connection = sqlite3.connect(good / "scores.sqlite")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("UPDATE scores SET score = 123.5 WHERE rank = 1")
    connection.commit()
    copy = save(store, "main", [good]).folder / "1/scores.sqlite"
    connection.close()
    with sqlite3.connect(f"{copy.as_uri()}?mode=ro", uri=True) as saved:
        assert saved.execute("SELECT DISTINCT score FROM scores WHERE rank = 1").fetchall() == [(123.5,)]
    saved.close()
    assert sorted(path.name for path in copy.parent.glob("scores*")) == ["scores.sqlite"]


def test_an_entry_of_an_unknown_format_and_an_unknown_name_are_refused(tmp_path: Path, store: Path) -> None:
    entry = save(store, "main", [record(tmp_path / "e", 1.0)])
    with pytest.raises(BadOptions, match=r"has no baseline 'mian'; did you mean 'main'\?"):
        baselines.history(store, "mian")
    (entry.folder / "entry.json").write_text(json.dumps({**entry.document(), "format": 2}), encoding="utf-8")
    with pytest.raises(StoreError, match="its format is 2, this version reads 1"):
        find(store, "main")


def past(tmp_path: Path, store: Path, times: list[float], **header: object) -> None:
    for number, seconds in enumerate(times):
        launch = record(tmp_path / f"{len(entries(store, 'main'))}-{number}" / "e", seconds, **header)
        save(store, "main", [launch])


def noisy(seconds: float, count: int) -> list[float]:
    return [seconds * (1 + 0.01 * (number * 7 % 5 - 2) / 2) for number in range(count)]


def test_a_history_marks_the_entry_at_which_times_changed(tmp_path: Path, store: Path) -> None:
    past(tmp_path, store, [*noisy(0.1, 7), *noisy(0.12, 6)])
    history = histories.read("main", entries(store, "main"))
    assert [(series.subject, series.metric, len(series.tracks)) for series in history.series] == [
        ("single-stream", "p50", 1),
        ("single-stream", "throughput", 1),
    ]
    (change,) = changes(history.series[0].tracks[0])
    assert (change.entry, change.before, change.after) == (
        8,
        pytest.approx(0.1, rel=0.01),
        pytest.approx(0.12, rel=0.01),
    )
    lines = printed(trend.build(history)).splitlines()
    assert "change at entry 8: single-stream p50 from 100 ms to 120 ms" in lines
    assert lines[-1] == "2 changes of level"  # p50 and throughput
    assert json.loads(json.dumps(history.document()))["series"][0]["tracks"][0]["changes"][0]["entry"] == 8


def test_points_of_different_machines_or_different_work_are_never_joined(tmp_path: Path, store: Path) -> None:
    past(tmp_path, store, noisy(0.1, 3))
    past(tmp_path, store, noisy(0.3, 2), machine=changed(MACHINE, cpu="Xeon"))
    past(tmp_path, store, noisy(0.1, 2))
    past(tmp_path, store, noisy(0.2, 2), settings=changed(SETTINGS, seed=1))
    history = histories.read("main", entries(store, "main"))
    tracks = [(track.machine, [point.entry for point in track.points]) for track in history.series[0].tracks]
    assert tracks == [(0, [1, 2, 3, 6, 7]), (1, [4, 5]), (0, [8, 9])]
    assert history.machines == ("EPYC, 2 cores", "Xeon, 2 cores")
    assert (
        printed(trend.build(history)).splitlines()[-1]
        == "no change points: one machine has at most 5 entries, and 10 are needed"
    )


def test_a_history_holds_quality_launches_and_scenarios(good: Path, tmp_path: Path, store: Path) -> None:
    save(store, "main", [good, record(tmp_path / "e", 1.2)])
    record(good, 0.5, "server")
    record(good, 0.5, "offline")
    save(store, "main", [good])
    history = histories.read("main", entries(store, "main"))
    assert [(series.subject, series.metric) for series in history.series] == [
        ("words", "nDCG@10"),
        ("single-stream", "p50"),
        ("single-stream", "throughput"),
        ("server", "p50"),
        ("offline", "throughput"),
    ]
    first = history.series[1].tracks[0].points[0]
    assert first.value == pytest.approx(1.1, rel=0.01) and len(first.launches) == 2
    text = printed(trend.build(history))
    assert max(map(len, text.splitlines())) <= 110
    # A request of 10 pairs takes 1.00125 and 1.2015 s on average. The wide table is transposed: one column per entry.
    lines = [line.split() for line in text.splitlines()]
    assert ["entry", "1", "2"] in lines and ["words", "nDCG@10", "1.0000", "1.0000"] in lines
    assert ["single-stream", "p50", "1.10", "s", "1.00", "s"] in lines
    assert ["single-stream", "throughput", "9.16", "9.99"] in lines
    assert ["offline", "throughput", "-", "20.0"] in lines
    assert "machine A: EPYC, 2 cores" in text


def test_equal_histories_give_equal_pictures(tmp_path: Path, store: Path) -> None:
    past(tmp_path, store, [*noisy(0.1, 6), *noisy(0.12, 6)])
    history = histories.read("main", entries(store, "main"))
    paths = trend.write(history, tmp_path / "out")
    assert [path.name for path in paths] == ["index.html", "trend.md", "table.tex", "trend.svg", "trend.png"]
    assert paths[3].read_bytes() == plot.draw(history).svg
    assert paths[4].read_bytes().startswith(b"\x89PNG")


def test_the_commit_comes_from_the_recording_or_from_the_working_directory(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = record(tmp_path / "a/e", 1.0, machine=changed(MACHINE, commit="feed" * 10))
    assert save(store, "main", [recorded]).commit == "feed" * 10
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert save(store, "main", [record(tmp_path / "b/e", 1.0)]).commit is None


def test_a_name_in_the_store_wins_over_a_folder_of_that_name(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(store, "main", [record(tmp_path / "a/e", 1.0)])
    record(tmp_path / "main", 2.0)
    current = str(record(tmp_path / "b/e", 1.0))
    for text, seconds in (("main", 1.0), ("./main", 2.0)):
        row = check(text, [current], CheckOptions(store=store)).latency.rows[0]
        assert row.baseline == pytest.approx(seconds, rel=0.01)


RECORDED = Path(__file__).parent / "recorded/baselines"


def test_a_store_of_the_first_version_still_reads() -> None:
    first, second = entries(RECORDED, "main")
    assert (first.launches, first.commit, first.sources[0]) == (3, "feed" * 10, "recordings/launch-1/quick")
    assert (second.launches, second.commit, second.machine["cpu"]) == (1, None, "Xeon")
    for entry in (first, second):
        assert entry.document() == json.loads((entry.folder / "entry.json").read_text(encoding="utf-8"))
        assert BaselineEntry.read(entry.folder) == entry
    history = histories.read("main", [first, second])
    assert [(series.subject, series.metric) for series in history.series] == [
        ("words", "nDCG@10"),
        ("single-stream", "p50"),
        ("single-stream", "throughput"),
    ]
    options = CheckOptions(store=RECORDED, allow=("machine",))
    result = check("main@1", [str(RECORDED / "main/0002/1")], options)
    assert result.outcome == "inconclusive"
    p50 = result.latency.rows[0]
    assert p50.change is not None and p50.change.value == pytest.approx(0.01)
