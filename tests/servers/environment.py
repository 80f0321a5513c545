"""Programs of others in virtual environments of their own, because their versions do not fit beside ours.

Example: python -m tests.servers.environment infinity truss
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("CRISPBENCH_SERVERS") or HERE.parents[1] / ".venv-servers")
INSTALL_S = 1200


def requirements(name: str) -> Path:
    return HERE / f"requirements-{name}.txt"


def interpreter(name: str) -> Path:
    return FOLDER / name / "bin" / "python"


def is_installed(name: str) -> bool:
    """Whether the environment is there with exactly the versions of its requirements file."""
    marker = FOLDER / name / "installed.txt"
    return marker.is_file() and marker.read_bytes() == requirements(name).read_bytes()


def install(name: str) -> None:
    """Make the environment, unless it is there as its file says. Raises CalledProcessError, TimeoutExpired."""
    if is_installed(name):
        return
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip = [str(interpreter(name)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--requirement", str(requirements(name))], check=True, timeout=INSTALL_S)
    (folder / "installed.txt").write_bytes(requirements(name).read_bytes())  # last: a broken one is made anew


if __name__ == "__main__":
    known = sorted(path.stem.removeprefix("requirements-") for path in HERE.glob("requirements-*.txt"))
    if not sys.argv[1:] or set(sys.argv[1:]) - set(known):
        sys.exit(f"usage: python -m tests.servers.environment NAME..., with NAME one of {', '.join(known)}")
    for asked in sys.argv[1:]:
        install(asked)
