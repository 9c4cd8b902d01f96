"""Set-up of a worker process before its first clip: computation in one thread, and the memory that it keeps."""

from __future__ import annotations

import sys

from threadpoolctl import threadpool_limits

KEPT = 256 << 20
"""Maximum freed memory that a worker keeps (bytes)."""


def one_thread() -> threadpool_limits:
    """Limit OpenCV, numpy's linear algebra and torch, as far as they are loaded, to one thread each.

    By default they use every core: workers then wait for each other's threads, sums change their order, and cascades
    return their windows in no fixed order. The result is a context that restores all threads except OpenCV's.
    """
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)
    return threadpool_limits(1)
