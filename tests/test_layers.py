"""The structure that ARCHITECTURE.md promises: who may import whom, how large a part may be, what a name may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("engines", "harness")
    for path in sorted((ROOT / package).rglob("*.py"))
}
LINES_OF_A_MODULE = 400
LINES_OF_A_FUNCTION = 60
NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helpers", "helper", "manager", "handler", "misc", "base_utils"}


def imports(module: str) -> set[str]:
    """Our own modules that a module imports anywhere, also inside functions or for type checking."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            # `from harness import report` imports a module, `from harness.run import prepare` a name of one
            found |= {f"{source}.{name.name}" if f"{source}.{name.name}" in MODULES else source for name in node.names}
    return {name for name in found if name.partition(".")[0] in ("engines", "harness")}


def within(package: str) -> Iterator[str]:
    return (module for module in MODULES if module == package or module.startswith(f"{package}."))


def test_the_reader_of_imports_sees_every_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        "import engines.base as b\nfrom . import report\nfrom .store import Store\n"
        "def f():\n    from harness import run, nothing\n    import json\n"
    )
    monkeypatch.setitem(MODULES, "harness.odd", tmp_path / "odd.py")
    assert imports("harness.odd") == {"engines.base", "harness.report", "harness.store", "harness.run", "harness"}


def test_engines_import_nothing_of_the_harness() -> None:
    assert {module: found for module in within("engines") if (found := outside(imports(module), "engines"))} == {}


def outside(names: set[str], package: str) -> set[str]:
    return {name for name in names if name != package and not name.startswith(f"{package}.")}


def test_the_harness_reaches_engines_through_their_door_and_their_contract_only() -> None:
    allowed = {"engines", "engines.base"}
    extra = {
        "harness.catalogue": {"engines.template"},
        "harness.candidate_cache": {"engines.storage"},
        "harness.candidates": {"engines.storage"},
        "harness.config": {"engines.yaml_file"},
        "harness.probe": {"engines.template"},
        "harness.quantize": {"engines.fp8_export"},
        "harness.benchmarks.beir_archive": {"engines.storage"},
    }
    for module in within("harness"):
        reached = outside(imports(module), "harness")
        assert reached <= allowed | extra.get(module, set()), module


def test_records_is_a_leaf() -> None:
    assert imports("harness.records") == set()


def test_reports_see_rows_and_never_a_store_a_run_or_an_engine() -> None:
    forbidden = {"harness.store", "harness.run", "harness.session", "harness.results", "harness.benchmarks"}
    for module in within("harness.report"):
        reached = imports(module)
        assert not any(name.partition(".")[0] == "engines" for name in reached), module
        if module != "harness.report.rows":  # the one place where stores become rows
            assert reached & forbidden == set(), module


def test_nothing_imports_the_command_line() -> None:
    verbs = set(within("harness.cli"))
    assert [module for module in MODULES.keys() - verbs if imports(module) & verbs] == ["harness.__main__"]


def test_the_loop_knows_no_report_and_measures_know_no_store() -> None:
    loop = {name for name in imports("harness.run") if name.startswith(("harness.report", "harness.session"))}
    assert loop == set()
    for module in ("measures", "statistics", "latency"):
        assert imports(f"harness.{module}") == {"harness.records"}


def test_no_two_modules_import_each_other() -> None:
    reached = {module: imports(module) & MODULES.keys() for module in MODULES}
    for start in MODULES:
        seen: set[str] = set()
        left = [name for name in reached[start] if not start.startswith(f"{name}.")]
        while left:
            module = left.pop()
            assert module != start, f"{start} imports itself through {sorted(seen)}"
            if module not in seen:
                seen.add(module)
                left += reached[module]


@pytest.mark.parametrize("module", ["engines", "engines.base", "harness", "harness.cli", "harness.run"])
def test_importing_loads_no_model_library(module: str) -> None:
    heavy = {"torch", "transformers", "sentence_transformers", "mteb", "ray", "tensorrt_llm", "matplotlib"}
    code = f"import sys, {module}; print(*({heavy!r} & sys.modules.keys()))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_short_and_so_are_its_functions(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES_OF_A_MODULE
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno + 1 <= LINES_OF_A_FUNCTION, node.name
    assert ast.get_docstring(tree), "a module says in its first lines what it does"


def test_a_modules_name_says_what_it_is() -> None:
    assert {module for module in MODULES if module.rpartition(".")[2] in NAMES_THAT_SAY_NOTHING} == set()


def test_every_engine_and_every_benchmark_source_is_in_its_table() -> None:
    import engines
    from harness.benchmarks import SOURCES

    tabled = {target.partition(":")[0] for target in [*engines.ENGINES.values(), *SOURCES.values()]}
    assert tabled <= MODULES.keys()
