"""Linear layers with weights in oneDNN's layout, so that no product has to reorder them first. Knows no model."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST = 16_384  # elements of a weight; smaller products end before the layout matters


class PrepackedLinear(nn.Module):
    """`nn.Linear` in fp32 or bf16 on a CPU. Its weight can be multiplied with and freed, but not moved or cast."""

    weight: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("weight", torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None))
        self.bias = layer.bias

    def forward(self, tokens: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(tokens, self.weight, self.bias, "none", [], "")
        return product

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        free_if_moved(self, "weight", fn)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


def free_if_moved(module: nn.Module, name: str, fn: Callable[[Tensor], Tensor]) -> None:
    """Free a buffer in oneDNN's layout if `fn` moves tensors to the device meta, which does not know this layout."""
    if fn(torch.empty(0)).is_meta and getattr(module, name).is_mkldnn:
        setattr(module, name, torch.empty(0))


def can_prepack(weight: Tensor) -> bool:
    """Whether oneDNN computes with this weight here, and the weight is large enough to gain from it."""
    if weight.numel() < SMALLEST or not weight.is_cpu:
        return False
    return has_bf16_products() if weight.dtype == torch.bfloat16 else weight.dtype == torch.float32 and has_onednn()


@cache
def has_bf16_products() -> bool:
    """Whether oneDNN computes in bf16 here."""
    return has_onednn() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def has_onednn() -> bool:
    """Whether torch was built with oneDNN."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available
