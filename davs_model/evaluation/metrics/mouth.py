"""Distance between the mouths of generated and real frames, by landmarks of an external detector."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class MouthDistance:
    """The landmark distance of mouths, and the number of frames in which it was measured."""

    distance_px: float
    """Mean over landmarks and frames, in pixels of the crop; NaN if no frame has both mouths."""
    n_frames: int
    """Number of frames in which both mouths were found; only these are measured."""
    not_found_real: int
    not_found_generated: int
    """Number of generated frames without a mouth; where the real one is missing, too, the frame counts in both."""


def mouth_distance(real: NDArray[np.floating[Any]], generated: NDArray[np.floating[Any]]) -> MouthDistance:
    """Return the mean of `distances` over frames; same arguments and errors."""
    apart = distances(real, generated)
    both = ~np.isnan(apart)
    return MouthDistance(
        distance_px=float(apart[both].mean()) if both.any() else math.nan,
        n_frames=int(both.sum()),
        not_found_real=int(_not_found(real).sum()),
        not_found_generated=int(_not_found(generated).sum()),
    )


def distances(real: NDArray[np.floating[Any]], generated: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the landmark distance of each frame in pixels, float64 `[N]`; NaN where either mouth was not found.

    real, generated: float `[N, L, 2]`, x y in pixels of the crop, the same L landmarks of the mouth in the same order,
    at least two; a frame with a NaN among them counts as one without a mouth.
    Chen et al., "Lip Movements Generation at a Glance", 2018 (LMD): the Euclidean distance between landmarks, averaged
    over them, with the mean of each mouth at the origin. It thus compares the shape of mouths, not their place; with
    only the two corners, their width and tilt.
    Raises ValueError for shapes that differ or are invalid, no frames, and infinite landmarks.
    """
    if real.shape != generated.shape:
        raise ValueError(f"landmarks of real {list(real.shape)} and generated {list(generated.shape)} frames differ")
    if real.ndim != 3 or real.shape[1] < 2 or real.shape[2] != 2:
        raise ValueError(f"landmarks {list(real.shape)} should be [N, L, 2], two of each mouth or more")
    if len(real) == 0:
        raise ValueError("no frames to compare")
    if np.isinf(real).any() or np.isinf(generated).any():
        raise ValueError("landmarks are infinite; where no mouth was found, they should be NaN")
    apart: NDArray[np.float64] = np.linalg.norm(_centred(real) - _centred(generated), axis=-1).mean(axis=-1)
    return apart


def _centred(landmarks: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Move the mean of each mouth to the origin."""
    points = np.asarray(landmarks, np.float64)
    return points - points.mean(axis=1, keepdims=True)


def _not_found(landmarks: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.isnan(landmarks).any(axis=(1, 2))
    return found
