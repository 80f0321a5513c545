"""The wheel holds everything that an installation needs outside of a checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import crispbench

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of a wheel built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("crispbench-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_an_installed_wheel_finds_its_templates(installed: Path) -> None:
    code = "import engines, engines.prompts.template as t; print(engines.__file__, *t.template_names())"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=installed, env={"PYTHONPATH": str(installed)}, capture_output=True, text=True
    )
    assert ran.stdout.split()[0].startswith(str(installed)), ran.stderr
    assert {"mxbai-v2", "mxbai-v2-seq"} <= set(ran.stdout.split())


def test_an_installed_wheel_finds_its_suites_and_published_tables(installed: Path) -> None:
    code = "import harness.benchmarks.suites as s, harness.published as p; print(s.suite_names(), p.table_names())"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=installed, env={"PYTHONPATH": str(installed)}, capture_output=True, text=True
    )
    assert "'beir'" in ran.stdout and "'mxbai-rerank-v2'" in ran.stdout, ran.stderr


def test_the_wheel_holds_the_html_page_and_no_tests(installed: Path) -> None:
    names = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    assert "harness/report/templates/index.html" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"crispbench", "engines", "harness"}


def test_every_package_of_the_wheel_has_its_type_marker(installed: Path) -> None:
    assert all((installed / package / "py.typed").is_file() for package in ("crispbench", "engines", "harness"))


def test_the_wheel_has_the_version_that_the_package_states(installed: Path) -> None:
    (folder,) = installed.glob("crispbench-*.dist-info")
    assert folder.name == f"crispbench-{crispbench.__version__}.dist-info"


def test_python_m_crispbench_runs_the_command(installed: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "crispbench", "--help"],
        cwd=installed,
        env={"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    (folder,) = installed.glob("crispbench-*.dist-info")
    assert "crispbench = harness.cli:entry" in (folder / "entry_points.txt").read_text()
