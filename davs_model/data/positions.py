"""Position of the face in its crop and motion of the head, per frame; all but the choice of inputs is ours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from avprep.schema import CROP_SIZE, N_POINTS

POSITION = 2 * N_POINTS + 4
"""Number of values per frame: five landmarks (x, y), scale, rotation and shift (x, y)."""
PLACES: NDArray[np.float32] = np.array(
    [[91.1, 114.4], [168.7, 114.4], [129.9, 155.0], [102.0, 188.1], [157.8, 188.1]], np.float32
)
"""Expected places of the five landmarks: eyes and mouth centre by the alignment of crops, the others are ours."""
POINT_UNIT, TURN_UNIT, SHIFT_UNIT = CROP_SIZE / 16, 0.1, CROP_SIZE / 10
"""Differences that are scaled to 1: in pixels of the crop, in natural logarithm or radians, in pixels of the crop."""
MOST = 10.0
"""Maximum absolute value; larger ones are clipped."""


def positions(
    points: NDArray[np.float32], affine: NDArray[np.float32], *, mirrored: bool = False
) -> NDArray[np.float32]:
    """Return the position of the face in each frame of a clip: float32 (T, 14), each value NaN where unknown.

    points: five landmarks in pixels of the crop as it is shown, (T, 5, 2), NaN where unknown, as the nose always is
        with the detector opencv. They give the distances from `PLACES`.
    affine: from source to crop, (T, 2, 3); without it nothing is known. It gives the natural logarithm of the scale,
        the rotation, and the place of the middle of the crop in the source, in pixels of the crop, all relative to the
        median of the clip.
    mirrored: the crop is shown mirrored.
    """
    linear = affine[:, :, :2].astype(np.float64)
    with np.errstate(all="ignore"):
        scale = np.hypot(linear[:, 0, 0], linear[:, 1, 0])
        turn = np.unwrap(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
        middle = CROP_SIZE / 2 - affine[:, :, 2]
        # The linear part is a rotation times the scale: its inverse is its transpose over the scale squared.
        shift = np.einsum("tji,tj->ti", linear, middle) / scale[:, None] ** 2 * np.median(scale)
        moves = np.column_stack((np.log(scale) / TURN_UNIT, turn / TURN_UNIT, shift / SHIFT_UNIT))
        moves -= np.median(moves, axis=0)
        found = np.column_stack(((points - PLACES).reshape(len(points), -1) / POINT_UNIT, moves))
    if mirrored:
        found[:, -3:-1] *= -1
    found[~np.isfinite(found)] = np.nan
    found[np.isnan(found[:, -4:]).any(1)] = np.nan  # landmarks of the crop depend on the transform
    return found.clip(-MOST, MOST).astype(np.float32)
