"""A config is validated once and keeps the validated objects; its paths have one meaning; it may name measures."""

import contextlib
import json
import pickle
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import pytest

import engines
from engines.base import EngineUnavailable, Options
from engines.fake import FakeOptions
from engines.prompts.template import load_template
from engines.remote.prompt_text import load_tokenizer
from engines.remote.transport import Limits, Transport
from engines.storage import resolve
from harness.benchmarks.beir import BeirFolder
from harness.candidates.first_stage import retrieve
from harness.candidates.stages import BM25Stage, DenseStage, RunStage
from harness.candidates.trec import write_run
from harness.config import ConfigError, read_config
from harness.figures.measure_names import parse
from harness.run.tasks import Selection, prepare

ROOT = Path(__file__).parents[1]
Crispbench = Callable[..., Any]


@pytest.fixture
def small(config: Callable[..., Path], animals: Path) -> Callable[..., Path]:
    """Writes a config of the fake engine over five queries, with further entries."""

    def write(**entries: Any) -> Path:
        engine = {"kind": "fake", "seed": 1}
        return config(engines={"fake": engine}, benchmarks=[{"source": "beir", "path": str(animals)}], **entries)

    return write


# Validated once


def test_a_config_keeps_the_given_and_the_validated_options(small: Callable[..., Path]) -> None:
    path = small()
    config = read_config(path)
    entry = config.engines["fake"]
    assert entry.given == {"seed": 1}
    assert entry.options == engines.options("fake", {"seed": 1}, path.parent)
    ((name, benchmark),) = config.entries
    assert name is None and isinstance(benchmark.source, BeirFolder)


def test_loading_an_engine_of_a_config_does_not_validate_its_options_again(
    small: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = read_config(small()).engines["fake"]
    monkeypatch.setattr(Options, "model_validate", lambda *_: pytest.fail("validated again"))
    with engines.load(entry.kind, entry.options) as engine:
        assert engine.options is entry.options


def test_an_engine_entry_can_be_pickled(small: Callable[..., Path]) -> None:
    entry = read_config(small()).engines["fake"]
    assert pickle.loads(pickle.dumps(entry)) == entry


def test_a_limit_never_makes_a_benchmark_larger(small: Callable[..., Path]) -> None:
    config = read_config(small())
    assert [len(prepare(config, Selection(limit=limit))[0].benchmark.queries) for limit in (2, 9)] == [2, 5]
    assert config.entries[0].benchmark.source.queries is None
    smaller = config.entries[0].benchmark.source.sampled(3)
    assert (type(smaller), smaller.queries) == (BeirFolder, 3)


def test_a_config_keeps_its_first_stage(small: Callable[..., Path]) -> None:
    dense = {"source": "dense", "k": 7, "model": "somewhere", "max_tokens": 64}
    path = small(candidates=dense)
    stage = read_config(path).candidates
    assert isinstance(stage, DenseStage)
    assert (stage.k, stage.given) == (7, {"model": "somewhere", "max_tokens": 64})
    assert stage.options == engines.options("bi_encoder", stage.given, path.parent)
    assert read_config(small()).candidates.model_dump() == BM25Stage().model_dump()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"engines": {"a": "bm25"}}, "engine 'a' = 'bm25': expected a mapping such as {kind: bm25}"),
        (
            {"engines": {"a": {"kind": ["bm25"]}}},
            "engine 'a': kind = ['bm25'] is not a name; expected one of ",
        ),
        ({"engines": {}}, "engines = {}: dictionary should have at least 1 item"),
        ({"benchmarks": ["stdlib"]}, "benchmark 'stdlib': expected a mapping such as {source: beir, path: FOLDER}"),
        (
            {"benchmarks": [{"path": "x"}]},
            "option 'source' is missing; expected one of beir, beir_archive, ",
        ),
        ({"benchmarks": "stdlib"}, "benchmarks = 'stdlib': "),
        ({"candidates": {"source": "run"}}, "candidates: option 'path' is missing; the options are k, path, source"),
    ],
)
def test_a_wrong_entry_is_refused_in_one_line(config: Callable[..., Path], entries: Any, message: str) -> None:
    whole = {"engines": {"fake": {"kind": "fake"}}, "benchmarks": [{"source": "stdlib", "name": "stdlib-code"}]}
    with pytest.raises(ConfigError) as raised:
        read_config(config(**{**whole, **entries}))
    assert message in str(raised.value) and "\n" not in str(raised.value)


# Paths


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with the demo's checkpoint in it."""
    folder = tmp_path / "home"
    shutil.copytree(ROOT / "checkpoints/demo", folder / "model")
    monkeypatch.setenv("HOME", str(folder))
    return folder


def test_a_path_is_relative_to_the_working_directory_and_a_tilde_means_the_home_folder(home: Path) -> None:
    assert resolve("folder/file") == Path("folder/file")
    assert resolve("~/folder") == home / "folder"
    with pytest.raises(engines.BadOptions, match=r"^path '~missing-user/x': .*; write the folder out$"):
        resolve("~missing-user/x")


def test_every_path_of_a_config_may_begin_with_a_tilde(home: Path, animals: Path) -> None:
    shutil.copytree(animals, home / "animals")
    benchmark = BeirFolder(path=Path("~/animals")).load()
    write_run(home / "animals.trec", {"q-cat": ["d-dog", "d-cat"]}, "test")
    assert retrieve(benchmark, RunStage(path="~/{benchmark}.trec")).lists["q-cat"] == ("d-dog", "d-cat")
    shutil.copy(ROOT / "configs/templates/demo.yaml", home / "mine.yaml")
    assert load_template("~/mine.yaml").sha256 == load_template("demo").sha256
    assert load_tokenizer("~/model").get_vocab_size() > 0
    with pytest.raises(EngineUnavailable, match="expected a PEM file"):
        (home / "authorities.pem").write_text("no certificate")
        Transport("https://localhost", Limits(1.0, 1, 1), verify="~/authorities.pem")
    options = {"model": "~/model", "template": "~/mine.yaml", "precision": "fp32"}
    with engines.load("torch", options) as engine:
        assert engine.describe().model == "~/model"
        assert len(engine.score([("query", "document")])) == 1


def test_paths_are_resolved_in_one_module() -> None:
    modules = [path for package in ("engines", "harness") for path in sorted((ROOT / package).rglob("*.py"))]
    users = [path.relative_to(ROOT) for path in modules if "expanduser" in path.read_text(encoding="utf-8")]
    assert users == [Path("engines/storage.py")]


# Measures


def measured(answer: Any) -> dict[str, float]:
    assert answer.code == 0, answer.err
    (benchmark,) = json.loads(answer.out)["engines"]["fake"]["benchmarks"].values()
    return {name: entry["value"] for name, entry in benchmark["measures"].items()}


def test_a_config_may_name_measures_and_ndcg_is_always_added(
    small: Callable[..., Path], crispbench: Crispbench, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    names = ["P@5", "RR(rel=1)@10", "Judged@5", "P@5"]
    values = measured(crispbench("run", small(measures=names), "--out", out, "--json"))
    assert set(values) == {"Judged@5", "P@5", "RR@10", "nDCG@10", "nDCG@10 tie-aware"}
    assert values["P@5"] == pytest.approx(1 / 5)  # one of five candidates is relevant to every query
    lines = (out / "report/report.md").read_text().splitlines()
    header = next(line for line in lines if line.startswith("| engine"))
    assert " P@5 " in header and " Judged@5 " in header and " AP " not in header
    assert json.loads((out / "run.json").read_text())["measures"][0] == "nDCG@10"


def test_the_counts_of_a_run_are_sums_without_an_interval_and_never_best(
    small: Callable[..., Path], crispbench: Crispbench, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    answer = crispbench("run", small(measures=["num_q", "num_ret", "ndcg_cut_10"]), "--out", out, "--json")
    values = measured(answer)
    assert (values["NumQ"], values["NumRet"]) == (5, 25) and "nDCG@10" in values  # five queries of five documents
    document = json.loads((out / "fake/measures.json").read_bytes())
    (benchmark,) = document["benchmarks"].values()
    assert benchmark["measures"]["NumRet"] == {"value": 25.0, "lo": None, "hi": None}
    assert "| 25 |" in (out / "report/report.md").read_text()


def test_a_grade_too_high_for_a_measure_ends_a_run_before_anything_is_scored(
    small: Callable[..., Path], animals: Path, crispbench: Crispbench, tmp_path: Path
) -> None:
    qrels = animals / "qrels/test.tsv"
    qrels.write_text(qrels.read_text().replace("\t1\n", "\t7\n"))
    answer = crispbench("run", small(measures=["ERR@10"]), "--out", tmp_path / "out")
    assert answer.code == 2 and "grade 7 is too high for ERR@10" in answer.err and answer.err.count("\n") == 1
    assert not (tmp_path / "out/fake/scores.sqlite").exists()


def stored(out: Path) -> list[str]:
    """Everything in the store: scores, times and fingerprint."""
    with contextlib.closing(sqlite3.connect(out / "fake/scores.sqlite")) as database:
        return list(database.iterdump())


def test_other_measures_need_no_new_scoring_and_appear_in_the_next_report(
    small: Callable[..., Path], crispbench: Crispbench, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert crispbench("run", small(), "--out", out).code == 0
    standard, scores = (out / "fake/measures.json").read_bytes(), stored(out)
    manifest = (out / "fake/manifest.json").read_bytes()
    assert "Success@1" in measured(crispbench("run", small(measures=["Success@1"]), "--out", out, "--json"))
    recorded = (out / "fake/measures.json").read_bytes()
    (out / "fake/measures.json").unlink()
    assert crispbench("report", out).code == 0
    assert (out / "fake/measures.json").read_bytes() == recorded != standard
    assert crispbench("run", small(), "--out", out).code == 0
    assert (out / "fake/measures.json").read_bytes() == standard
    assert stored(out) == scores
    assert (out / "fake/manifest.json").read_bytes() == manifest


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nDG@10", "measure not found: nDG"),
        ("P@0", "cutoff = 0, expected a whole number from 1 to 1,000,000"),
        ("nDCG@10000000", "cutoff = 10000000, expected a whole number from 1 to"),
        ("AP(rel=99999999)", "rel = 99999999, expected a whole number from 1 to 1,000"),
        ("nDCG(gains={1: 0.5})@10", "expected whole numbers from 0 to 1,000"),
        ("ERR", "it needs a cutoff, such as ERR@10"),
        ("alpha_nDCG@10", "it needs judgements by subtopic"),
        ("Accuracy@10", "it is undefined for a query whose list holds only relevant documents"),
        ("P", "cutoff"),
        ("", "measure"),
        ("nDCG@10; AP", "measure"),
    ],
)
def test_a_measure_that_cannot_be_computed_is_refused_before_anything_is_loaded(
    small: Callable[..., Path], name: str, reason: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        read_config(small(measures=[name]))
    message = str(raised.value)
    assert f"measure {name!r} cannot be computed (" in message and reason in message and "\n" not in message


@pytest.mark.parametrize("names", [[], "nDCG@10", {"nDCG@10": 1}])
def test_measures_must_be_a_list_of_at_least_one_name(small: Callable[..., Path], names: Any) -> None:
    with pytest.raises(ConfigError, match="measures = "):
        read_config(small(measures=names))


@pytest.mark.parametrize("name", ["nDCG@10", "AP(rel=2)", "RR@10", "Success@5", "Compat(p=0.9)", "Bpref", "IPrec@0.1"])
def test_a_measure_keeps_its_name_when_it_is_parsed(name: str) -> None:
    assert str(parse(name)) == name
    assert parse(name) == ir_measures.parse_measure(name)


# Mistakes, where they stand

MISTAKEN = """name: mistaken
engines:
  first:
    kind: fake
  second:
    kind: {kind}
    {option}
benchmarks:
  - source: {source}
    {path}
candidates:
  source: bm25
  {candidates}
{rest}
"""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "fakee"}, "line 6: engine kind 'fakee' is not known; did you mean 'fake'? expected one of"),
        ({"option": "sead: 1"}, "line 7: engine 'second': unknown option 'sead'; did you mean 'seed'?"),
        ({"option": "seed: true"}, "line 7: engine 'second': seed = true: expected a whole number, not true"),
        ({"option": "seed: 1.0"}, "line 7: engine 'second': seed = 1.0: expected a whole number: write 1"),
        ({"option": "seed: '01'"}, "line 7: engine 'second': seed = '01': expected a whole number: write 1 without"),
        ({"option": "constant: 1"}, "line 7: engine 'second': constant = 1: expected true or false, not 1"),
        ({"option": "constant: 'on'"}, "line 7: engine 'second': constant = 'on': expected true or false: write true"),
        ({"option": "noise: 'nan'"}, "line 7: engine 'second': noise = 'nan': input should be a finite number"),
        ({"option": "fail_on: 7"}, "line 7: engine 'second': fail_on = 7: input should be a valid string; put it in"),
        ({"option": "fail_on: no"}, "put it in quotes (without quotes yes, no, on and off mean true and false)"),
        ({"option": "fail_on:"}, "line 7: engine 'second': fail_on is empty: "),
        ({"source": "bier"}, "line 9: benchmark source 'bier' is not known; did you mean 'beir'?"),
        ({"path": "pth: folder"}, "line 10: benchmark source 'beir': unknown option 'pth'; did you mean 'path'?"),
        ({"candidates": "k: -5"}, "line 13: candidates: k = -5: input should be greater than 0"),
        ({"candidates": "k: true"}, "line 13: candidates: k = true: expected a whole number, not true"),
        (
            {"candidates": "k: no"},
            "line 13: candidates: k = false: input should be greater than 0; write a number (no and off mean false)",
        ),
        ({"candidates": "k: 1:40"}, "line 13: 1:40 is a number to base 60"),
        ({"rest": "latecy: {}"}, "line 14: unknown option 'latecy'; did you mean 'latency'?"),
        ({"rest": "latency:\n  sweep: [1, true]"}, "line 15: latency.sweep = [1, True]: expected a whole number"),
        ({"rest": "latency:\n  search:\n    widht: 1"}, "line 16: unknown option 'latency.search.widht'; did you mean"),
        ({"rest": "latency:\n  scenario: sweeep"}, "line 15: latency.scenario.0 = 'sweeep': "),
        ({"rest": "latency:\n  price_per_hour:\n    secnd: 1"}, "line 16: latency.price_per_hour names engine 'secnd'"),
        ({"rest": "ray: {gpus: yes}"}, "line 14: ray.gpus = true: expected a number, not true"),
        ({"rest": "suites:\n- bier"}, "line 15: suite 'bier' is not known; did you mean 'beir'?"),
        (
            {"rest": "suites: beir"},
            "input should be a valid tuple; write a list, such as [beir]",
        ),
        (
            {"rest": "published:\n- table: minlm\n  engines: {first: x}"},
            "line 15: published table 'minlm' is not",
        ),
    ],
)
def test_a_mistake_is_reported_with_its_line_and_with_what_to_write(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    right = {"kind": "fake", "option": "seed: 1", "source": "beir", "path": "path: folder", "candidates": "k: 5"}
    (tmp_path / "bench.yaml").write_text(MISTAKEN.format(**{"rest": "", **right, **changes}))
    with pytest.raises(ConfigError) as raised:
        read_config(tmp_path / "bench.yaml")
    assert f"{tmp_path / 'bench.yaml'}: line " in str(raised.value)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_number_in_quotes_is_accepted_if_it_is_written_as_a_number(tmp_path: Path) -> None:
    text = MISTAKEN.format(
        kind="fake", option="noise: '0.5'", source="beir", path="path: x", candidates="k: '7'", rest=""
    )
    (tmp_path / "bench.yaml").write_text(text)
    config = read_config(tmp_path / "bench.yaml")
    assert config.candidates.k == 7
    assert config.engines["second"].options.model_dump() == FakeOptions(noise=0.5).model_dump()


@pytest.mark.parametrize("values", [{"seed": True}, {"seed": "0100"}, {"noise": float("inf")}, {"decimals": 2.0}])
def test_options_given_in_python_mean_what_is_written_too(values: dict[str, object]) -> None:
    with pytest.raises(engines.BadOptions, match=r"^fake: "):
        engines.options("fake", values)
