"""The structure that ARCHITECTURE.md promises: allowed imports, size limits, unique and meaningful names."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("crispbench", "engines", "harness")
    for path in sorted((ROOT / package).rglob("*.py"))
}
LINES_OF_A_MODULE = 400
LINES_OF_A_FUNCTION = 60
NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helpers", "helper", "manager", "handler", "misc", "base_utils"}


def imports(module: str) -> set[str]:
    """Our own modules that a module imports anywhere, also inside functions or for type checking."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    names = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            # `from harness import report` imports a module, `from harness.run.loop import prepare` a name in one.
            names |= {
                f"{source}.{alias.name}" if f"{source}.{alias.name}" in MODULES else source for alias in node.names
            }
    return {name for name in names if name.partition(".")[0] in ("crispbench", "engines", "harness")}


def within(package: str) -> Iterator[str]:
    return (module for module in MODULES if module == package or module.startswith(f"{package}."))


def test_every_form_of_import_is_recognised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        "import engines.base as b\nfrom . import report\nfrom .store import Store\n"
        "def f():\n    from harness import run, nothing\n    import json\n"
    )
    monkeypatch.setitem(MODULES, "harness.odd", tmp_path / "odd.py")
    assert imports("harness.odd") == {"engines.base", "harness.report", "harness.store", "harness.run", "harness"}


def test_engines_import_nothing_from_the_harness() -> None:
    assert {module: names for module in within("engines") if (names := outside(imports(module), "engines"))} == {}


def test_nothing_imports_the_public_package() -> None:
    below = [module for module in MODULES if not module.startswith("crispbench")]
    assert [module for module in below if any(name.startswith("crispbench") for name in imports(module))] == []


def outside(names: set[str], package: str) -> set[str]:
    return {name for name in names if name != package and not name.startswith(f"{package}.")}


# Modules of `engines` that the harness may import: the entry, the contract, and seven leaves that both packages share.
SHARED = {
    *("engines", "engines.base", "engines.hub", "engines.own_errors", "engines.ports", "engines.problems"),
    *("engines.spelling", "engines.storage", "engines.yaml_file"),
}
# Modules of the harness that import more of `engines`, with the reason.
DEEPER = {
    "harness.verbs.list": {"engines.prompts.template", "engines.remote.dialects"},  # it lists what ships of both
    "harness.probe.verb": {"engines.prompts.template"},  # golden pairs are compared only under their own template
    "harness.verbs.quantize": {"engines.torch.export_fp8"},  # the verb is the command line of that module
}


def test_the_harness_imports_only_the_entry_and_the_contract_of_engines() -> None:
    for module in within("harness"):
        reached = outside(imports(module), "harness")
        assert reached <= SHARED | DEEPER.get(module, set()), module


def test_records_are_leaves() -> None:
    assert imports("harness.manifest") == {"engines.base"}
    assert imports("harness.records") == {"engines.base", "harness.manifest"}


LEAVES = {"harness.records", "harness.outcome", "engines.spelling"}


def test_figures_are_computed_without_input_or_output() -> None:
    for module in within("harness.figures"):
        assert {name for name in imports(module) if not name.startswith("harness.figures")} <= LEAVES, module


def test_the_press_imports_no_verb_no_row_and_no_engine() -> None:
    for module in within("harness.report"):
        assert {name for name in imports(module) if not name.startswith("harness.report")} <= {"harness.files"}, module


def test_nothing_imports_the_command_line() -> None:
    verbs = set(within("harness.cli"))
    importers = {module for module in MODULES.keys() - verbs if imports(module) & verbs}
    assert importers == {"crispbench.__main__", "harness.__main__"}


def test_the_loop_imports_no_report() -> None:
    above = ("harness.report", "harness.run.page", "harness.run.report", "harness.run.verb", "harness.run.rows")
    assert {name for name in imports("harness.run.loop") if name.startswith(above)} == set()


def room(module: str) -> str:
    """The folder below its package that a module lies in, or the module itself."""
    return ".".join(module.split(".")[:2])


def test_rooms_import_each_other_without_a_cycle() -> None:
    reached: dict[str, set[str]] = {}
    for module in MODULES:
        rooms = {room(name) for name in imports(module) & MODULES.keys()} - {room(module), "engines", "harness"}
        reached.setdefault(room(module), set()).update(rooms)
    assert list(TopologicalSorter(reached).static_order())  # raises CycleError, which names the rooms


def test_no_class_name_stands_for_two_things() -> None:
    classes = Counter(
        node.name
        for folder in ("crispbench", "engines", "harness", "perf", "scripts")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert sorted(name for name, count in classes.items() if count > 1) == []


def test_modules_import_each_other_without_a_cycle() -> None:
    reached = {module: imports(module) & MODULES.keys() for module in MODULES}
    for start in MODULES:
        seen: set[str] = set()
        pending = [name for name in reached[start] if not start.startswith(f"{name}.")]
        while pending:
            module = pending.pop()
            assert module != start, f"{start} imports itself through {sorted(seen)}"
            if module not in seen:
                seen.add(module)
                pending += reached[module]


@pytest.mark.parametrize(
    "module", ["crispbench", "engines", "engines.base", "harness", "harness.cli", "harness.run.loop"]
)
def test_importing_loads_no_model_library(module: str) -> None:
    heavy = {"torch", "transformers", "sentence_transformers", "mteb", "ray", "tensorrt_llm", "matplotlib", "pandas"}
    code = f"import sys, {module}; print(*({heavy!r} & sys.modules.keys()))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_functions_stay_within_their_size_limits(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES_OF_A_MODULE
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno + 1 <= LINES_OF_A_FUNCTION, node.name
    assert ast.get_docstring(tree), "the module has no docstring"


def test_no_module_has_a_meaningless_name() -> None:
    assert {module for module in MODULES if module.rpartition(".")[2] in NAMES_THAT_SAY_NOTHING} == set()


def test_every_name_table_points_to_existing_modules() -> None:
    import engines
    from engines.remote.dialects import DIALECTS
    from harness.benchmarks import SOURCES

    tables = (engines.ENGINES, DIALECTS, SOURCES)
    tabled = {target.partition(":")[0] for table in tables for target in table.values()}
    assert tabled <= MODULES.keys()
