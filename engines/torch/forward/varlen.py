"""Variable-length attention: segments of one sequence, each with its own queries and keys, and no padding.

Segment i asks with queries query_starts[i] : query_starts[i + 1] and sees keys key_starts[i] : key_starts[i + 1],
causal with its last query at its last key. On CUDA in 16 bit one kernel of torch computes it; elsewhere, so that a
forward can be checked without a GPU, one `scaled_dot_product_attention` per segment.
"""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import varlen

PARAMETERS = frozenset(inspect.signature(varlen.varlen_attn).parameters)


def attend(
    query: Tensor,  # [queries, heads, head_dim]
    key: Tensor,  # [keys, kv_heads, head_dim]
    value: Tensor,
    starts: tuple[Tensor, Tensor],  # of queries and of keys, int32 [segments + 1] each
    longest: tuple[int, int],  # queries and keys of a segment, or more
    scale: float,
) -> Tensor:
    """[queries, heads, head_dim]. Nothing waits for a GPU: what the kernel must know on the host is `longest`."""
    if query.is_cuda:
        return launch(query, key, value, starts, longest, scale)
    return _by_segment(query, key, value, starts, scale)


def launch(
    query: Tensor, key: Tensor, value: Tensor, starts: tuple[Tensor, Tensor], longest: tuple[int, int], scale: float
) -> Tensor:
    """The kernel, by the names that this torch has for its settings."""
    if key.shape[1] < query.shape[1] and "enable_gqa" not in PARAMETERS:  # repeated heads are exact
        key, value = (heads.repeat_interleave(query.shape[1] // key.shape[1], 1) for heads in (key, value))
    found = varlen.varlen_attn(query, key, value, *starts, *longest, **settings(PARAMETERS, scale, query.shape[-1]))
    assert isinstance(found, Tensor)
    return found


def settings(known: frozenset[str], scale: float, head_dim: int) -> dict[str, Any]:
    """The causal kernel's settings by the names that this torch has for them.

    2.10 has `is_causal` and takes 1 / sqrt(head_dim) for granted, later ones have `window_size` and `scale`, and from
    2.12 on heads may share keys if `enable_gqa` says so.
    """
    chosen: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if "scale" in known:
        chosen["scale"] = scale
    elif abs(scale * head_dim**0.5 - 1) > 1e-6:
        raise RuntimeError(f"varlen_attn of torch {torch.__version__} takes no scale, and {scale} is not its own")
    if "enable_gqa" in known:
        chosen["enable_gqa"] = True
    return chosen


def _by_segment(query: Tensor, key: Tensor, value: Tensor, starts: tuple[Tensor, Tensor], scale: float) -> Tensor:
    out = torch.zeros_like(query)
    asks, keys = (bounds.tolist() for bounds in starts)
    for row, end, first, last in zip(asks, asks[1:], keys, keys[1:], strict=False):
        if end == row or last == first:
            continue
        causal = torch.ones(end - row, last - first, dtype=torch.bool).tril(last - first - (end - row))
        asked, seen, values = (heads.transpose(0, 1) for heads in (query[row:end], key[first:last], value[first:last]))
        found = F.scaled_dot_product_attention(asked, seen, values, attn_mask=causal, scale=scale, enable_gqa=True)
        out[row:end] = found.transpose(0, 1)
    return out
