"""Where a model lies: a folder, a name on the hub, or a folder inside an installed package."""

from importlib.util import find_spec
from pathlib import Path

from engines.base import BadOptions, EngineUnavailable


def locate(model: str) -> str:
    """The folder behind `package:NAME/FOLDER`, anything else as it is. Raises EngineUnavailable, BadOptions."""
    if not model.startswith("package:"):
        return model
    package, _, folder = model.removeprefix("package:").partition("/")
    if not package.isidentifier():
        raise BadOptions(f"model {model!r}: expected package:NAME/FOLDER with the name of a Python package")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        distribution = package.replace("_", "-")
        raise EngineUnavailable(f"model {model!r}: package {package} is not installed: pip install {distribution}")
    return str(Path(spec.origin).parent / folder)
