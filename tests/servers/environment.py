"""Third-party programs in their own virtual environments, because their versions conflict with ours.

mxbai-rerank, the reference implementation, is installed as for the measurements beside it (perf/).

Example: python -m tests.servers.environment infinity truss mxbai-rerank
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
REQUIREMENTS = (HERE, HERE.parents[1] / "perf")
FOLDER = Path(os.environ.get("CRISPBENCH_SERVERS") or HERE.parents[1] / ".venv-servers")
INSTALL_S = 1200


def requirements(name: str) -> Path:
    return next(path for path in requirements_files() if path.stem == f"requirements-{name}")


def requirements_files() -> list[Path]:
    return [path for folder in REQUIREMENTS for path in sorted(folder.glob("requirements-*.txt"))]


def interpreter(name: str) -> Path:
    return FOLDER / name / "bin" / "python"


def is_installed(name: str) -> bool:
    """Whether the environment exists with exactly the versions of its requirements file."""
    marker = FOLDER / name / "installed.txt"
    return marker.is_file() and marker.read_bytes() == requirements(name).read_bytes()


def install(name: str) -> None:
    """Create the environment unless it is installed already. Raises CalledProcessError and TimeoutExpired."""
    if is_installed(name):
        return
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip = [str(interpreter(name)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--requirement", str(requirements(name))], check=True, timeout=INSTALL_S)
    # written last, so that a broken environment is rebuilt
    (folder / "installed.txt").write_bytes(requirements(name).read_bytes())


if __name__ == "__main__":
    names = sorted(path.stem.removeprefix("requirements-") for path in requirements_files())
    if not sys.argv[1:] or set(sys.argv[1:]) - set(names):
        sys.exit(f"usage: python -m tests.servers.environment NAME..., with NAME one of {', '.join(names)}")
    for name in sys.argv[1:]:
        install(name)
