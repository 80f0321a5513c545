"""Arithmetic and memory traffic of a model's forward: formulas over its shape and the lengths, without a clock.

flops = 2 x numbers in the layers' matrices x tokens + 4 x layers x heads x head_dim x keys, where `keys` adds up how
many keys each token attends to: a product and a sum per number, and per key once for its logit and once for its
value (PaLM, arXiv:2204.02311, appendix B). No embeddings, norms, rotations, softmax, activations or score head.
Bytes: each matrix read once per forward, its inputs read and its outputs written once per token.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from engines.base import Counts


class Shape(NamedTuple):
    """The sizes of a model that decide its work."""

    matrices: tuple[tuple[int, int], ...]  # (outputs, inputs) of every linear layer of every block
    attention: int  # blocks x heads x head_dim
    weight_bytes: int  # bytes of one number in a matrix
    activation_bytes: int  # bytes of one number between the layers
    blocks: int = 1
    at_ends: tuple[tuple[int, int], ...] = ()  # the last block's, computed for scored tokens only: not K, V

    def flops(self, tokens: int, keys: int) -> int:
        return 2 * tokens * sum(outputs * inputs for outputs, inputs in self.matrices) + 4 * self.attention * keys

    def moved_bytes(self, tokens: int, forwards: int) -> int:
        weights = sum(outputs * inputs for outputs, inputs in self.matrices) * self.weight_bytes
        activations = sum(outputs + inputs for outputs, inputs in self.matrices) * self.activation_bytes
        return forwards * weights + tokens * activations


def causal_keys(tokens: int, behind: int = 0) -> int:
    """Keys that `tokens` tokens attend to after `behind` others: each token sees all tokens before it and itself."""
    return tokens * behind + tokens * (tokens + 1) // 2


def packed(shape: Shape | None, prefix: int, tails: Sequence[int], computed: int, *, ends_only: bool) -> Counts:
    """Counts of causal prompts `prefix` + tail. `computed` tokens went through the model: tails, one prefix per pack.

    Without a prefix the number of packs is unknown, and the matrices count as read once. Without a shape only tokens
    are counted. With `ends_only` the last block computed K and V for all tokens, and everything else only for the last
    token of each prompt, from which scores are read.
    """
    useful = [prefix + tail for tail in tails]
    counts = Counts(tokens=sum(useful), computed_tokens=computed, padded_tokens=0)
    if shape is None:
        return counts
    packs = (computed - sum(tails)) // prefix if prefix else 1
    keys = packs * causal_keys(prefix) + sum(causal_keys(tail, behind=prefix) for tail in tails)
    flops, moved = shape.flops(computed, keys), shape.moved_bytes(computed, packs)
    if ends_only:
        spared = Shape(shape.at_ends, shape.attention // shape.blocks, 0, shape.activation_bytes)
        flops -= spared.flops(computed - len(tails), keys - sum(useful))
        moved -= spared.moved_bytes(computed - len(tails), 0)
    return replace(
        counts,
        flops=shape.flops(sum(useful), sum(map(causal_keys, useful))),
        computed_flops=flops,
        computed_bytes=moved,
    )


def padded(shape: Shape | None, lengths: Sequence[int], width: int, *, causal: bool) -> Counts:
    """Counts of one batch of prompts, padded to `width` tokens. Without a shape only tokens are counted.

    Without `causal` every token attends to its whole prompt or its whole padded row.
    """
    rows, useful = len(lengths), sum(lengths)
    counts = Counts(tokens=useful, computed_tokens=rows * width, padded_tokens=rows * width - useful)
    if shape is None:
        return counts
    keys = [causal_keys(length) if causal else length * length for length in (*lengths, width)]
    return replace(
        counts,
        flops=shape.flops(useful, sum(keys[:-1])),
        computed_flops=shape.flops(rows * width, rows * keys[-1]),
        computed_bytes=shape.moved_bytes(rows * width, 1),
    )
