"""`crispbench quantize` and runs in 8 bit, on the demo checkpoint and the embedded benchmarks."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.base import BadOptions, Pair
from harness.benchmarks import BenchmarkError
from harness.benchmarks import load as load_benchmark
from harness.candidates.first_stage import retrieve
from harness.verbs.quantize import DOCUMENTS, FIRST_STAGE, QuantizeOptions, quantize, spread

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "checkpoints" / "demo"
OPTIONS = QuantizeOptions(queries=12, template="demo", max_tokens=164)


def engine(model: Path, precision: str) -> dict[str, Any]:
    return {"kind": "torch", "model": str(model), "template": "demo", "precision": precision, "device": "cpu"}


@pytest.fixture(scope="module")
def fp8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint in FP8, calibrated on a few prompts."""
    pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed")
    out = tmp_path_factory.mktemp("quantized") / "demo-fp8"
    quantize(str(DEMO), OPTIONS, out=out)
    return out


@pytest.mark.parametrize(
    ("count", "taken"), [(0, []), (2, ["0", "1"]), (4, ["0", "1", "2", "3"]), (30, ["0", "10", "19", "29"])]
)
def test_calibration_takes_candidates_evenly_from_first_to_last(count: int, taken: list[str]) -> None:
    assert spread([str(index) for index in range(count)], 4) == taken


def test_the_report_names_the_benchmark_and_counts_its_prompts(fp8: Path) -> None:
    calibration = json.loads((fp8 / "quantization_report.json").read_text())["calibration"]
    benchmark = load_benchmark("stdlib", {"name": "stdlib-topics", "queries": 12})
    lists = retrieve(benchmark, FIRST_STAGE).lists
    assert (calibration["benchmark"], calibration["benchmark_revision"]) == ("stdlib-topics", benchmark.revision)
    assert calibration["queries"] == 12
    assert calibration["prompts"] == sum(min(len(doc_ids), DOCUMENTS) for doc_ids in lists.values()) > 30
    assert calibration["template"] == "demo"
    assert calibration["longest_tokens"] == 164


def test_ranking_in_8_bit_agrees_with_fp32_on_the_demo(fp8: Path) -> None:
    from scipy.stats import kendalltau

    import engines

    benchmark = load_benchmark("stdlib", {"name": "stdlib-code", "queries": 6})
    lists = retrieve(benchmark, FIRST_STAGE).lists
    scores: dict[str, list[list[float]]] = {}
    for name, model, precision in (
        ("fp32", DEMO, "fp32"),
        ("int8", DEMO, "int8"),
        ("fp8-sim", DEMO, "fp8-sim"),
        ("exported", fp8, "fp8-sim"),
    ):
        options = {key: value for key, value in engine(model, precision).items() if key != "kind"}
        with engines.load("torch", {**options, "max_tokens": 164}) as loaded:
            scores[name] = [
                loaded.score([Pair(benchmark.queries[query_id], benchmark.documents[doc_id]) for doc_id in doc_ids])
                for query_id, doc_ids in lists.items()
            ]
    for name, least in (("int8", 0.95), ("fp8-sim", 0.92), ("exported", 0.88)):
        taus = [kendalltau(a, b).statistic for a, b in zip(scores["fp32"], scores[name], strict=True)]
        assert least < sum(taus) / len(taus) < 1, name


@pytest.mark.parametrize(("precision", "code"), [("fp8-sim", 5), ("int8", 5)])
def test_a_head_with_constant_scores_is_invalid_and_has_no_numbers(
    tmp_path: Path,
    animals: Path,
    config: Callable[..., Path],
    crispbench: Callable[..., Any],
    precision: str,
    code: int,
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    broken = Path(shutil.copytree(DEMO, tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    weights["score.weight"] = torch.zeros_like(weights["score.weight"])
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    path = config(engines={"broken": engine(broken, precision)}, benchmarks=[{"source": "beir", "path": str(animals)}])
    answer = crispbench("run", path, "--out", tmp_path / "run", "--json")
    assert answer.code == code
    (row,) = json.loads(answer.out)["engines"]["broken"]["benchmarks"].values()
    assert (row["verdict"], row["measures"]) == ("invalid", {})


def test_the_config_of_the_docs_runs_from_command_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crispbench: Callable[..., Any]
) -> None:
    monkeypatch.chdir(ROOT)
    answer = crispbench("run", "configs/quantization.yaml", "--limit", 2, "--out", tmp_path / "run", "--json")
    assert answer.code == 0, answer.err
    measured = json.loads(answer.out)["engines"]
    assert list(measured) == ["demo-fp32", "demo-bf16", "demo-int8", "demo-fp8-sim"]
    assert "QuantizedLinear int8" in (tmp_path / "run/demo-int8/manifest.json").read_text()


@pytest.mark.parametrize("benchmark", ["stdlib-nothing", "no such benchmark"])
def test_an_unknown_benchmark_is_refused_and_leaves_no_file(tmp_path: Path, benchmark: str) -> None:
    pytest.importorskip("mteb", reason="mteb is not installed")
    with pytest.raises((BadOptions, BenchmarkError)) as raised:
        quantize(str(DEMO), replace(OPTIONS, benchmark=benchmark, queries=2), out=tmp_path / "fp8")
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_before_a_benchmark_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(BadOptions, match="exists: name a folder that does not"):
        quantize(str(DEMO), replace(OPTIONS, benchmark="no such benchmark"), out=tmp_path)
