"""Packs on their way to a device and back: one copy per pack from pinned memory, and no wait for the device.

On a GPU a launch returns before the work is done, so the host tokenises and lays out the next pack, of this query or
the next, while the device computes. Scores stay on the device until `fetch` reads them.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engines.prompts.encoder import Prompt
from engines.torch.forward.gpu import Place
from engines.torch.forward.packed import KEYS_PER_TOKEN
from engines.torch.forward.packs import plan


class Sheet(NamedTuple):
    """One pack on the host: the parts of a `Place` as one array, and the end of each part."""

    numbers: Tensor  # int32
    ends: list[int]  # end of each part in `numbers`, in the order of Place
    longest: tuple[int, int]

    @property
    def tokens(self) -> int:
        return self.ends[0]

    @property
    def tails(self) -> int:
        return self.ends[-1] - self.ends[-2]


Forward = Callable[[Sheet], Tensor]  # hidden states of the last token of each tail, [tails, hidden], on the device


def lay_out(prefix: Sequence[int], tails: Sequence[Sequence[int]]) -> Sheet:
    """The packed sequence of one prefix and its tails."""
    before = len(prefix)
    lengths = np.array([len(tail) for tail in tails])
    stops = before + np.cumsum(lengths)
    starts = stops - lengths
    shared = np.arange(before)
    own = [np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)]
    parts = [
        np.concatenate([np.asarray(part, dtype=np.int32) for part in (prefix, *tails)]),
        np.concatenate([shared, *(np.arange(before, before + length) for length in lengths)]),
        np.concatenate([shared, *(part for tail in own for part in (shared, tail))]),
        np.concatenate([[0, before], stops]),
        np.concatenate([[0, before], before + np.cumsum(before + lengths)]),
        stops - 1,
    ]
    return Sheet(
        numbers=torch.from_numpy(np.concatenate(parts).astype(np.int32)),
        ends=np.cumsum([len(part) for part in parts]).tolist(),
        longest=(max(before, int(lengths.max())), before + int(lengths.max())),
    )


def place(sheet: Sheet, device: torch.device) -> Place:
    """The pack on the device. The copy may still be under way when this returns."""
    return view(send(sheet.numbers, device), sheet)


def view(numbers: Tensor, sheet: Sheet) -> Place:
    """The parts of a sheet's numbers, on the device of `numbers`."""
    parts = [numbers[start:end] for start, end in pairwise([0, *sheet.ends])]
    return Place(*parts, sheet.longest)  # type: ignore[call-arg, arg-type]


def send(numbers: Tensor, device: torch.device) -> Tensor:
    """A copy on the device, through pinned memory: otherwise the host waits for everything launched before."""
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers.to(device)


@torch.inference_mode()
def score(forward: Forward, head: Tensor, prompt: Prompt, *, budget: int) -> tuple[Tensor, int]:
    """Scores of all tails of a prompt and the number of computed tokens, as `packed.score` gives them.

    `head` [hidden] is float32, on the device. Returns float32 [tails] on the device, which may not be computed yet.
    """
    before = len(prompt.prefix)
    costs = [max(len(tail), (before + len(tail)) // KEYS_PER_TOKEN) for tail in prompt.tails]
    packs = plan(costs, budget)
    scores: list[Tensor] = []
    computed = 0
    for pack in packs:
        sheet = lay_out(prompt.prefix, [prompt.tails[i] for i in pack])
        scores.append(forward(sheet).float() @ head)
        computed += sheet.tokens
    back = np.argsort(np.concatenate(packs)).astype(np.int32)
    return torch.cat(scores)[send(torch.from_numpy(back), head.device)], computed


def fetch(scores: Sequence[Tensor]) -> list[list[float]]:
    """Scores of several prompts on the host, by one copy: the only wait for the device."""
    if not scores:
        return []
    values: list[float] = torch.cat(list(scores)).tolist()
    scores_of_prompts, start = [], 0
    for part in scores:
        scores_of_prompts.append(values[start : start + len(part)])
        start += len(part)
    return scores_of_prompts
