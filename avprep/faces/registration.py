"""Following a face by registration: estimating the motion that aligns the face in one picture with that in another.

The upper half of a face, brows to nose, stays rigid during speech. Its motion is estimated from the grey values to a
fraction of a pixel (Lucas and Kanade 1981, in the inverse compositional form of Baker and Matthews 2004). This costs a
fraction of a new detection and has no detector noise. Eyelids and brows do move: steps are repeated with less weight
for pixels that differ from the patch, so that a blink does not move the face.
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep.faces import align
from avprep.faces.align import TEMPLATE
from avprep.schema import CROP_SIZE

EXTENT = 55.0
"""Approximate distance of eyes and mouth from their centre, crop pixels."""
FINE, COARSE = 0.4, 0.13
"""Patch pixels per crop pixel. The coarse patch finds a face that moved too far for the fine one."""
ROUNDS = 16
"""Maximum number of iterations."""
STILL = 0.1
"""A step that moves the patch by less is the last one (patch pixels)."""
NEAR = 0.8
"""A step that moves the patch by less (patch pixels) is refined with less weight for pixels with large residuals."""
AGREES = 3.2
"""A pixel whose residual is this many times the mean residual has a quarter of the weight (Geman and McClure)."""
FURTHER = 2.0
"""Refinements are multiplied by this, because the weights reduce a patch's gradients by about this factor. Measured: as
good as solving again with the weights, which takes three times as long."""
AGAIN, SETTLED = 2, 0.08
"""Maximum refinements of a step, and the length below which a refinement is the last one (patch pixels)."""
ALIKE = 0.9
"""Minimum correlation of two patches that show the same face with the same appearance."""
GROWTH = 1.3
"""A face whose scale changed by more than this factor is not the same, or not well registered."""
FLAT = 1e-3
"""Minimum information of a patch's gradients on a motion (their squares, for a patch of unit length)."""

_APPEARANCE = 24  # side of the patch by which faces are compared across cuts


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a crop: its middle x + iy, width and height in crop pixels."""

    middle: complex
    width: float
    height: float


UPPER_FACE = Region(complex(TEMPLATE[:2, 0].mean(), 120), 164.0, 100.0)
"""The region that is followed: from the brows to below the nose, as wide as the face."""
AROUND = Region(UPPER_FACE.middle, 204.0, 140.0)
"""The region of the coarse patch."""


@dataclass(frozen=True, slots=True)
class Similarity:
    """Maps the point z = x + iy to turn·z + shift, usually picture → crop pixels."""

    turn: complex
    shift: complex

    @classmethod
    def of(cls, affine: NDArray[np.float64]) -> Similarity:
        """Return a transform (2, 3) as a Similarity."""
        (turn, _, x), (rise, _, y) = affine.tolist()
        return cls(complex(turn, rise), complex(x, y))

    @property
    def affine(self) -> NDArray[np.float64]:
        """The same as a transform, float64 (2, 3)."""
        turn, shift = self.turn, self.shift
        return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])

    def after(self, first: Similarity) -> Similarity:
        """Return the composition: `first`, then this."""
        return Similarity(self.turn * first.turn, self.turn * first.shift + self.shift)

    def inverse(self) -> Similarity:
        """Return the inverse."""
        return Similarity(1 / self.turn, -self.shift / self.turn)

    def __call__(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map points (…, 2)."""
        moved = np.ascontiguousarray(points, np.float64).view(np.complex128) * self.turn + self.shift
        return moved.view(np.float64)


class Patch:
    """A face's grey values at one scale, and their derivatives with respect to its motion.

    _pixels: float32 (N,), of zero mean and unit length. _slopes: float32 (5, N), their derivatives with respect to
    scaling and rotation (both in patch pixels at the patch's edge), motion to the right and down, and brightness.
    _solved: float32 (5, 5), the inverse of the products of _slopes.
    """

    def __init__(self, luma: NDArray[np.uint8], onto: Similarity, zoom: float, region: Region) -> None:
        self._size = (round(region.width * zoom), round(region.height * zoom))
        self._middle = complex((self._size[0] - 1) / 2, (self._size[1] - 1) / 2)
        self._from_crop = Similarity(zoom, self._middle - zoom * region.middle)
        self._to_crop = self._from_crop.inverse()
        self._reach = self._middle.real  # patch pixels by which scaling or rotation by 1 moves the patch's edge
        placed = self._from_crop.after(onto)
        self._pixels = self._seen(luma, placed.turn, placed.shift)
        self._slopes = self._sloping()
        self._solved = self._inverse()

    @property
    def flat(self) -> bool:
        """Whether it has too little structure."""
        return self._solved is None

    def find(self, luma: NDArray[np.uint8], near: Similarity, there: Patch | None = None) -> tuple[Similarity, float]:
        """Register the patch in a picture, starting at `near`; return picture → crop pixels and the correlation there.

        there: that picture's patch at `near` and the same scale, if it is known already.
        """
        assert self._solved is not None
        placed, middle = self._from_crop.after(near), self._middle
        turn, shift = placed.turn, placed.shift
        patch = self._seen(luma, turn, shift) if there is None else there._pixels
        for _ in range(ROUNDS):
            off = patch - self._pixels
            moved = self._solved @ (self._slopes @ off)
            if _furthest(moved) < NEAR:
                moved = self._agreed(off, moved)
            growth, rotation, right, down, _ = moved.tolist()
            step = complex(1 + growth / self._reach, rotation / self._reach)
            turn, shift = step * turn, step * (shift - middle) + middle + complex(right, down)
            if _furthest(moved) < STILL:
                break
            patch = self._seen(luma, turn, shift)
        return self._to_crop.after(Similarity(turn, shift)), float(patch @ self._pixels)

    def _seen(self, luma: NDArray[np.uint8], turn: complex, shift: complex) -> NDArray[np.float32]:
        matrix = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
        return grey_patch(luma, matrix, self._size)

    def _agreed(self, off: NDArray[np.float32], moved: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a step (5,) with less weight for pixels with large residuals.

        off: (N,), the difference of the picture from the patch. moved: the step with equal weights.
        """
        assert self._solved is not None
        left = off - moved @ self._slopes
        usual = AGREES * cv2.norm(left, cv2.NORM_L1) / left.size
        scale = np.float32(1 / max(usual, 1e-9))
        for again in range(AGAIN):
            left = left if not again else off - moved @ self._slopes
            weights = left * scale
            weights *= weights
            weights += 1
            weights *= weights
            further = FURTHER * (self._solved @ (self._slopes @ np.divide(left, weights, out=left)))
            moved = moved + further
            if _furthest(further) < SETTLED:
                break
        return moved

    def _sloping(self) -> NDArray[np.float32]:
        """Return the derivatives of the patch with respect to small motions and brightness; see `Patch`."""
        width, height = self._size
        across, down = _places(width, height)
        grey = self._pixels.reshape(height, width)
        slopes = np.zeros((5, height, width), np.float32)
        growing, turning, right, below, light = slopes
        np.subtract(grey[:, 2:], grey[:, :-2], out=right[:, 1:-1])
        np.subtract(grey[2:], grey[:-2], out=below[1:-1])
        slopes[2:4] *= 0.5
        np.add(right * across, below * down, out=growing)
        np.subtract(below * across, right * down, out=turning)
        light[:] = 1 / math.sqrt(grey.size)
        return slopes.reshape(5, -1)

    def _inverse(self) -> NDArray[np.float32] | None:
        """Return the inverse of the normal equations; None if the gradients hold too little information."""
        # With a copy, as numpy takes three times as long to multiply such an array by itself.
        strengths, directions = np.linalg.eigh(self._slopes @ self._slopes.copy().T)
        if strengths[0] < FLAT:
            return None
        return np.asarray((directions / strengths) @ directions.T, np.float32)


def _furthest(step: NDArray[np.float32]) -> float:
    """Return the maximum distance by which a step (5,) moves a patch (patch pixels)."""
    growth, rotation, right, down, _ = step.tolist()
    return float(max(abs(growth), abs(rotation), abs(right), abs(down)))


@lru_cache
def _places(width: int, height: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the offsets of each pixel from a patch's centre, to the right and down, in units of half its width."""
    across, down = np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2
    reach = (width - 1) / 2
    return (across / reach).astype(np.float32), (down / reach).astype(np.float32)[:, None]


class Anchor:
    """A face's appearance in one picture, used to find the face in others.

    onto: that picture → crop pixels.
    """

    def __init__(self, luma: NDArray[np.uint8], onto: Similarity) -> None:
        self.onto = onto
        self._luma = luma
        self._fine = Patch(luma, onto, FINE, UPPER_FACE)
        self._coarse: Patch | None = None

    @classmethod
    def of(cls, luma: NDArray[np.uint8], onto: Similarity) -> Anchor | None:
        """Return a face's anchor in its picture, uint8 (H, W); None if there is too little structure."""
        if not (cmath.isfinite(onto.turn) and cmath.isfinite(onto.shift)):
            return None
        anchor = cls(luma, onto)
        return None if anchor._fine.flat else anchor

    def find(self, luma: NDArray[np.uint8], near: Similarity) -> tuple[Similarity, float] | None:
        """Find the face in another picture.

        luma: uint8 (H, W). near: that picture → crop pixels, where the face is expected.
        Returns picture → crop pixels as found, and the correlation; None if nothing similar is there.
        """
        found = self._alike(*self._fine.find(luma, near))
        if found is None:
            if self._coarse is None:
                self._coarse = Patch(self._luma, self.onto, COARSE, AROUND)
            if not self._coarse.flat:
                roughly, _ = self._coarse.find(luma, near)
                found = self._alike(*self._fine.find(luma, roughly))
        return found

    def _alike(self, onto: Similarity, correlation: float) -> tuple[Similarity, float] | None:
        alike = correlation >= ALIKE and 1 / GROWTH < abs(onto.turn / self.onto.turn) < GROWTH
        return (onto, correlation) if alike else None


def appearance(luma: NDArray[np.uint8], onto: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the aligned grey patch of a face, float32 (576,), of zero mean and unit length.

    onto: (2, 3), picture → crop pixels. If the face's points coincide, it is not finite and the patch is 0.
    """
    if not np.isfinite(onto).all():
        return np.zeros(_APPEARANCE * _APPEARANCE, np.float32)
    return grey_patch(luma, onto * (_APPEARANCE / CROP_SIZE), (_APPEARANCE, _APPEARANCE))


def grey_patch(luma: NDArray[np.uint8], affine: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float32]:
    """Warp a grey picture to a patch of `size`, float32 (N,), of zero mean and unit length, regardless of lighting."""
    patch = align.warp(luma, affine, size).astype(np.float32).ravel()
    patch -= np.add.reduce(patch) / patch.size
    patch *= 1 / max(math.sqrt(patch @ patch), 1e-6)
    return patch
