"""A large run file is read once; its stored lists are used only for the same, undamaged content."""

import gzip
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.benchmarks import BenchmarkError, load
from harness.candidates import ranked
from harness.candidates.first_stage import retrieve
from harness.candidates.stages import RunStage
from harness.records import Candidates

LINES = ["q-cat Q0 d-dog 1 1", "q-cat Q0 d-cat 2 1", "q-cat Q0 d-fish 3 2", "q-dog Q0 d-dog 1 5"]


@pytest.fixture
def read(animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Candidates]:
    """Reads the candidates of a run file; every file counts as large enough to be stored."""
    monkeypatch.setenv("CRISPBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ranked, "REMEMBERED_BYTES", 1)

    def read(lines: list[str] = LINES) -> Candidates:
        path = tmp_path / "first.trec.gz"
        path.write_bytes(gzip.compress("".join(f"{line} tag\n" for line in lines).encode(), mtime=0))
        return retrieve(load("beir", {"path": animals}), RunStage(path=str(path)))

    return read


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache/runs").glob("*"))


def test_a_file_that_was_read_before_gives_the_same_candidates_without_reading_it(
    read: Callable[..., Candidates], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read()
    assert first.lists["q-cat"] == ("d-fish", "d-dog", "d-cat")  # ties keep the order of the file
    assert any("rank column disagrees" in warning for warning in first.warnings)
    monkeypatch.setattr(ranked, "read_run_file", lambda path: pytest.fail("read again"))
    again = read()
    assert again == first and again.sha256 == first.sha256


def test_changed_content_under_the_same_name_is_read(read: Callable[..., Candidates], tmp_path: Path) -> None:
    read()
    assert read(LINES[:2]).lists["q-cat"] == ("d-dog", "d-cat")
    assert len(kept(tmp_path)) == 2


def test_damaged_lists_are_read_again_with_a_warning(
    read: Callable[..., Candidates], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = read()
    (path,) = kept(tmp_path)
    content = path.read_bytes()
    for damaged in (b"", content[:-3], content.replace(b"d-fish", b"d-bird")):
        path.write_bytes(damaged)
        with caplog.at_level(logging.WARNING):
            assert read() == first
        assert "damaged" in caplog.text and "first.trec.gz" in caplog.text
        assert path.read_bytes() == content
        caplog.clear()


def test_a_file_with_an_error_is_never_stored(read: Callable[..., Candidates], tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(BenchmarkError, match="is not a finite number"):
            read([*LINES, "q-dog Q0 d-cat 2 nan"])
    assert kept(tmp_path) == []


def test_a_folder_that_cannot_be_written_costs_a_warning(
    read: Callable[..., Candidates], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert read().lists["q-dog"] == ("d-dog",)
    assert "are not stored" in caplog.text


def test_a_small_file_is_not_stored(
    read: Callable[..., Candidates], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranked, "REMEMBERED_BYTES", 2**20)
    read()
    assert kept(tmp_path) == []
