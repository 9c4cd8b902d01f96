"""Boxes: float (4,), x0 y0 x1 y1 in pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return the intersection over union of two boxes."""
    ax0, ay0, ax1, ay1 = a.tolist()
    bx0, by0, bx1, by1 = b.tolist()
    shared = max(0.0, min(ax1, bx1) - max(ax0, bx0)) * max(0.0, min(ay1, by1) - max(ay0, by0))
    union = max(0.0, ax1 - ax0) * max(0.0, ay1 - ay0) + max(0.0, bx1 - bx0) * max(0.0, by1 - by0) - shared
    return float(shared / union) if union > 0 else 0.0


def area(box: NDArray[Any]) -> float:
    """Return the area, at least 0."""
    x0, y0, x1, y1 = box.tolist()
    return float(max(x1 - x0, 0.0) * max(y1 - y0, 0.0))


def size(box: NDArray[Any]) -> float:
    """Return the mean of width and height, at least 0."""
    x0, y0, x1, y1 = box.tolist()
    return float((max(x1 - x0, 0.0) + max(y1 - y0, 0.0)) / 2)


def middle(box: NDArray[Any]) -> NDArray[np.float64]:
    """Return the centre, x y."""
    return np.asarray((np.asarray(box[2:], np.float64) + box[:2]) / 2)


def grown(box: NDArray[Any], by: float) -> NDArray[Any]:
    """Return a box enlarged on each side by a fraction of its size."""
    return np.append(box[:2] - by * (box[2:] - box[:2]), box[2:] + by * (box[2:] - box[:2]))


def meet(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Return whether the centres of two boxes are at most half the larger box apart."""
    apart = np.abs(a[:2] + a[2:] - b[:2] - b[2:])
    return bool((apart <= np.maximum(a[2:] - a[:2], b[2:] - b[:2])).all())
