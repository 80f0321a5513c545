"""If memory runs out, a query takes longer and keeps its scores; a lost GPU ends the run with a one-line error."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engines import Engine, Pair, ScoringFailed, load
from engines.base import EngineError
from engines.torch.faults import LEAST_TOKENS, fit, lost_device_reported
from engines.torch.forward import packed

ROOT = Path(__file__).parents[2]
GPU_OUT_OF_MEMORY = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."
)
CPU_OUT_OF_MEMORY = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4000000000 bytes. Error code 12 (Cannot allocate memory)"
)
ONEDNN_FAILED = RuntimeError("could not create a primitive")
GPU_LOST = torch.AcceleratorError(
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ..."
)
CUBLAS_FAILED = RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa, opb`")


def limited_to(most: int, error: Exception, budgets: list[int]) -> Callable[..., str]:
    """A forward that raises above `most` tokens and appends every budget to `budgets`."""

    def forward(*, budget: int) -> str:
        budgets.append(budget)
        if budget > most:
            raise error
        return "scores"

    return forward


@pytest.mark.parametrize("error", [GPU_OUT_OF_MEMORY, CPU_OUT_OF_MEMORY, MemoryError()], ids=["gpu", "cpu", "python"])
def test_the_budget_is_halved_until_memory_suffices_and_one_line_is_logged(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    budgets: list[int] = []
    assert fit(limited_to(600, error, budgets), 4000) == ("scores", 500, 3)
    assert budgets == [4000, 2000, 1000, 500]
    (line,) = caplog.messages
    assert line.startswith("crispbench: memory ran out, the token budget is 500 from now on: ") and "\n" not in line


def test_nothing_is_logged_while_memory_suffices(caplog: pytest.LogCaptureFixture) -> None:
    assert fit(limited_to(600, GPU_OUT_OF_MEMORY, []), 600) == ("scores", 600, 0)
    assert caplog.messages == []


@pytest.mark.parametrize(("budget", "tried"), [(300, [300, 150, LEAST_TOKENS]), (64, [64])])
def test_below_the_smallest_budget_the_query_fails_and_the_message_has_the_next_step(
    budget: int, tried: list[int]
) -> None:
    budgets: list[int] = []
    with pytest.raises(ScoringFailed, match=rf"with {tried[-1]} tokens at a time .*: lower max_tokens") as raised:
        fit(limited_to(0, GPU_OUT_OF_MEMORY, budgets), budget)
    assert budgets == tried
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [GPU_LOST, CUBLAS_FAILED, RuntimeError("shapes do not fit"), KeyError("x")])
def test_another_error_is_not_retried(error: Exception) -> None:
    budgets: list[int] = []
    with pytest.raises(type(error)):
        fit(limited_to(0, error, budgets), 4000)
    assert budgets == [4000]


@pytest.mark.parametrize("error", [GPU_LOST, CUBLAS_FAILED, ONEDNN_FAILED])
def test_a_lost_device_is_a_one_line_error_with_the_next_step(error: RuntimeError) -> None:
    with pytest.raises(EngineError, match=r"takes no more work .*repeat the command") as raised:
        with lost_device_reported():
            raise error
    assert str(error).splitlines()[0] in str(raised.value) and "\n" not in str(raised.value)
    assert not isinstance(raised.value, ScoringFailed)  # otherwise the run would send the next query to the lost GPU


def test_an_error_of_another_cause_passes_through_unchanged() -> None:
    for error in (ScoringFailed("no"), RuntimeError("shapes do not fit"), ValueError("CUDA error")):
        with pytest.raises(type(error)) as raised, lost_device_reported():
            raise error
        assert raised.value is error


DOCUMENTS = [f"document {number} with words of its own " * (number % 5 + 1) for number in range(40)]
PAIRS = [Pair("what is this about", document) for document in DOCUMENTS]


def test_scores_after_memory_ran_out_equal_those_of_a_large_budget(
    classifier: str, tiny_template: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"model": classifier, "template": tiny_template, "precision": "fp32", "device": "cpu"}
    with load("torch", {**options, "token_budget": 4096}) as engine:
        expected = engine.score(PAIRS)
        assert engine.counts().budget_halvings == 0
    forward = packed.cpu.forward
    sizes: list[int] = []

    def short(backbone: object, ids: torch.Tensor, *rest: object) -> torch.Tensor:
        if len(ids) > 600:
            raise CPU_OUT_OF_MEMORY
        sizes.append(len(ids))
        return forward(backbone, ids, *rest)  # type: ignore[arg-type]

    with load("torch", {**options, "token_budget": 4096}) as engine:
        described = engine.describe()
        monkeypatch.setattr(packed.cpu, "forward", short)
        assert engine.score(PAIRS) == pytest.approx(expected, abs=1e-4)
        halvings = engine.counts().budget_halvings
        assert halvings >= 3 and len(sizes) > 1
        assert engine.score(PAIRS) == pytest.approx(expected, abs=1e-4)
        assert engine.counts().budget_halvings == halvings  # the next query starts with the budget that sufficed
        assert engine.describe() == described  # so the run continues in the same store
    assert len(caplog.messages) == 1


def test_an_allocation_that_the_system_refuses_counts_as_memory_that_ran_out(caplog: pytest.LogCaptureFixture) -> None:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**29, limits[1]))
    try:
        fitted = fit(lambda budget: torch.empty(budget, 2**20, dtype=torch.uint8), 2**14)  # 1 MiB a token
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert (len(fitted.result), fitted.halvings) == (fitted.budget, 4)
    (line,) = caplog.messages
    assert "can't allocate memory" in line


def test_a_lost_gpu_ends_scoring_before_the_next_query(
    classifier: str, tiny_template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets: list[int] = []
    monkeypatch.setattr(packed, "score", lambda *_, budget, threads: limited_to(0, GPU_LOST, budgets)(budget=budget))
    options = {"model": classifier, "template": tiny_template, "device": "cpu"}
    engine: Engine
    with load("torch", options) as engine, pytest.raises(EngineError, match="illegal memory access"):
        engine.score([Pair("one", "a"), Pair("two", "b")])
    assert len(budgets) == 1
