"""No child process imports from the working directory: real commands run beside packages with our names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import children
from tests.conftest import ROOT
from tests.engines.server import Server

# The content of bin/crispbench as pip writes it.
COMMAND = "import sys\nfrom harness.cli import entry\nif __name__ == '__main__':\n    sys.exit(entry())\n"
HOSTILE = 'raise SystemExit("imported from the working directory")\n'


@pytest.fixture
def hostile(animals: Path) -> Path:
    """A working directory with a config and with packages named `harness`, `engines` and `pickle`."""
    folder = animals.parent / "work"
    for name in ("harness", "engines", "pickle"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(HOSTILE)
    config = {
        "name": "animals",
        "engines": {"a": {"kind": "fake"}, "b": {"kind": "fake", "delay_s": 0.001}},
        "benchmarks": [{"source": "beir", "path": str(animals)}],
        "candidates": {"k": 3},
        "latency": {"scenario": "server", "processes": 2, "queries": 20, "warmup": 2, "rate": 50.0},
    }
    (folder / "animals.yaml").write_text(json.dumps(config))  # JSON is YAML
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the installed command; its folder is first on sys.path."""
    command = folder.parent / "bin/crispbench"
    command.parent.mkdir()
    command.write_text(COMMAND)
    return subprocess.run(
        [sys.executable, str(command), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_ab_launches_its_processes_beside_packages_with_our_names(hostile: Path) -> None:
    plan = ("--max-pairs", "1", "--rounds", "1", "--queries", "5", "--warmup", "1")
    ran = run(hostile, "ab", "animals.yaml", "--engine", "a", "--engine", "b", *plan, "--out", "out")
    assert (ran.returncode, "working directory" in ran.stdout + ran.stderr) == (3, False)
    assert json.loads((hostile / "out/ab.json").read_text())["complete"] is True


def test_latency_starts_its_load_and_telemetry_processes_beside_packages_with_our_names(hostile: Path) -> None:
    path = hostile / "animals.yaml"
    with Server() as server:
        remote = {"kind": "remote", "dialect": "cohere", "url": server.url, "model": "m", "concurrency": 16}
        path.write_text(json.dumps({**json.loads(path.read_text()), "engines": {"r": remote}}))
        ran = run(hostile, "latency", "animals.yaml", "--engine", "r", "--out", "out")
    assert "working directory" not in ran.stdout + ran.stderr, ran.stderr
    header, *timings, end = map(json.loads, (hostile / "out/r/latency/server.jsonl").read_text().splitlines())
    assert (header["settings"]["processes"], len(timings), end["end"]["telemetry"]["samples"] > 0) == (2, 20, True)


def test_ray_workers_start_beside_packages_with_our_names(hostile: Path) -> None:
    pytest.importorskip("ray")
    ran = run(hostile, "run", "animals.yaml", "--engine", "a", "--ray", "local", "--out", "out")
    assert (ran.returncode, "working directory" in ran.stdout + ran.stderr) == (0, False)
    assert (hostile / "out/a/measures.json").is_file()


def test_children_get_the_path_of_a_checkout_and_not_that_of_an_installation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/opt/engines")
    monkeypatch.setattr(sys, "path", ["", "/usr/lib/python3.11"])
    assert children.environment()["PYTHONPATH"] == f"/opt/engines{os.pathsep}{ROOT}"
    monkeypatch.setattr(sys, "path", ["", str(ROOT)])
    assert children.environment()["PYTHONPATH"] == "/opt/engines"
    assert children.environment()["PYTHONSAFEPATH"] == "1"
