"""From a checkpoint to an FP8 export, scores and a verdict, on a GPU: docs/tensorrt-llm.md has the command.

CRISPBENCH_MODEL  a causal checkpoint; default mixedbread-ai/mxbai-rerank-base-v2
CRISPBENCH_FP8    its FP8 export; default: `crispbench quantize` makes one
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from engines import Engine, Pair, load

BASE = "mixedbread-ai/mxbai-rerank-base-v2"
MODEL = os.environ.get("CRISPBENCH_MODEL", BASE)
# Source: README of mixedbread-ai/mxbai-rerank; bf16 scores of its pull request 8, with the sigmoid undone.
QUERY = "Who wrote 'To Kill a Mockingbird'?"
GOLDEN = {
    "'To Kill a Mockingbird' is a novel by Harper Lee published in 1960.": 9.1875,
    "The novel 'Moby-Dick' was written by Herman Melville.": 0.5625,
    "Harper Lee was born in 1926 in Monroeville, Alabama.": 4.0,
}
PAIRS = [Pair(QUERY, document) for document in GOLDEN]
# Two logits of the head are rounded to bf16 before the subtraction; from 16 on, bf16 values are 0.125 apart.
BF16_TOLERANCE = 0.3


def missing() -> str:
    """The requirement that this machine lacks; empty if it lacks none."""
    if importlib.util.find_spec("tensorrt_llm") is None:
        return "needs tensorrt_llm, see docs/tensorrt-llm.md"
    import torch

    if not torch.cuda.is_available():
        return "needs an NVIDIA GPU"
    if torch.cuda.get_device_capability() < (8, 9):
        return f"needs compute capability 8.9 for FP8, this is {torch.cuda.get_device_name()}"
    return ""


LACKS = missing()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.tensorrt_llm,
    pytest.mark.filterwarnings("default"),  # warnings of tensorrt_llm are not ours
    pytest.mark.skipif(bool(LACKS), reason=LACKS),
]


def crispbench(*arguments: object, codes: tuple[int, ...] = (0,)) -> Any:
    """Run a command and return the JSON document on its stdout. Fails on an exit code outside `codes`."""
    command = [sys.executable, "-m", "harness", *map(str, arguments)]
    ran = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ran.returncode in codes, f"exit {ran.returncode}: {ran.stderr[-3000:]}"
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def fp8(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the FP8 checkpoint."""
    if given := os.environ.get("CRISPBENCH_FP8"):
        return given
    folder = tmp_path_factory.mktemp("checkpoints") / "fp8"
    crispbench("quantize", MODEL, folder, "--json")
    return str(folder)


@pytest.fixture(scope="module")
def run(fp8: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with torch in fp32 and TensorRT-LLM in bf16 and FP8 over the same candidates."""
    folder = tmp_path_factory.mktemp("run")
    config = {
        "name": "tensorrt",
        "engines": {
            "torch-fp32": {"kind": "torch", "model": MODEL, "precision": "fp32", "template": "mxbai-v2"},
            "bf16": {"kind": "tensorrt_llm", "model": MODEL, "template": "mxbai-v2"},
            "fp8": {"kind": "tensorrt_llm", "model": fp8, "template": "mxbai-v2"},
        },
        "benchmarks": [{"source": "stdlib", "name": "stdlib-code", "queries": 100}],
        "candidates": {"source": "bm25", "k": 30},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    crispbench("run", path, "--out", folder / "results", "--json")
    return folder / "results"


@pytest.fixture(scope="module")
def bf16() -> Iterator[Engine]:
    with load("tensorrt_llm", {"model": MODEL, "template": "mxbai-v2", "kv_cache_fraction": 0.3}) as engine:
        yield engine


def measured(run: Path, engine: str) -> Mapping[str, Any]:
    benchmark = json.loads((run / engine / "measures.json").read_text())["benchmarks"]["stdlib-code"]
    assert isinstance(benchmark, dict)
    return benchmark


@pytest.mark.skipif(MODEL != BASE, reason="the published scores are those of the base model")
def test_bf16_gives_the_published_scores(bf16: Engine) -> None:
    assert bf16.score(PAIRS) == pytest.approx(list(GOLDEN.values()), abs=BF16_TOLERANCE)


def test_bf16_gives_the_same_scores_at_every_call(bf16: Engine) -> None:
    assert bf16.score(PAIRS) == bf16.score(PAIRS) == bf16.score(PAIRS)


def test_the_export_has_fp8_weights_and_a_16_bit_cache(fp8: str) -> None:
    quantization = json.loads((Path(fp8) / "hf_quant_config.json").read_text())["quantization"]
    assert (quantization["quant_algo"], quantization["kv_cache_quant_algo"]) == ("FP8", None)


@pytest.mark.parametrize("engine", ["torch-fp32", "bf16", "fp8"])
def test_every_pair_has_a_score(engine: str, run: Path) -> None:
    assert measured(run, engine)["coverage"] == 1


def test_the_manifest_of_the_fp8_engine_names_its_precision(run: Path) -> None:
    description = json.loads((run / "fp8" / "manifest.json").read_text())["description"]
    assert (description["precision"], description["kv_cache"]) == ("fp8", "16 bit, no block reuse")


def test_bf16_has_the_ndcg_of_fp32_in_torch(run: Path) -> None:
    values = [measured(run, engine)["measures"]["nDCG@10"]["value"] for engine in ("torch-fp32", "bf16")]
    assert values[0] == pytest.approx(values[1], abs=0.01)


def test_compare_finds_no_regression_from_bf16_to_fp8(run: Path) -> None:
    crispbench("compare", run / "bf16", run / "fp8", "--json", codes=(0, 3))  # 1 is a regression
