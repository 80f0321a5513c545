"""Pinning of processes to cores. Both engines get the same cores, which they use in turns."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from engines.base import BadOptions
from harness.machine import cores


def choose_cores(number: int | None) -> tuple[int, ...]:
    """The highest `number` of the cores that we may use, as systems serve interrupts on the lowest; empty for None.

    Raises BadOptions if there are fewer cores, or if this system cannot pin.
    """
    if number is None:
        return ()
    if not hasattr(os, "sched_setaffinity"):
        raise BadOptions(f"--pin {number}: this system cannot pin processes to cores; leave the option out")
    ours = cores()
    if number > len(ours):
        raise BadOptions(f"--pin {number}: expected at most {len(ours)}, the cores that this process may use")
    return tuple(ours[-number:])


@contextmanager
def pinned(chosen: Sequence[int]) -> Iterator[None]:
    """Processes that this thread starts in the block run on these cores from their first instruction; all, if empty."""
    if not chosen:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
