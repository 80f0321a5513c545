"""Standard output, standard error and exit codes of the commands; every error is one line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import engines
from engines.prompts.template import template_names
from engines.remote.dialects import DIALECTS
from harness.benchmarks import SOURCES
from harness.verbs.doctor import PACKAGES

ROOT = Path(__file__).parents[1]
COMMANDS = tuple("run measure compare merge report export latency ab check probe quantize list doctor baseline".split())

Crispbench = Callable[..., Any]

CONFIG = """\
name: small
engines:
  fake: {kind: fake}
benchmarks:
  - {source: beir, path: nowhere}
"""


def complaint(answer: Any, code: int) -> str:
    """The only line on standard error of a command that failed with this code."""
    assert answer.out == ""
    assert answer.err.startswith("crispbench: ") and answer.err.endswith("\n") and answer.err.count("\n") == 1
    assert answer.code == code
    line: str = answer.err.rstrip()
    return line


@pytest.fixture
def refused(tmp_path: Path, crispbench: Crispbench) -> Callable[[str], str]:
    """Runs an unusable config; returns the error message after the path."""

    def run(text: str) -> str:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        line = complaint(crispbench("run", path, "--out", tmp_path / "out"), 2)
        assert not (tmp_path / "out").exists()
        return line.removeprefix(f"crispbench: {path}: ")

    return run


# Configs


def test_a_missing_config_is_reported_with_an_example(tmp_path: Path, crispbench: Crispbench) -> None:
    line = complaint(crispbench("run", tmp_path / "typo.yaml"), 2)
    assert "typo.yaml: cannot be read" in line and "configs/demo.yaml" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "line 1, column 8"),
        ("name: a\nname: b\n", "line 2: key 'name' occurs twice"),
        ("engines:\n  a: {kind: fake}\n  a: {kind: bm25}\n", "line 3: key 'a' occurs twice"),
        ("? [a, b]\n: c\n", "line 1: key of a list or a mapping is not text"),
        ("", "expected a mapping"),
        ("- name\n", "expected a mapping"),
        (CONFIG.replace("name: small", "name: ../up"), "name = '../up'"),
        (CONFIG.replace("fake: {", '"a/b": {'), "'a/b'"),
        (
            CONFIG + "engine: 3\n",
            "unknown option 'engine'; did you mean 'engines'? expected one of benchmarks, candidates, ",
        ),
        (CONFIG + "candidates: {depth: 3}\n", "candidates: unknown option 'depth'; expected one of b, k, k1, source"),
        (CONFIG + "candidates: {k: 0}\n", "candidates: k = 0: input should be greater than 0"),
        (
            CONFIG + "candidates: {source: google}\n",
            "candidates: source 'google' is not known; expected one of bm25, dense",
        ),
        (
            CONFIG.replace("kind: fake", "kin: fake"),
            "engine 'fake': option 'kind' is missing (is 'kin' meant?); expected one of bi_encoder",
        ),
        (CONFIG.replace("kind: fake", "kind: typo"), "engine kind 'typo' is not known; expected one of "),
        (
            CONFIG.replace("kind: fake", "kind: fake, sead: 1"),
            "engine 'fake': unknown option 'sead'; did you mean 'seed'?",
        ),
        (CONFIG.replace("kind: fake", "kind: fake, seed: many"), "engine 'fake': seed = 'many'"),
        (
            CONFIG.replace("source: beir", "source: typo"),
            "benchmark source 'typo' is not known; expected one of beir, beir_archive, mteb, stdlib",
        ),
        (
            CONFIG.replace("path: nowhere", "pat: nowhere"),
            "unknown option 'pat'; did you mean 'path'?",
        ),
        (CONFIG.replace("path: nowhere", "path: nowhere, queries: 0"), "queries = 0"),
    ],
)
def test_a_config_with_a_mistake_is_refused_in_one_line(refused: Callable[[str], str], text: str, message: str) -> None:
    assert message in refused(text)


def test_the_error_for_an_unknown_engine_kind_lists_every_known_kind(refused: Callable[[str], str]) -> None:
    assert refused(CONFIG.replace("kind: fake", "kind: typo")).endswith(", ".join(engines.names()))


def test_a_missing_benchmark_is_a_usage_error_before_an_engine_is_loaded(
    tmp_path: Path, crispbench: Crispbench
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.replace("kind: fake", "kind: torch, model: nowhere"))
    line = complaint(crispbench("run", tmp_path / "config.yaml", "--out", tmp_path / "out"), 2)
    assert line.startswith("crispbench: nowhere: no such folder")


def test_yaml_defaults_are_merged_and_may_be_overridden(tmp_path: Path, animals: Path, crispbench: Crispbench) -> None:
    (tmp_path / "config.yaml").write_text(
        "name: small\n"
        "engines:\n"
        "  first: &first {kind: fake, seed: 1}\n"
        "  second: {<<: *first, seed: 2}\n"
        f"benchmarks: [{{source: beir, path: {animals}}}]\n"
    )
    answer = crispbench("run", tmp_path / "config.yaml", "--out", tmp_path / "out", "--json")
    assert (answer.code, answer.err) == (0, "")
    manifest = json.loads((tmp_path / "out/second/manifest.json").read_text())
    assert (manifest["kind"], manifest["options"]) == ("fake", {"seed": 2})


def test_a_number_of_queries_may_be_written_as_text_and_limited(
    tmp_path: Path, animals: Path, crispbench: Crispbench
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.replace("path: nowhere", f'path: {animals}, queries: "4"'))
    answer = crispbench("run", tmp_path / "config.yaml", "--out", tmp_path / "out", "--limit", 2, "--json")
    assert json.loads(answer.out)["engines"]["fake"]["benchmarks"]["animals"]["queries"] == 2


def test_the_demo_config_names_its_five_engines() -> None:
    from harness.config import read_config

    engines = read_config(ROOT / "configs/demo.yaml").engines
    assert list(engines) == ["bm25", "minilm", "demo-fp32", "demo-bf16", "demo-int8"]


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "x.yaml", "--lmit", "3"), "No such option: --lmit"),
        (("run", "x.yaml", "--typo"), "expected one of --out, --engine, --benchmark, --limit, --part, --fresh, --ray"),
        (("--typo",), "No such option: --typo"),
        (("rnu", "x.yaml"), f"expected one of {', '.join(COMMANDS)}"),
        (("run",), "Missing argument"),
        (("run", "x.yaml", "--limit", "0"), "--limit"),
        (("run", "x.yaml", "--limit", "all"), "--limit"),
        (
            ("list", "typo"),
            "'typo' cannot be listed; expected one of engines, dialects, benchmarks, suites, published, templates",
        ),
        (("measure", "a.trec", "b.qrels"), "b.qrels: no such file"),
    ],
)
def test_a_wrong_argument_is_a_usage_error_that_names_the_valid_ones(
    crispbench: Crispbench, arguments: tuple[str, ...], message: str
) -> None:
    assert message in complaint(crispbench(*arguments), 2)


@pytest.mark.parametrize(
    "name", ["typo@10", "nDCG@", "nDCG@10@20", "", "nDCG(gain=3)@10", "BPM", "alpha_nDCG@10", "AP@ten"]
)
def test_a_measure_that_cannot_be_computed_is_a_usage_error_with_examples(
    tmp_path: Path, crispbench: Crispbench, name: str
) -> None:
    (tmp_path / "run.trec").write_text("q Q0 d 1 0.5 tag\n")
    (tmp_path / "qrels.txt").write_text("q 0 d 1\n")
    line = complaint(crispbench("measure", tmp_path / "run.trec", tmp_path / "qrels.txt", "--measure", name), 2)
    assert f"measure {name!r} cannot be computed (" in line and "nDCG@10, AP(rel=2), RR@10" in line


def test_a_run_for_other_queries_is_not_measured(tmp_path: Path, crispbench: Crispbench) -> None:
    (tmp_path / "run.trec").write_text("other Q0 d 1 0.5 tag\n")
    (tmp_path / "qrels.txt").write_text("q 0 d 1\n")
    line = complaint(crispbench("measure", tmp_path / "run.trec", tmp_path / "qrels.txt"), 2)
    assert "none of its 1 queries is judged" in line


# Other exit codes


def test_results_of_another_configuration_are_not_comparable(
    tmp_path: Path, animals: Path, crispbench: Crispbench
) -> None:
    path, text = tmp_path / "config.yaml", CONFIG.replace("path: nowhere", f"path: {animals}")
    path.write_text(text)
    assert crispbench("run", path, "--out", tmp_path / "out", "--json").code == 0
    path.write_text(text.replace("kind: fake", "kind: fake, noise: 0.5"))
    line = complaint(crispbench("run", path, "--out", tmp_path / "out"), 4)
    assert "options.noise was 'nothing' and is 0.5" in line and "--fresh" in line
    reported = crispbench("report", tmp_path / "out", "--json")
    assert reported.code == 0  # the old results can still be read


def test_a_folder_without_a_run_cannot_be_reported(tmp_path: Path, crispbench: Crispbench) -> None:
    assert "is not a run folder: it holds no run.json" in complaint(crispbench("report", tmp_path), 2)
    (tmp_path / "run.json").write_text('{"cut off')
    assert "is not a run folder" in complaint(crispbench("report", tmp_path), 5)


def test_a_damaged_store_is_reported_in_one_line(tmp_path: Path, animals: Path, crispbench: Crispbench) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.replace("path: nowhere", f"path: {animals}"))
    (tmp_path / "out/fake").mkdir(parents=True)
    (tmp_path / "out/fake/scores.sqlite").write_bytes(b"no database at all" * 100)
    line = complaint(crispbench("run", tmp_path / "config.yaml", "--out", tmp_path / "out"), 5)
    assert "scores.sqlite: file is not a database" in line and "--fresh" in line


@pytest.mark.parametrize("position", [0, 2])
def test_debug_shows_the_traceback_at_any_position(tmp_path: Path, crispbench: Crispbench, position: int) -> None:
    from harness.config import ConfigError

    arguments: list[object] = ["run", tmp_path / "typo.yaml"]
    arguments.insert(position, "--debug")
    with pytest.raises(ConfigError):
        crispbench(*arguments)


# What is printed


@pytest.mark.parametrize("command", [*COMMANDS[:-1], "baseline save", "baseline list", "baseline history"])
def test_every_command_has_help_with_an_example(command: str, crispbench: Crispbench) -> None:
    answer = crispbench(*command.split(), "--help")
    assert (answer.code, answer.err) == (0, "")
    assert f"Example: crispbench {command}" in answer.out
    assert "--json" in answer.out


def test_help_lists_every_command(crispbench: Crispbench) -> None:
    answer = crispbench("--help")
    assert answer.code == 0 and all(f" {command} " in answer.out for command in COMMANDS)


def test_json_is_one_document_on_standard_output_and_nothing_else(
    tmp_path: Path, animals: Path, crispbench: Crispbench
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.replace("path: nowhere", f"path: {animals}"))
    (tmp_path / "run.trec").write_text("q Q0 d 1 0.5 tag\n")
    (tmp_path / "qrels.txt").write_text("q 0 d 1\n")
    for key, *arguments in (
        ("run", "run", tmp_path / "config.yaml", "--out", tmp_path / "out"),
        ("files", "report", tmp_path / "out"),
        ("measures", "measure", tmp_path / "run.trec", tmp_path / "qrels.txt"),
        ("engines", "list", "engines"),
        ("checks", "doctor"),
    ):
        answer = crispbench(*arguments, "--json")
        assert key in json.loads(answer.out), arguments
        assert (answer.code, answer.err) == (0, "")


def test_report_prints_the_same_as_run(tmp_path: Path, animals: Path, crispbench: Crispbench) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.replace("path: nowhere", f"path: {animals}"))
    ran = crispbench("run", tmp_path / "config.yaml", "--out", tmp_path / "out")
    measures = (tmp_path / "out/fake/measures.json").read_bytes()
    reported = crispbench("report", tmp_path / "out")
    assert (ran.code, ran.err) == (0, "") and "nDCG@10" in ran.out and "index.html" in ran.out
    assert reported == ran
    assert (tmp_path / "out/fake/measures.json").read_bytes() == measures


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("engines", engines.names()),
        ("dialects", list(DIALECTS)),
        ("benchmarks", list(SOURCES)),
        ("templates", template_names()),
    ],
)
def test_list_describes_every_name_that_a_config_may_use(what: str, names: list[str], crispbench: Crispbench) -> None:
    entries = json.loads(crispbench("list", what, "--json").out)[what]
    assert list(entries) == names
    assert all(description.strip() for description in entries.values())
    lines = crispbench("list", what).out.splitlines()
    assert [line.split()[0] for line in lines] == names


def test_doctor_lists_every_package_and_gives_the_install_command_of_a_missing_one(
    crispbench: Crispbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.verbs.doctor.PACKAGES", (*PACKAGES, ("crispbench-typo", "a test", "typo")))
    answer = crispbench("doctor")
    assert answer.code == 0  # a missing optional package is not an error
    assert all(name in answer.out for name, _, _ in PACKAGES)
    assert "missing, for a test: pip install 'crispbench[typo]'" in answer.out
    monkeypatch.setattr("harness.verbs.doctor.PACKAGES", (("crispbench-typo", "a test", ""),))
    answer = crispbench("doctor")
    assert answer.code == 1 and "MISSING crispbench-typo" in answer.out


HEAVY = ("torch", "transformers", "sentence_transformers", "mteb", "ray", "numpy", "scipy", "matplotlib", "ir_measures")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["run", "typo.yaml"]])
def test_help_and_a_missing_config_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    # The loop needs these packages; those of models are not imported.
    allowed = () if "--help" in arguments else ("numpy", "scipy", "ir_measures")
    code = (
        "import sys; from harness.cli import main; main(sys.argv[1:]); "
        f"print(*({set(HEAVY) - set(allowed)!r} & sys.modules.keys()), file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert ran.stderr.splitlines()[-1] == ""
