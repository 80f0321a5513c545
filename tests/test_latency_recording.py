"""Raw timings are written as they arrive; an interrupted recording stays incomplete."""

import json
from pathlib import Path

import pytest

from harness.latency.load import Timing
from harness.latency.recording import FORMAT, Recorder, read
from harness.store import StoreError
from tests import recordings

FIRST = Timing("q1", 0.5, 0.75, 1.25, 10, 300, first_byte_s=1.0)
SECOND = Timing("q2", 0.25, 0.25, 2.0, 10, None, "the server answered 503")


def recorded(path: Path, *timings: Timing, end: bool = True) -> Path:
    with Recorder(path, recordings.header()) as recorder:
        for timing in timings:
            recorder.add(timing)
        if end:
            recorder.end(recordings.end())
    return path


def test_a_recording_is_read_back_in_the_order_of_its_schedule(tmp_path: Path) -> None:
    recording = read(recorded(tmp_path / "new" / "server.jsonl", FIRST, SECOND))
    assert recording.header == recordings.header()
    assert recording.timings == (SECOND, FIRST)
    assert recording.end == recordings.end()


def test_every_answer_is_on_disk_before_the_next_one_arrives(tmp_path: Path) -> None:
    path = tmp_path / "server.jsonl"
    with Recorder(path, recordings.header()) as recorder:
        assert read(path).timings == ()
        recorder.add(FIRST)
        assert read(path).timings == (FIRST,)


def test_a_recording_without_its_last_line_has_no_end(tmp_path: Path) -> None:
    assert read(recorded(tmp_path / "server.jsonl", FIRST, end=False)).end is None


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_truncated_line_is_left_out(tmp_path: Path, cut: int) -> None:
    path = recorded(tmp_path / "server.jsonl", SECOND, FIRST, end=False)
    path.write_bytes(path.read_bytes()[:-cut])
    assert read(path).timings == (SECOND,)


def test_a_new_measurement_replaces_the_old_one(tmp_path: Path) -> None:
    path = recorded(tmp_path / "server.jsonl", FIRST)
    assert read(recorded(path, SECOND, end=False)).timings == (SECOND,)
    assert read(path).end is None


def test_two_measurements_never_write_to_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "server.jsonl"
    with Recorder(path, recordings.header()) as recorder:
        recorder.add(FIRST)
        with pytest.raises(StoreError, match="is being written by another measurement"):
            Recorder(path, recordings.header())
        recorder.add(SECOND)
    assert read(path).timings == (SECOND, FIRST)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not enough values to unpack"),
        ("no json\n", "Expecting value"),
        (json.dumps({"format": FORMAT + 1}) + "\n", f"its format is {FORMAT + 1}, this version reads 1 and {FORMAT}"),
        (json.dumps({"format": FORMAT}) + "\n", "'description'"),
        (json.dumps(recordings.HEADER) + "\n" + json.dumps({"odd": 1}) + "\n", "query_id: field required"),
    ],
)
def test_a_file_without_a_recording_is_refused_with_the_reason(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "server.jsonl"
    path.write_text(content)
    with pytest.raises(StoreError, match=rf"server\.jsonl: not a recording of `crispbench latency` \(.*{reason}"):
        read(path)


def test_a_missing_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        read(tmp_path / "server.jsonl")
