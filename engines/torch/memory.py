"""Memory that a process holds and does not need. Where a system has no such calls, it keeps it.

safetensors maps a checkpoint's file, and pages that were read stay in memory until the last tensor of the file is
freed: a model that is converted layer by layer would be there twice before its end. What was made on the way leaves
holes.
"""

import ctypes
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

MAPS = Path("/proc/self/maps")  # Linux alone tells; elsewhere nothing is given back early
# mallopt(3). 64 MB is the heap of a thread that is not the first; one that is freed as a whole would be unmapped.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEPT = {M_TRIM_THRESHOLD: 256 << 20, M_TOP_PAD: 64 << 20, M_MMAP_THRESHOLD: 32 << 20}


def give_back(tensor: Tensor) -> None:
    """Give back the pages of a tensor that is not needed any more. One that is read again is read from its file.

    Nothing happens to a tensor that is not mapped from a file as a whole.
    """
    if not tensor.is_cpu or not tensor.is_contiguous():
        return
    first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    # whole pages only: those at the ends hold numbers of other tensors
    start, end = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE, last // mmap.PAGESIZE * mmap.PAGESIZE
    if start < end and any(low <= first and last <= high for low, high in _mapped()):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def give_back_holes() -> None:
    """Give back what was freed between things that are still needed, as glibc alone can."""
    if trim := _glibc("malloc_trim"):
        trim(0)


def keep_what_is_freed() -> None:
    """Let this process keep what a query's activations took for the next one: up to 256 MB, with glibc. For all
    that the process does, also a host program's.

    Otherwise pages are handed back and taken anew, and cleared, within every layer: 5% of int8's time (docs/LOG.md).
    """
    if mallopt := _glibc("mallopt"):
        for parameter, value in KEPT.items():
            mallopt(parameter, value)


def _glibc(name: str) -> Any:
    """A function of glibc's own; None with another C library."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def _mapped() -> Iterator[tuple[int, int]]:
    """Addresses of this process that show a file; proc_pid_maps(5)."""
    if not MAPS.is_file():
        return
    for line in MAPS.read_text(errors="replace").splitlines():
        addresses, _, _, _, inode, *_ = line.split()
        if inode != "0":
            low, high = addresses.split("-")
            yield int(low, 16), int(high, 16)
