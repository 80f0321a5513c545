"""Variable-length attention: segments of one sequence, each with its own queries and keys, and no padding.

Segment i has queries query_starts[i] : query_starts[i + 1] and keys key_starts[i] : key_starts[i + 1], causal, with its
last query aligned to its last key. On CUDA in 16 bit one kernel of torch computes all segments. Elsewhere one
`scaled_dot_product_attention` per segment does, so that a forward can be checked without a GPU.
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
    longest: tuple[int, int],  # upper bounds of the queries and of the keys of a segment
    scale: float,
) -> Tensor:
    """[queries, heads, head_dim]. Nothing waits for a GPU: the kernel needs only `longest` on the host."""
    if query.is_cuda:
        return launch(query, key, value, starts, longest, scale)
    return _by_segment(query, key, value, starts, scale)


def launch(
    query: Tensor, key: Tensor, value: Tensor, starts: tuple[Tensor, Tensor], longest: tuple[int, int], scale: float
) -> Tensor:
    """The attention kernel of torch, with the settings that this version of torch has."""
    if key.shape[1] < query.shape[1] and "enable_gqa" not in PARAMETERS:  # repeated heads are exact
        key, value = (heads.repeat_interleave(query.shape[1] // key.shape[1], 1) for heads in (key, value))
    attended = varlen.varlen_attn(query, key, value, *starts, *longest, **settings(PARAMETERS, scale, query.shape[-1]))
    assert isinstance(attended, Tensor)
    return attended


def settings(known: frozenset[str], scale: float, head_dim: int) -> dict[str, Any]:
    """The causal kernel's settings, by the names that this version of torch has for them.

    torch 2.10 has `is_causal` and a fixed scale of 1 / sqrt(head_dim). Later versions have `window_size` and `scale`.
    Since 2.12 heads may share keys with `enable_gqa`.
    """
    chosen: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if "scale" in known:
        chosen["scale"] = scale
    elif abs(scale * head_dim**0.5 - 1) > 1e-6:
        raise RuntimeError(
            f"varlen_attn of torch {torch.__version__} takes no scale, and {scale} is not 1 / sqrt(head_dim)"
        )
    if "enable_gqa" in known:
        chosen["enable_gqa"] = True
    return chosen


def _by_segment(query: Tensor, key: Tensor, value: Tensor, starts: tuple[Tensor, Tensor], scale: float) -> Tensor:
    out = torch.zeros_like(query)
    rows, keys = (bounds.tolist() for bounds in starts)
    for row, end, first, last in zip(rows, rows[1:], keys, keys[1:], strict=False):
        if end == row or last == first:
            continue
        causal = torch.ones(end - row, last - first, dtype=torch.bool).tril(last - first - (end - row))
        q, k, v = (heads.transpose(0, 1) for heads in (query[row:end], key[first:last], value[first:last]))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=causal, scale=scale, enable_gqa=True)
        out[row:end] = attended.transpose(0, 1)
    return out
