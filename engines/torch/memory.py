"""Memory that a process holds and no longer needs. On systems without the calls used here nothing is given back.

safetensors maps a checkpoint's file, and pages that were read stay in memory until the last tensor of the file is
freed: a model that is converted layer by layer would be in memory twice by the end. Intermediate results leave holes.
"""

import ctypes
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

# Not psutil, whose memory_maps reads smaps: the kernel then counts the pages of every mapping, for every tensor.
MAPS = Path("/proc/self/maps")  # exists on Linux only
# mallopt(3). 64 MB is the heap of a thread other than the first; a heap that is freed as a whole would be unmapped.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEPT = {M_TRIM_THRESHOLD: 256 << 20, M_TOP_PAD: 64 << 20, M_MMAP_THRESHOLD: 32 << 20}


def give_back(tensor: Tensor) -> None:
    """Give back the pages of a tensor that is no longer needed. If it is read again, its file is read again.

    A tensor that is not mapped from a file as a whole keeps its pages.
    """
    if not tensor.is_cpu or not tensor.is_contiguous():
        return
    first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    # whole pages only: the pages at the ends hold numbers of other tensors
    start, end = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE, last // mmap.PAGESIZE * mmap.PAGESIZE
    if start < end and any(low <= first and last <= high for low, high in _mapped()):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def give_back_holes() -> None:
    """Give back freed memory between allocations that are still in use. Only glibc can."""
    if trim := _glibc("malloc_trim"):
        trim(0)


def keep_what_is_freed() -> None:
    """Let this process keep the memory of one query's activations for the next query: up to 256 MB, with glibc only.

    The setting holds for the whole process, also for the program that hosts the engine. Without it pages are returned,
    taken again and cleared within every layer: 5% of int8's time (docs/LOG.md).
    """
    if mallopt := _glibc("mallopt"):
        for parameter, value in KEPT.items():
            mallopt(parameter, value)


def _glibc(name: str) -> Any:
    """A function that only glibc has; None with another C library."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def _mapped() -> Iterator[tuple[int, int]]:
    """Address ranges of this process that map a file; proc_pid_maps(5)."""
    if not MAPS.is_file():
        return
    for line in MAPS.read_text(errors="replace").splitlines():
        addresses, _, _, _, inode, *_ = line.split()
        if inode != "0":
            low, high = addresses.split("-")
            yield int(low, 16), int(high, 16)
