"""docs/adding-an-engine.md is correct: its engine, registered and configured as it says, keeps the contract."""

import inspect
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import engines
from engines import Engine, Pair

PAGE = Path(__file__).parents[2] / "docs" / "adding-an-engine.md"


def block(language: str) -> str:
    (content,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return str(content)


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and options from the page's config; the page's engine is installed with its entry point during the tests."""
    folder = tmp_path_factory.mktemp("installed")
    ((name, target),) = tomllib.loads(block("toml"))["project"]["entry-points"]["crispbench.engines"].items()
    package, _, module = target.partition(":")[0].partition(".")
    (folder / package).mkdir()
    (folder / package / f"{module}.py").write_text(block("python"))
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[crispbench.engines]\n{name} = {target}\n")
    ((_, entry),) = yaml.safe_load(block("yaml"))["engines"].items()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield entry.pop("kind"), entry


def test_the_documented_engine_keeps_the_contract(
    documented: tuple[str, dict[str, Any]], promise: Callable[..., None], under_contract: Callable[..., Any]
) -> None:
    promise(under_contract(*documented))


def test_the_documented_engine_scores_shared_words(documented: tuple[str, dict[str, Any]]) -> None:
    kind, options = documented
    pairs = [Pair("a Cat", "a Cat sat"), Pair("a cat", "a Cat sat"), Pair("", "")]
    assert engines.load(kind, options).score(pairs) == pytest.approx([2 / 3, 1 / 4, 0])
    assert engines.load(kind, {}).score(pairs) == pytest.approx([2 / 3, 2 / 3, 0])


def test_the_documented_engine_is_short() -> None:
    assert len(block("python").splitlines()) <= 30


def test_the_page_names_every_part_of_the_contract() -> None:
    parts = [name for name, value in vars(Engine).items() if inspect.isfunction(value) and not name.startswith("_")]
    assert all(f"`{name}`" in PAGE.read_text(encoding="utf-8") for name in parts)
