"""CUDA graphs for small packs, one per bucket of sizes: a pack is padded to its bucket and replayed without launches.

A layer is about a dozen kernels. In a small pack each kernel ends before the host has launched the next, so the host
limits the speed; a graph launches all kernels at once. Padding is a separate segment: no score depends on it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engines.torch.forward import stream
from engines.torch.forward.gpu import Place
from engines.torch.forward.stream import Sheet

LARGEST = 4096  # tokens; in larger packs the kernels take longer than their launches
MOST = 64  # graphs; packs of further buckets are launched kernel by kernel
WARM_UPS = 2  # forwards before a capture: allocations and choices at the first call must not happen in a graph


class Bucket(NamedTuple):
    tokens: int
    keys: int
    segments: int
    longest: int  # queries of the longest segment


def bucket(sheet: Sheet) -> Bucket | None:
    """The smallest bucket that holds this pack; None for a pack that is too large to gain from a graph.

    Tokens, which cost products, are rounded up by at most an eighth; the other sizes cost little and are rounded up to
    powers of two.
    """
    if sheet.tokens > LARGEST:
        return None
    _, _, keys, starts = np.diff([0, *sheet.ends])[:4].tolist()
    step = max(32, _power(sheet.tokens) // 16)
    return Bucket(
        tokens=-(-sheet.tokens // step) * step,
        keys=max(256, _power(keys)),
        segments=max(8, _power(starts - 1)),
        longest=max(64, _power(sheet.longest[0])),
    )


def _power(size: int) -> int:
    """The smallest power of two that is not below `size`."""
    return 1 << (size - 1).bit_length()


def pad(sheet: Sheet, to: Bucket) -> Sheet:
    """The same pack, followed by one segment of padding and empty segments."""
    ids, positions, key_index, query_starts, key_starts, ends = np.split(sheet.numbers.numpy(), sheet.ends[:-1])
    parts = [
        _fill(ids, to.tokens, 0),
        _fill(positions, to.tokens, 0),
        _fill(key_index, to.keys, to.tokens - 1),
        _fill(query_starts, to.segments + 1, to.tokens),
        _fill(key_starts, to.segments + 1, to.keys),
        _fill(ends, to.segments - 1, 0),
    ]
    return Sheet(
        numbers=torch.from_numpy(np.concatenate(parts)),
        ends=np.cumsum([len(part) for part in parts]).tolist(),
        longest=(to.longest, to.keys),
    )


def _fill(
    part: "np.ndarray[tuple[int], np.dtype[np.int32]]", length: int, value: int
) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
    return np.pad(part, (0, length - len(part)), constant_values=value)


class Captured(NamedTuple):
    numbers: Tensor  # input of a replay
    graph: torch.cuda.CUDAGraph
    ends: Tensor  # output of a replay, [segments - 1, hidden]


class Graphs:
    """A forward of sheets that captures a graph at the first pack of each bucket and replays it for later packs."""

    def __init__(self, forward: Callable[[Place], Tensor], device: torch.device) -> None:
        self._forward, self._device = forward, device
        self._captured: dict[Bucket, Captured] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, sheet: Sheet) -> Tensor:
        size = bucket(sheet)
        if size is None or (size not in self._captured and len(self._captured) == MOST):
            return self._forward(stream.place(sheet, self._device))
        padded = pad(sheet, size)
        if size not in self._captured:
            self._captured[size] = self._capture(padded)
        captured = self._captured[size]
        captured.numbers.copy_(padded.numbers.pin_memory(), non_blocking=True)
        captured.graph.replay()
        return captured.ends[: sheet.tails].clone()  # the next replay overwrites them

    def _capture(self, sheet: Sheet) -> Captured:
        numbers = stream.send(sheet.numbers, self._device).clone()
        place = stream.view(numbers, sheet)
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._forward(place)
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            ends = self._forward(place)
        return Captured(numbers, graph, ends)
