"""Where a forward stopped being finite: the layer that a user has to know of."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def first_overflow(backbone: nn.Module, forward: Callable[[], object]) -> str | None:
    """Name of the first module that gave an infinity or a NaN in `forward`, which is run once more for this.

    None if all of them were finite. A module that contains others is done after them, so the name is the innermost.
    """
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
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
