"""Progress is shown at a terminal and never in a pipe or a log."""

import pytest

from harness.progress import bar, reading, waiting


def work() -> None:
    with waiting("loading [a model]"):
        pass
    with bar("fake on animals", 30, "pairs") as done:
        for _ in range(3):
            done(10)


def test_a_pipe_shows_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    work()
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_progress_on_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    work()
    out, err = capsys.readouterr()
    assert out == ""
    assert "loading [a model]" in err
    assert "fake on animals" in err and "30/30" in err and "pairs/s" in err


def test_reading_shows_every_pass_and_changes_no_document(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with reading("documents of animals", ["cat", "dog"]) as documents:
        assert [*documents, *documents] == ["cat", "dog", "cat", "dog"]
        assert len(documents) == 2 and "dog" in documents
    assert "2/2" in capsys.readouterr().err
