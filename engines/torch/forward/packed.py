"""The packed forward: one sequence holds a query's prefix once and many documents behind it, without padding.

Sequence: [prefix | tail 1 | tail 2 | ...]. Positions restart after the prefix; each tail attends to the prefix and to
itself, so every score equals that of its prompt alone. Scores are read at each tail's last token from one row of the
head; full-vocabulary logits are never formed.

Attention is variable-length attention: segment i has its own queries and its own keys, causal with the last query
aligned to the last key. On a CPU `cpu` computes models with the modules of Qwen2, Qwen3 and Llama. All others go
through transformers' own forward: on CUDA in 16 bit torch's `varlen_attn` attends in one kernel, elsewhere one
`scaled_dot_product_attention` per block of a segment's queries does.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from engines.prompts.encoder import Prompt
from engines.torch.forward import cpu, packs, varlen
from engines.torch.quantized import QuantizedLinear

NAME = "crispbench_packed"
ROWS = 512  # queries per attention call without the kernel: a mask of 512 x 32,768 is 16 MB, a square one 1 GB
KEYS_PER_TOKEN = 8  # bounds the memory of gathered keys under a long query: each tail gathers the prefix again


class PackLayout(NamedTuple):
    """Where the segments of one packed sequence lie. Segment 0 is the prefix, then one per tail."""

    ids: Tensor  # [1, tokens]
    positions: Tensor  # [1, tokens]
    query_starts: Tensor  # [segments + 1], int32: segment i has queries query_starts[i] : query_starts[i + 1]
    key_starts: Tensor  # [segments + 1], int32, into key_index
    key_index: Tensor  # token of each gathered key: the prefix again for every tail, then the tail itself
    ends: Tensor  # [tails]: last token of each tail
    query_bounds: list[tuple[int, int]]  # the same bounds on the host, for the loop over segments
    key_bounds: list[tuple[int, int]]
    mask: Tensor | None  # [rows, longest keys], True where a token attends; blocks take its lower right part


def lay_out(prefix: Sequence[int], tails: Sequence[Sequence[int]], device: torch.device, *, kernel: bool) -> PackLayout:
    """The packed sequence of one prefix and its tails, on the device."""
    ids, positions, key_index = list(prefix), list(range(len(prefix))), list(range(len(prefix)))
    query_bounds, key_bounds = [(0, len(prefix))], [(0, len(prefix))]
    for tail in tails:
        start = len(ids)
        ids += tail
        positions += range(len(prefix), len(prefix) + len(tail))
        key_index += [*range(len(prefix)), *range(start, len(ids))]
        query_bounds.append((start, len(ids)))
        key_bounds.append((key_bounds[-1][1], len(key_index)))
    rows = min(ROWS, max(end - start for start, end in query_bounds))
    longest = max(end - start for start, end in key_bounds)
    return PackLayout(
        ids=torch.tensor([ids], device=device),
        positions=torch.tensor([positions], device=device),
        query_starts=torch.tensor([0, *(end for _, end in query_bounds)], dtype=torch.int32, device=device),
        key_starts=torch.tensor([0, *(end for _, end in key_bounds)], dtype=torch.int32, device=device),
        key_index=torch.tensor(key_index, device=device),
        ends=torch.tensor([end - 1 for _, end in query_bounds[1:]], device=device),
        query_bounds=query_bounds,
        key_bounds=key_bounds,
        mask=None if kernel else torch.ones(rows, longest, dtype=torch.bool, device=device).tril(longest - rows),
    )


def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's variable-length attention kernel (FlashAttention 2) runs here: CUDA from Ampere on, 16 bit."""
    sixteen_bit = dtype in (torch.float16, torch.bfloat16)
    return device.type == "cuda" and sixteen_bit and torch.cuda.get_device_capability(device) >= (8, 0)


def attention_name(backbone: nn.Module) -> str:
    """How attention is computed for this backbone on its present device."""
    parameter = next(backbone.parameters())
    if has_kernel(parameter.device, parameter.dtype):
        return "varlen_attn"
    return "products by rows" if fits(backbone) else "sdpa per segment"


def attention(
    module: nn.Module,
    query: Tensor,  # [1, heads, tokens, head_dim]
    key: Tensor,  # [1, kv_heads, tokens, head_dim]
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: PackLayout,
    scaling: float | None = None,
    **_: Any,  # transformers passes dropout, sliding_window, position_ids and more, none of which apply here
) -> tuple[Tensor, None]:
    """Attention over a packed sequence, with the signature of transformers; returns [1, tokens, heads, head_dim]."""
    key, value = key[:, :, layout.key_index], value[:, :, layout.key_index]
    attend = _attend_by_segment if layout.mask is not None else _attend_by_kernel
    return attend(query, key, value, layout, scaling), None


def _attend_by_kernel(query: Tensor, key: Tensor, value: Tensor, layout: PackLayout, scaling: float | None) -> Tensor:
    queries, keys, values = (states[0].transpose(0, 1) for states in (query, key, value))
    starts = layout.query_starts, layout.key_starts
    longest_query, longest_keys = (
        max(end - start for start, end in bounds) for bounds in (layout.query_bounds, layout.key_bounds)
    )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return varlen.launch(queries, keys, values, starts, (longest_query, longest_keys), scale)[None]


def _attend_by_segment(query: Tensor, key: Tensor, value: Tensor, layout: PackLayout, scaling: float | None) -> Tensor:
    assert layout.mask is not None
    out = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
    for (start, end), (key_start, key_end) in zip(layout.query_bounds, layout.key_bounds, strict=True):
        for row in range(start, end, ROWS):
            row_end = min(row + ROWS, end)
            seen = slice(key_start, key_end - (end - row_end))
            out[:, row:row_end] = F.scaled_dot_product_attention(
                query[:, :, row:row_end],
                key[:, :, seen],
                value[:, :, seen],
                attn_mask=layout.mask[row - row_end :, seen.start - seen.stop :],
                scale=scaling,
                enable_gqa=True,
            ).transpose(1, 2)
    return out


AttentionInterface.register(NAME, attention)


@torch.inference_mode()
def score(backbone: nn.Module, head: Tensor, prompt: Prompt, *, budget: int, threads: int = 1) -> tuple[Tensor, int]:
    """Scores of all tails of a prompt, float32 [tails] on the device, and the number of computed tokens.

    `backbone` maps ids to hidden states with the attention `NAME`; `head` [hidden] is float32, on its device. With
    `threads`, which are for a backbone that `cpu` computes, several packs are computed at once.
    """
    parameter = next(backbone.parameters())
    kernel = has_kernel(parameter.device, parameter.dtype)
    forward = _forward_own if not kernel and fits(backbone) else _forward_generic

    @torch.inference_mode()  # inference mode is per thread
    def score_pack(pack: list[int]) -> tuple[Tensor, int]:
        layout = lay_out(prompt.prefix, [prompt.tails[i] for i in pack], parameter.device, kernel=kernel)
        return forward(backbone, layout).float() @ head, layout.ids.numel()

    costs = [max(len(tail), (len(prompt.prefix) + len(tail)) // KEYS_PER_TOKEN) for tail in prompt.tails]
    planned = packs.spread(costs, len(prompt.prefix), budget, threads)
    scores = torch.empty(len(prompt.tails), device=parameter.device)
    computed = 0
    for pack, (values, tokens) in zip(planned.packs, packs.compute(score_pack, planned), strict=True):
        scores[pack] = values
        computed += tokens
    return scores, computed


def _forward_own(backbone: nn.Module, layout: PackLayout) -> Tensor:
    return cpu.forward(backbone, layout.ids[0], layout.positions[0], layout.query_bounds)


def _forward_generic(backbone: nn.Module, layout: PackLayout) -> Tensor:
    """transformers' own forward with the attention of this module."""
    hidden = backbone(input_ids=layout.ids, position_ids=layout.positions, use_cache=False, layout=layout)
    last: Tensor = hidden.last_hidden_state[0, layout.ends]
    return last


def fits(backbone: nn.Module) -> bool:
    """Whether `cpu` computes this backbone: it has the modules, and it gives the same numbers for a small pack.

    Equal modules do not suffice: models share them and differ in a factor or in which dimensions rotate together.
    """
    if backbone not in _FITS:
        _FITS[backbone] = _agrees(backbone)
    return _FITS[backbone]


_FITS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@torch.inference_mode()
def _agrees(backbone: nn.Module) -> bool:
    parameter = next(backbone.parameters())
    if not parameter.is_cpu or not cpu.has_parts(backbone):
        return False
    vocabulary = backbone.get_parameter("embed_tokens.weight").shape[0]
    tokens = [token % vocabulary for token in range(1, 24)]
    layout = lay_out(tokens[:5], [tokens[5:20], tokens[20:]], parameter.device, kernel=False)
    expected = _forward_generic(backbone, layout).float()
    try:
        own = _forward_own(backbone, layout).float()
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):  # modules of these names with other shapes
        return False
    exact = parameter.dtype == torch.float32 and not any(isinstance(m, QuantizedLinear) for m in backbone.modules())
    return bool((own - expected).norm() <= (1e-4 if exact else 0.05) * expected.norm())
