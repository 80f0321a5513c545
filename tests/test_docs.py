"""What the documents say is true of the code beside them."""

import re
from pathlib import Path

import pytest
import yaml

from harness.config import read_config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tree() -> dict[str, str]:
    """Path and description of every line of the README's tree."""
    block = README.split("## The tree")[1].split("```")[1]
    found: dict[str, str] = {}
    folder = ""
    for line in filter(str.strip, block.splitlines()):
        name, _, description = line.strip().partition("  ")
        if name.endswith("/"):
            folder = name
        found[name if name.endswith("/") or not line.startswith(" ") else folder + name] = description.strip()
    return found


@pytest.mark.parametrize("pattern", ["engines/*.py", "harness/**/*.py", "configs/**/*.yaml", "scripts/*.py"])
def test_the_readme_has_a_line_for_every_file(pattern: str) -> None:
    files = {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)}
    listed = tree()
    assert files
    assert sorted(file for file in files if not listed.get(file)) == []


def test_the_readme_names_no_file_that_is_not_there() -> None:
    assert [name for name in tree() if not (ROOT / name).exists()] == []


def test_the_readme_links_to_files_that_are_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("config", sorted(ROOT.glob("configs/*.yaml")), ids=lambda path: path.name)
def test_every_config_that_ships_is_valid(config: Path) -> None:
    assert read_config(config).name == config.stem


def test_the_config_in_the_readme_is_valid(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "example.yaml").write_text(example, encoding="utf-8")
    assert list(read_config(tmp_path / "example.yaml").engines) == list(yaml.safe_load(example)["engines"])


def test_the_architecture_fits_on_a_page() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()) <= 70


def test_every_line_of_the_changelog_is_short() -> None:
    lines = [line for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if line.startswith("- ")]
    assert lines
    assert [line for line in lines if len(line.split()) > 26] == []
