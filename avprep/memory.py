"""Keeping freed memory in the C library: the next picture or step needs as much again."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory(kept: int) -> None:
    """Have glibc keep up to `kept` bytes of freed memory; other C libraries are not changed.

    Otherwise large buffers are returned to the kernel and cleared page by page when they are allocated again. For a
    picture this costs more than the colour conversion that fills its buffer, and a third of a training step on a CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, kept)
        mallopt(_M_MMAP_THRESHOLD, kept)
