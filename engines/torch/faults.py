"""Faults of a device while it computes: memory that runs out, a GPU that is lost. Knows no model."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from engines.base import EngineError, ScoringFailed, first_line

if TYPE_CHECKING:
    from torch import nn

LEAST_TOKENS = 128  # smallest budget of one forward: with less, a document is alone in it anyway
# Messages of torch on a GPU, torch on a CPU, cuBLAS, which allocates its own memory, and C++
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "std::bad_alloc")
# After these errors a process computes nothing more: CUDA refuses every later call, and oneDNN, once it ran out of
# memory, makes no kernel any more, however much memory is free later (torch 2.13).
LOST = ("CUDA error", "could not create a primitive")
T = TypeVar("T")
log = logging.getLogger(__name__)


class Fitted(NamedTuple, Generic[T]):
    result: T
    budget: int  # tokens of one forward for which memory sufficed
    halvings: int


def fit(score: Callable[..., T], budget: int) -> Fitted[T]:
    """The result of `score(budget=budget)`. Each time that memory runs out, the budget is halved; one line is logged.

    Raises ScoringFailed if memory runs out with LEAST_TOKENS.
    """
    halvings = 0
    while True:
        try:
            result = score(budget=budget)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            message = first_line(error)
        else:  # outside the handler: until it ends, the traceback holds the tensors of the forward that failed
            if halvings:
                log.warning("crispbench: memory ran out, the token budget is %d from now on: %s", budget, message)
            return Fitted(result, budget, halvings)
        if budget <= LEAST_TOKENS:
            raise ScoringFailed(
                f"memory ran out with {budget} tokens at a time ({message}): lower max_tokens, or free memory"
            )
        budget, halvings = max(budget // 2, LEAST_TOKENS), halvings + 1
        _free_cached_memory()


@contextmanager
def lost_device_reported() -> Iterator[None]:
    """Raises EngineError, which ends a run, for an error after which this process can compute nothing more.

    Errors of GPU kernels appear in a later call, so the block must include the reading of the results.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in LOST):
            raise
        raise EngineError(
            f"the device takes no more work from this process ({first_line(error)}); committed scores are kept: repeat "
            "the command, and look for a broken GPU or too little memory if it happens again"
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def _free_cached_memory() -> None:
    """Free the blocks of other sizes that torch keeps for reuse."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def first_overflow(backbone: "nn.Module", forward: Callable[[], object]) -> str | None:
    """Name of the first module that gives an infinity or a NaN in `forward`, which runs once more for this.

    None if all outputs are finite. A module ends after the modules that it contains, so the name is the innermost.
    """
    from torch import Tensor

    overflowing: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def look(module: "nn.Module", inputs: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if isinstance(tensor, Tensor) and not tensor.isfinite().all():
                overflowing.append(name)

        return look

    hooks = [module.register_forward_hook(watch(name)) for name, module in backbone.named_modules() if name]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return overflowing[0] if overflowing else None
