"""What a device does wrong while it computes: memory that runs out, a GPU that is lost. It knows nothing of models."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from engines.base import EngineError, ScoringFailed

if TYPE_CHECKING:
    from torch import nn

LEAST_TOKENS = 128  # of one forward: with less, a document is alone in it anyway
# torch's words on a GPU, on a CPU, of the GPU's driver and of cuBLAS, which asks for memory of its own
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "std::bad_alloc")
# After these a process computes nothing more: CUDA refuses every later call, and oneDNN, where it once found no memory,
# makes no kernel any more, however much there is then (torch 2.13)
LOST = ("CUDA error", "could not create a primitive")
T = TypeVar("T")
log = logging.getLogger(__name__)


class Fitted(NamedTuple, Generic[T]):
    result: T
    budget: int  # tokens of one forward that memory sufficed for
    halvings: int


def fit(score: Callable[..., T], budget: int) -> Fitted[T]:
    """`score(budget=budget)`, with half the budget as often as memory runs out, of which one line is logged.

    Raises ScoringFailed where LEAST_TOKENS are too many.
    """
    halvings = 0
    while True:
        try:
            result = score(budget=budget)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            said = _line(error)
        else:  # outside of the handler: until it ends, the traceback holds the tensors of the forward that failed
            if halvings:
                log.warning("crispbench: memory ran out, the token budget is %d from now on: %s", budget, said)
            return Fitted(result, budget, halvings)
        if budget <= LEAST_TOKENS:
            raise ScoringFailed(
                f"memory ran out with {budget} tokens at a time ({said}): lower max_tokens, or free memory"
            )
        budget, halvings = max(budget // 2, LEAST_TOKENS), halvings + 1
        _free_cached_memory()


@contextmanager
def lost_device_told() -> Iterator[None]:
    """Raises EngineError, which ends a run, for an error after which this process can compute nothing more.

    Errors of GPU kernels are told at a later call, so the block holds the reading of the results too.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in LOST):
            raise
        raise EngineError(
            f"the device takes no more work from this process ({_line(error)}); what was committed is kept: repeat the "
            "command, and look for a broken GPU or short memory if it comes again"
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def _free_cached_memory() -> None:
    """Blocks of other sizes that torch keeps for itself."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def first_overflow(backbone: "nn.Module", forward: Callable[[], object]) -> str | None:
    """Name of the first module that gave an infinity or a NaN in `forward`, which is run once more for this.

    None if all of them were finite. A module that contains others is done after them, so the name is the innermost.
    """
    from torch import Tensor

    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def look(module: "nn.Module", inputs: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if isinstance(tensor, Tensor) and not tensor.isfinite().all():
                found.append(name)

        return look

    hooks = [module.register_forward_hook(watch(name)) for name, module in backbone.named_modules() if name]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
