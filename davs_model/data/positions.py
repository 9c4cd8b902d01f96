"""Where a face lies in its crop and how its head moves, frame by frame; ours but for what goes in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from avprep.schema import CROP_SIZE, N_POINTS

POSITION = 2 * N_POINTS + 4
"""Numbers of a frame: five points, scale, turn and two of the shift."""
PLACES: NDArray[np.float32] = np.array(
    [[91.1, 114.4], [168.7, 114.4], [129.9, 155.0], [102.0, 188.1], [157.8, 188.1]], np.float32
)
"""Where the five points are expected: eyes and the middle of the mouth as crops are aligned, the others ours."""
POINT_UNIT, TURN_UNIT, SHIFT_UNIT = CROP_SIZE / 16, 0.1, CROP_SIZE / 10
"""What counts as 1: pixels of the crop, natural logarithm or radian, pixels of the crop."""
MOST = 10.0
"""Largest number that is taken as it is."""


def positions(
    points: NDArray[np.float32], affine: NDArray[np.float32], *, mirrored: bool = False
) -> NDArray[np.float32]:
    """Return how the face of each frame of a clip lies: float32 (T, 14), each number NaN where it is unknown.

    points: five points in pixels of the crop as it is shown, (T, 5, 2), NaN where unknown, as the nose of the detector
        opencv is in every frame: how far from `PLACES`.
    affine: from source to crop, (T, 2, 3), without which nothing is known: natural logarithm of the scale, turn, and
        where the middle of the crop is in the source, in pixels of the crop, all against the median of the clip.
    mirrored: the crop is shown mirrored.
    """
    linear = affine[:, :, :2].astype(np.float64)
    with np.errstate(all="ignore"):
        scale = np.hypot(linear[:, 0, 0], linear[:, 1, 0])
        turn = np.unwrap(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
        middle = CROP_SIZE / 2 - affine[:, :, 2]
        # The linear part is a turn times the scale: its inverse is its transpose over the scale squared.
        shift = np.einsum("tji,tj->ti", linear, middle) / scale[:, None] ** 2 * np.median(scale)
        moves = np.column_stack((np.log(scale) / TURN_UNIT, turn / TURN_UNIT, shift / SHIFT_UNIT))
        moves -= np.median(moves, axis=0)
        found = np.column_stack(((points - PLACES).reshape(len(points), -1) / POINT_UNIT, moves))
    if mirrored:
        found[:, -3:-1] *= -1
    found[~np.isfinite(found)] = np.nan
    found[np.isnan(found[:, -4:]).any(1)] = np.nan  # points of the crop follow from the transform
    return found.clip(-MOST, MOST).astype(np.float32)
