"""No name in a config, a data set, an archive or a recorded run leads out of its folder."""

import io
import json
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.benchmarks import BenchmarkError
from harness.benchmarks.beir_archive import MOST_MEMBERS, check
from tests.hostile import texts


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", texts.PATHS)
def test_a_benchmark_whose_name_is_a_path_writes_inside_its_run(
    name: str, animals: Path, config: Callable[..., Path], crispbench: Callable[..., Any], tmp_path: Path
) -> None:
    written = config(
        engines={"fake": {"kind": "fake"}}, benchmarks=[{"source": "beir", "path": str(animals), "name": name}]
    )
    before = files(tmp_path)
    assert crispbench("run", written, "--out", tmp_path / "a/run").code == 0
    assert crispbench("export", "trec", tmp_path / "a/run", tmp_path / "a/out").code == 0
    new = files(tmp_path) - before
    assert {path.partition("/")[0] for path in new} == {"a"}
    assert all(path.startswith(("a/run/fake/", "a/run/report/", "a/run/run.json", "a/out/fake/")) for path in new)


@pytest.mark.parametrize("name", texts.PATHS)
@pytest.mark.parametrize("kind", ["run", "engine"])
def test_a_run_or_an_engine_whose_name_is_a_path_is_refused(
    kind: str, name: str, animals: Path, tmp_path: Path, crispbench: Callable[..., Any]
) -> None:
    document = {
        "name": name if kind == "run" else "x",
        "engines": {name if kind == "engine" else "e": {"kind": "fake"}},
        "benchmarks": [{"source": "beir", "path": str(animals)}],
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(document))
    before = files(tmp_path)
    assert crispbench("run", tmp_path / "c.yaml").code == 2
    assert files(tmp_path) == before


@pytest.fixture
def victim(small: Path, tmp_path: Path, moody: Any, crispbench: Callable[..., Any]) -> Path:
    assert crispbench("run", small, "--engine", "fake", "--out", tmp_path / "victim").code == 0
    assert crispbench("run", small, "--engine", "fake", "--out", tmp_path / "given").code == 0
    for name in ("measures.json", "manifest.json", "latency.json"):
        (tmp_path / "victim/fake" / name).write_text("mine")
    return tmp_path / "victim/fake/measures.json"


@pytest.mark.parametrize("name", ["../victim/fake", "{tmp}/victim/fake"])
def test_a_recorded_run_that_names_another_folder_as_its_engine_changes_nothing_there(
    name: str, victim: Path, tmp_path: Path, crispbench: Callable[..., Any]
) -> None:
    index = tmp_path / "given/run.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "engines": [name.format(tmp=tmp_path)]}))
    assert crispbench("report", tmp_path / "given").code == 5
    assert victim.read_text() == "mine"


def test_a_recorded_manifest_that_names_another_folder_changes_nothing_there(
    victim: Path, tmp_path: Path, crispbench: Callable[..., Any]
) -> None:
    with sqlite3.connect(tmp_path / "given/fake/scores.sqlite") as store:
        (text,) = store.execute("SELECT document FROM manifest").fetchone()
        store.execute(
            "UPDATE manifest SET document = ?", (json.dumps({**json.loads(text), "engine": "../victim/fake"}),)
        )
    store.close()
    crispbench("report", tmp_path / "given")
    crispbench("export", "trec", tmp_path / "given", tmp_path / "out/deep")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "out/victim").exists()


def packed(path: Path, members: dict[str, bytes]) -> Path:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    path.write_bytes(buffer.getvalue())
    return path


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "C:\\x", "..\\x", "\\\\host\\x", "a/..\\..\\x"])
def test_an_archive_that_would_leave_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="would leave the folder"):
        check(packed(tmp_path / "a.zip", {name: b"x"}), "url", None)


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"expected at most 10,000 members and 50 times the archive's size"):
        check(packed(tmp_path / "a.zip", {"tiny/corpus.jsonl": bytes(1_000_000)}), "url", None)
    with pytest.raises(BenchmarkError, match="10,001 members"):
        check(packed(tmp_path / "b.zip", {str(n): b"" for n in range(MOST_MEMBERS + 1)}), "url", None)
    lines = b"".join(b'{"_id": "%d", "text": "%x"}\n' % (n, n**7) for n in range(5000))
    check(packed(tmp_path / "c.zip", {"tiny/corpus.jsonl": lines}), "url", None)
