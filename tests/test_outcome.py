"""The outcomes of verbs, their exit codes, and the common form of every verb."""

import importlib
import inspect
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from harness.outcome import Outcome, worst

ROOT = Path(__file__).parents[1]
VERBS = {
    "harness.run.verb": "run",
    "harness.run.merge": "merge",
    "harness.run.report": "report",
    "harness.compare.verb": "compare",
    "harness.latency.verb": "latency",
    "harness.ab.verb": "ab",
    "harness.check.verb": "check",
    "harness.probe.verb": "probe",
    "harness.interop.export": "export",
    "harness.verbs.measure": "measure",
    "harness.verbs.quantize": "quantize",
    "harness.verbs.list": "list",
    "harness.verbs.doctor": "doctor",
}


def test_exit_codes_are_the_documented_ones() -> None:
    assert {outcome.value: outcome.exit_code for outcome in Outcome} == {
        "pass": 0, "regression": 1, "fail": 1, "inconclusive": 3, "not comparable": 4, "invalid": 5, "incomplete": 5,
    }  # fmt: skip


def test_the_worst_outcome_decides_and_missing_outcomes_decide_nothing() -> None:
    assert worst(Outcome) == Outcome.REGRESSION
    assert worst([Outcome.PASS, None, Outcome.INCONCLUSIVE]) == Outcome.INCONCLUSIVE
    assert worst([Outcome.INVALID, Outcome.FAIL]) == Outcome.FAIL
    assert worst([None, None]) is None


@pytest.mark.parametrize(("module", "verb"), VERBS.items())
def test_every_verb_is_a_function_with_typed_options_and_a_typed_result(module: str, verb: str) -> None:
    function = getattr(importlib.import_module(module), verb)
    parameters = inspect.signature(function).parameters.values()
    positional = [parameter for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]
    keywords = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    assert keywords <= {"out", "say"}
    for parameter in positional[:-1]:
        assert parameter.name != "options"
    if positional and positional[-1].name == "options":
        options = positional[-1].annotation
        assert options.__name__ == f"{verb.capitalize()}Options"
        assert is_dataclass(options) and options.__dataclass_params__.frozen  # type: ignore[attr-defined]
        options()  # every option has a default
    result = inspect.signature(function).return_annotation
    assert is_dataclass(result) and result.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert {"outcome", "document"} <= set(dir(result)) | {field.name for field in fields(result)}
    assert {"report", "lines"} & set(dir(result))


def test_the_first_file_of_a_package_holds_only_a_docstring() -> None:
    for room in ("run", "compare", "latency", "probe", "verbs"):
        lines = (ROOT / "harness" / room / "__init__.py").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 1 and lines[0].startswith('"""')
