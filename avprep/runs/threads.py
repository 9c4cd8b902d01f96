"""What a worker process sets up before its first clip: calculation in one thread, and how much memory it keeps."""

from __future__ import annotations

import sys

from threadpoolctl import threadpool_limits

KEPT = 256 << 20
"""Freed memory that a worker keeps at most (bytes)."""


def one_thread() -> threadpool_limits:
    """Have OpenCV, the linear algebra below numpy, and torch calculate in one thread each, those that are loaded.

    By default they take every core: workers then wait for each other's threads, sums come in another order, and
    cascades find their windows in none. The result is a context that gives all but OpenCV's threads back.
    """
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)
    return threadpool_limits(1)
