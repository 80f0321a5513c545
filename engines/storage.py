"""Paths in a config, the cache folder, and files that are replaced as a whole.

Engines and the harness share this leaf, so that a path in a config means the same to both.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.base import BadOptions


def resolve(path: str | Path, config_folder: Path | None = None) -> Path:
    """A path in a config: a leading `~` is the home folder; a relative path begins in the working directory.

    If nothing is there, it begins in the config's folder. Every path in a config passes through here and nowhere else:
    folders of benchmarks, run files, folders of models and tokenizers, template files, certificate authorities. Raises
    BadOptions for an unknown `~NAME`.
    """
    places = places_of(path, config_folder)
    return next((place for place in places if place.exists()), places[0])


def tried(path: str | Path, config_folder: Path | None = None) -> str:
    """The absolute paths at which `resolve` looks, as messages name them."""
    return " and ".join(dict.fromkeys(str(place.absolute()) for place in places_of(path, config_folder)))


def shadowed(path: str | Path, config_folder: Path | None = None) -> tuple[str, ...]:
    """One line if a relative path means something else in the config's folder than in the working directory."""
    places = [place.absolute() for place in places_of(path, config_folder) if place.exists()]
    if len(places) < 2 or places[0].samefile(places[1]):
        return ()
    return (f"{str(path)!r} is {places[0]}, and not {places[1]} beside the config: the working directory comes first",)


def places_of(path: str | Path, config_folder: Path | None = None) -> list[Path]:
    """Where a path in a config may be: in the working directory first, then in the config's folder."""
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as error:
        raise BadOptions(f"path {str(path)!r}: {error}".rstrip(".") + "; write the folder out") from None
    if config_folder is None or expanded.is_absolute():
        return [expanded]
    return [expanded, config_folder / expanded]


def cache_folder(name: str) -> Path:
    """`name` under $CRISPBENCH_CACHE, by default under ~/.cache/crispbench; it need not exist."""
    root = os.environ.get("CRISPBENCH_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "crispbench") / name


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft to write to in the same folder, which takes the name `path` when the block ends.

    Readers see the old file or the new one, never a part, also when the writer is killed. Of two writers at once, the
    one that ends last wins. The draft has the suffixes of `path` and a name that no other process has; it is removed
    when the block raises.
    """
    draft = path.with_name(f".{secrets.token_hex(8)}.{path.name}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
