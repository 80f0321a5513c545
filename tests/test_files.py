"""A file is replaced as a whole: when a writer is killed, when several write at once, and when a writer fails."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engines.storage import replacing
from harness.files import replace_file, write_json

ROOT = Path(__file__).parents[1]


def test_a_killed_writer_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_json(path, {"scores": [1]})
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom engines.storage import replacing\n"
        "with replacing(Path(sys.argv[1])) as draft, draft.open('w') as file:\n"
        "    file.write('half of a'), file.flush(), print('written', flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None and victim.stdout.readline() == "written\n"
        victim.kill()
    assert json.loads(path.read_text()) == {"scores": [1]}
    write_json(path, {"scores": [2]})  # the draft left behind does no harm
    assert json.loads(path.read_text()) == {"scores": [2]}


def test_concurrent_writers_leave_one_whole_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "one.bin"
    contents = [bytes([number]) * 100_000 for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda content: replace_file(path, content), contents)) == [path] * 40
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_writer_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = replace_file(tmp_path / "page.html", b"old")
    with pytest.raises(ValueError, match="no number"), replacing(path) as draft:
        draft.write_bytes(b"half of the new")
        raise ValueError("no number")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_draft_keeps_the_suffixes_of_its_target(tmp_path: Path) -> None:
    with replacing(tmp_path / "run.trec.gz") as draft:
        assert draft.parent == tmp_path and draft.suffixes[-2:] == [".trec", ".gz"]
        draft.write_bytes(b"")
