"""Starting other Python processes, which import what this one imports and nothing from the working directory.

`python -m` and `python -c` put the working directory first on `sys.path`, where a folder called `harness` or a file
called `pickle.py` would be imported. PYTHONSAFEPATH, the variable behind `python -P`, leaves it out.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the folder that holds `harness` and `engines`
SAFE_PATH = "PYTHONSAFEPATH"


def own_path() -> list[str]:
    """The folder of this project; empty if every Python process of this installation finds the project by itself.

    A checkout that is not installed is found by `python -m harness` only because it is the working directory.
    """
    return [] if str(ROOT) in sys.path[1:] else [str(ROOT)]


def environment() -> dict[str, str]:
    """The environment for a Python process that is started by a command line."""
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = [folder for folder in (*inherited, *own_path()) if folder]
    return {**os.environ, SAFE_PATH: "1", **({"PYTHONPATH": os.pathsep.join(path)} if path else {})}


@contextmanager
def safe_path() -> Iterator[None]:
    """Processes that `multiprocessing` starts in this block get our `sys.path`, without the working directory."""
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = before
