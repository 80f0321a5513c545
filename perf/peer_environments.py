"""Virtual environments of the peers, one each, because their versions conflict with ours and with one another's.

They are kept in .venv-peers/NAME, so that a later run installs nothing.
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".venv-peers"
INSTALL_S = 1200


class NotInstalled(Exception):
    """An environment cannot be made; the message is one line for the user."""


def interpreter(name: str) -> Path:
    return FOLDER / name / "bin" / "python"


def is_installed(name: str, requirements: Path) -> bool:
    """Whether the environment exists with exactly the versions of its requirements file."""
    marker = FOLDER / name / "installed.txt"
    return marker.is_file() and marker.read_bytes() == requirements.read_bytes()


def install(name: str, requirements: Path) -> None:
    """Make the environment unless it exists as its file wants it. Raises NotInstalled."""
    if is_installed(name, requirements):
        return
    shutil.rmtree(FOLDER / name, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter(name)), "install", "--quiet"]
    pip += ["--disable-pip-version-check", "--requirement", str(requirements)]
    try:
        venv.create(FOLDER / name, with_pip=False)
        (FOLDER / ".gitignore").write_text("*\n", encoding="utf-8")
        subprocess.run(pip, check=True, timeout=INSTALL_S, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"pip took more than {INSTALL_S} s: check the connection to the package index") from None
    except (OSError, subprocess.CalledProcessError) as error:
        printed = (getattr(error, "stderr", None) or str(error)).splitlines()
        reasons = [line for line in printed if line.startswith("ERROR")] or printed
        raise NotInstalled(reasons[-1]) from None
    shutil.copyfile(requirements, FOLDER / name / "installed.txt")  # last: a broken environment is made again
