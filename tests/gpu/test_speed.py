"""The forward for a GPU, run on a GPU: every launcher gives the same scores, and no pack waits for the device.

It needs only torch, transformers and pytest: `pytest -m gpu tests/gpu/test_speed.py --noconftest` runs on a bare image.
perf/gpu.py measures speed.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engines import Pair, load
from engines.torch.engine import TorchEngine

SHAPE = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 8192,
    "max_position_embeddings": 4096,
}
TOKENIZER = Path(__file__).parents[2] / "checkpoints" / "demo"
WORDS = "a search for documents that answer what was asked and for nothing else".split()
PAIRS = [
    Pair(query, " ".join(WORDS[(7 * i + j) % len(WORDS)] for j in range(3 + 11 * i)))
    for query in ("what was asked", "a search")
    for i in range(24)
]
LAYOUTS: dict[str, dict[str, Any]] = {
    "compiled": {"kernels": "compiled"},
    "fused": {"kernels": "fused"},
    "graphs": {"kernels": "fused", "cuda_graphs": True},
    "compiled graphs": {"kernels": "compiled", "cuda_graphs": True},
}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("default"),  # warnings of the compiler are not ours
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
Open = Callable[..., TorchEngine]


@pytest.fixture
def open_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    monkeypatch.setenv("CRISPBENCH_CACHE", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))

    def make(**options: Any) -> TorchEngine:
        common = {"model": str(tmp_path), "tokenizer": str(TOKENIZER), "weights": "random", "device": "cuda"}
        engine = load("torch", {**common, "token_budget": 2048, "template": "demo", **options})
        assert isinstance(engine, TorchEngine)
        return engine

    return make


def apart(first: list[float], second: list[float]) -> float:
    """The distance of two lists of scores, as a share of their spread."""
    a, b = torch.tensor(first), torch.tensor(second)
    return float((a - b).norm() / (b - b.mean()).norm())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_launcher_gives_the_scores_of_the_packed_forward(layout: str, open_engine: Open) -> None:
    expected = open_engine(precision="bf16", kernels="packed").score(PAIRS)
    engine = open_engine(precision="bf16", **LAYOUTS[layout])
    assert engine.describe().details["kernels"] == LAYOUTS[layout]["kernels"]  # no fallback
    assert apart(engine.score(PAIRS), expected) < 0.1
    assert apart(engine.score(PAIRS[::-1])[::-1], expected) < 0.1


@pytest.mark.parametrize("fast", [False, True], ids=["exact sums", "fast sums"])
def test_fp8_gives_the_scores_of_its_simulation(fast: bool, open_engine: Open) -> None:
    expected = open_engine(precision="fp8-sim", kernels="packed").score(PAIRS)
    engine = open_engine(precision="fp8", kernels="compiled", fast_accumulation=fast)
    assert apart(engine.score(PAIRS), expected) < 0.2


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_nothing_waits_for_the_device_inside_a_pack(precision: str, layout: str, open_engine: Open) -> None:
    engine = open_engine(precision=precision, **LAYOUTS[layout])
    prompt = engine._encoder.encode("a search", [pair.document for pair in PAIRS])
    expected, _ = engine._launcher.score(prompt, budget=engine._budget)  # captures graphs
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        scores, _ = engine._launcher.score(prompt, budget=engine._budget)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(scores, expected)


def test_a_replay_does_not_change_the_scores_of_the_previous_one(open_engine: Open) -> None:
    engine = open_engine(precision="bf16", **LAYOUTS["graphs"])
    alone = [engine.score(PAIRS[:24]), engine.score(PAIRS[24:])]
    assert engine.score(PAIRS) == [*alone[0], *alone[1]]
