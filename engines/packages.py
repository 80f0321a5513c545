"""Optional packages: whether they are installed, and what installs them. Engine authors import from engines.base."""

import importlib
import sys
from importlib.util import find_spec
from typing import Any

from engines.errors import EngineUnavailable


def require_installed(*packages: str, extra: str) -> None:
    """Raise EngineUnavailable with the extra that installs a missing package. Nothing is imported."""
    for package in packages:
        if not is_installed(package):
            raise EngineUnavailable(f"{package} is not installed: pip install 'crispbench[{extra}]'")


def is_installed(package: str) -> bool:
    """Whether a top-level package can be found, which says nothing of whether it can be imported."""
    if package in sys.modules:
        return sys.modules[package] is not None
    return find_spec(package) is not None


def require(package: str, *, extra: str) -> Any:
    """Import an optional package. Raises EngineUnavailable with the extra that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise EngineUnavailable(f"{package} cannot be imported ({error}): pip install 'crispbench[{extra}]'") from None
