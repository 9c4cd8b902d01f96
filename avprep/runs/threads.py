"""What a worker process sets up before its first clip: calculation in one thread, and memory that is kept."""

from __future__ import annotations

import ctypes

import cv2
from threadpoolctl import threadpool_limits

KEPT = 256 << 20
"""Freed memory that a worker keeps at most (bytes)."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def one_thread() -> threadpool_limits:
    """Have OpenCV, the linear algebra below numpy, and torch where it is loaded, calculate in one thread each.

    By default they take every core: workers then wait for each other's threads, sums come in another order, and
    cascades find their windows in none. The result is a context that gives all but OpenCV's threads back.
    """
    cv2.setNumThreads(1)
    return threadpool_limits(1)


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next picture; other C libraries are left as they are.

    Otherwise each picture's buffers are handed back to the kernel and cleared page by page when they are taken anew,
    which costs more than the colour conversion that fills them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT)
        mallopt(_M_MMAP_THRESHOLD, KEPT)
