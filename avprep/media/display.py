"""How a player displays a stored picture: rotated and mirrored by its display matrix, with square pixels.

The display matrix is applied as in ffmpeg's autorotation: its angle is rounded to whole degrees. Multiples of 90° and
mirrors are exact; any other angle rotates the picture within its own frame, so that corners are lost.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SQUARE_WITHIN = Fraction(1, 200)
"""A pixel aspect that differs from 1 by less counts as square: encoders round sides to whole pixels and store the rest
as an aspect."""


@dataclass(frozen=True, slots=True)
class Display:
    """The transformation of stored pixels to the displayed picture: first `aspect`, then the others in this order.

    aspect: width of a pixel over its height.
    transpose: swaps rows and columns.
    mirror: swaps left and right; flip: swaps top and bottom.
    angle: degrees clockwise about the centre, within the picture's frame.
    """

    aspect: Fraction = Fraction(1)
    transpose: bool = False
    mirror: bool = False
    flip: bool = False
    angle: int = 0

    def squared(self, width: int, height: int) -> tuple[int, int]:
        """Return the size with square pixels, before rotation: one side as stored, the other longer."""
        if self is AS_STORED or self.aspect == 1:
            return width, height
        if self.aspect > 1:
            return round(width * self.aspect), height
        return width, round(height / self.aspect)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the displayed size of a stored picture."""
        width, height = self.squared(width, height)
        return (height, width) if self.transpose else (width, height)

    def upright(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return a view of a picture, (H, W) or (H, W, C), rotated by multiples of 90° and mirrored."""
        if self.transpose:
            image = image.swapaxes(0, 1)
        if self.mirror:
            image = image[:, ::-1]
        return image[::-1] if self.flip else image

    def turned(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Rotate and mirror a picture with square pixels, uint8 (H, W) or (H, W, C); empty corners are black."""
        upright = np.ascontiguousarray(self.upright(image))
        if not self.angle:
            return upright
        size = upright.shape[1::-1]
        back = _rotation(-self.angle, *size)
        import cv2  # imported here: audio is read without it

        return np.asarray(cv2.warpAffine(upright, back, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP), np.uint8)

    def to_source(self, width: int, height: int) -> NDArray[np.float64] | None:
        """Return the transform (2, 3) from displayed pixels to those of `upright`; None if both are the same."""
        stored = np.array((height, width) if self.transpose else (width, height))
        shown = self.size(width, height)
        ratio = stored / shown
        if not self.angle and (ratio == 1).all():
            return None
        scale = np.column_stack([np.diag(ratio), 0.5 * ratio - 0.5])  # pixel centres lie at +0.5 of the grid
        rotation = np.vstack([_rotation(-self.angle, *shown), [0, 0, 1]])
        return np.asarray(scale @ rotation, np.float64)


AS_STORED = Display()


@lru_cache(maxsize=64)
def display(matrix: bytes | None, aspect: Fraction | None) -> Display:
    """Return how a picture is displayed.

    matrix: nine native 32-bit integers, as in FFmpeg's side data; None: upright.
    aspect: width of a stored pixel over its height; None or not above 0: square.
    """
    found = _display(matrix, aspect)
    return AS_STORED if found == AS_STORED else found


def _display(matrix: bytes | None, aspect: Fraction | None) -> Display:
    if not aspect or aspect < 0 or abs(aspect - 1) < SQUARE_WITHIN:
        aspect = Fraction(1)
    if matrix is None or len(matrix) < 36:
        return Display(aspect)
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix[:36])
    angle = _angle(a, b, c, d)
    if angle == 90:
        return Display(aspect, transpose=True, mirror=c <= 0)
    if angle == 180:
        return Display(aspect, mirror=a < 0, flip=d < 0)
    if angle == 270:
        return Display(aspect, transpose=True, mirror=c < 0, flip=True)
    if angle == 0:
        return Display(aspect, flip=d < 0)
    return Display(aspect, angle=angle if angle > 1 else 0)  # ffmpeg ignores a single degree


def rotation_matrix(degrees: float) -> bytes:
    """Return the display matrix that rotates a picture clockwise and does nothing else."""
    cos, sin = (round(65536 * part(math.radians(degrees))) for part in (math.cos, math.sin))
    return struct.pack("=9i", cos, sin, 0, -sin, cos, 0, 0, 0, 1 << 30)


def _angle(a: int, b: int, c: int, d: int) -> int:
    """Return a matrix's clockwise rotation in whole degrees, 0 … 359; 0 for a degenerate matrix."""
    across, down = math.hypot(a, c), math.hypot(b, d)
    if not across or not down:
        return 0
    return round(math.degrees(math.atan2(b / down, a / across))) % 360


def _rotation(degrees: float, width: int, height: int) -> NDArray[np.float64]:
    """Return the clockwise rotation about the centre of a picture, as a transform (2, 3)."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[cos, -sin], [sin, cos]])
    middle = np.array([width - 1, height - 1]) / 2
    return np.column_stack([turn, middle - turn @ middle])
