"""Engines by name, their options and their errors."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import engines
from engines import BadOptions, Engine, EngineError, EngineUnavailable, Pair, ScoringFailed
from engines.base import Options, read_options, require
from engines.model_files import weights_revision
from engines.prompts.template import load_template

PLUGIN = """
from engines import Engine
class Length(Engine):
    def score(self, pairs):
        return [float(len(pair.document)) for pair in pairs]
"""
Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution with the module `plugin_of_a_test` and one entry point."""

    def with_entry_point(line: str) -> None:
        (tmp_path / "plugin_of_a_test.py").write_text(PLUGIN)
        metadata = tmp_path / "plugin_of_a_test-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-of-a-test\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[crispbench.engines]\n{line}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "plugin_of_a_test", raising=False)

    return with_entry_point


def test_an_unknown_engine_names_the_known_ones() -> None:
    names = "bi_encoder, bm25, cross_encoder, fake, remote, tensorrt_llm, torch"
    with pytest.raises(BadOptions, match=f"'tensor' is not known; did you mean 'tensorrt_llm'\\? expected .* {names}"):
        engines.load("tensor", {})


def test_an_installed_package_adds_an_engine_by_its_entry_point(install: Install) -> None:
    install("length = plugin_of_a_test:Length")
    assert "length" in engines.names()
    with engines.load("length", {}) as engine:
        assert engine.score([Pair("query", "four")]) == [4.0]


def test_an_entry_point_does_not_replace_a_built_in_engine(install: Install) -> None:
    install("fake = plugin_of_a_test:Length")
    assert engines.engine_class("fake").__module__ == "engines.fake"


@pytest.mark.parametrize("target", ["plugin_of_a_test:Nothing", "plugin_of_a_test:__name__", "plugin_of_a_test"])
def test_an_entry_point_that_is_not_an_engine_is_refused(install: Install, target: str) -> None:
    install(f"broken = {target}")
    with pytest.raises(BadOptions, match=f"engine kind 'broken' points to '{target}', which is not an Engine"):
        engines.load("broken", {})


def test_an_entry_point_to_a_missing_module_makes_the_engine_unavailable(install: Install) -> None:
    install("broken = no_such_module:Engine")
    with pytest.raises(EngineUnavailable, match="points to 'no_such_module:Engine': No module named"):
        engines.load("broken", {})


def test_every_built_in_engine_can_be_imported() -> None:
    assert all(issubclass(engines.engine_class(name), Engine) for name in engines.ENGINES)


def test_options_are_read_without_loading_a_model() -> None:
    assert engines.options("torch", {"model": "no such model"}).model_dump()["precision"] == "auto"


class Colours(Options):
    colour: str
    shade: int = 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"color": "red", "colour": "red"},
            "paint: unknown option 'color'; did you mean 'colour'?",
        ),
        ({}, "paint: option 'colour' is missing; the options are colour, shade"),
        ({"colour": "red", "shade": "X1"}, "paint: shade = 'X1': input should be a valid integer"),
    ],
)
def test_a_wrong_option_is_a_one_line_error_with_its_value(values: dict[str, str], message: str) -> None:
    with pytest.raises(BadOptions) as raised:
        read_options(Colours, values, "paint")
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_options_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Colours(colour="red").colour = "blue"  # type: ignore[misc]


def test_the_error_about_a_missing_package_names_the_extra_that_installs_it() -> None:
    with pytest.raises(
        EngineUnavailable, match=r"no_such_package cannot be imported .*pip install 'crispbench\[demo\]'"
    ):
        require("no_such_package", extra="demo")


def test_every_error_is_an_engine_error() -> None:
    assert all(issubclass(error, EngineError) for error in (BadOptions, EngineUnavailable, ScoringFailed))


def test_the_revision_changes_with_the_weights_and_with_no_other_file(tmp_path: Path) -> None:
    assert weights_revision(str(tmp_path)) == weights_revision(str(tmp_path / "none")) == ""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = weights_revision(str(tmp_path))
    (tmp_path / "README.md").write_text("says nothing about the weights")
    assert weights_revision(str(tmp_path)) == first
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense" / "model.safetensors").write_bytes(b"more")
    assert weights_revision(str(tmp_path)) != first
    assert first.startswith("sha256:") and len(first) == len("sha256:") + 16


def test_only_the_remote_engine_takes_concurrent_calls() -> None:
    assert [name for name in engines.names() if engines.engine_class(name).concurrent] == ["remote"]


def test_an_engine_is_for_speed_only_if_its_weights_are_random() -> None:
    assert not engines.options("bm25", {}).speed_only
    assert not engines.options("torch", {"model": "m"}).speed_only
    assert engines.options("torch", {"model": "m", "weights": "random"}).speed_only


def test_an_engine_without_matrix_products_has_no_ceiling() -> None:
    assert engines.load("bm25", {}).ceiling() is None


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        ('"{document}"', "pieces must hold {query} once and then {document} once"),
        ('"{query}", "{document} {instruction}"', "the piece with {document} must hold no other slot"),
    ],
)
def test_a_template_from_a_file_is_checked(piece: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        f'name: own\ndescription: d\nsource: s\nlabels: {{positive: "1", negative: "0"}}\npieces: [{piece}]\n'
    )
    with pytest.raises(BadOptions) as raised:
        load_template(str(path))
    assert message in str(raised.value)
