"""Finding a face again by registration: the movement that lays one picture's face over another's.

The upper half of a face, brows to nose, stays one rigid thing while its owner talks. The grey values themselves show
how it moved, to a fraction of a pixel (Lucas and Kanade 1981, in the inverse compositional form of Baker and Matthews
2004), at a fraction of what detecting it anew costs, and without a detector's noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avprep.faces import align
from avprep.faces.detectors.base import Face
from avprep.schema import CROP_SIZE

REGION = (46.0, 70.0, 210.0, 170.0)
"""What is registered, in crop pixels: x0 y0 x1 y1, from the brows to below the nose, as wide as the face."""
ZOOM = 0.4
"""Patch pixels per crop pixel."""
ROUNDS = 8
"""Maximum steps towards the best place."""
STILL = 0.05
"""A step that moves the patch by less is the last one (patch pixels)."""
ALIKE = 0.9
"""Minimum correlation of two patches that show the same face looking the same way."""
GROWTH = 1.3
"""A face that seems to have grown or shrunk by more is not the same, or not well found."""
FLAT = 1e-3
"""Minimum information of a patch's slopes on a movement (their squares, the patch having unit length)."""

_APPEARANCE = 24  # side of the patch that faces are compared by over cuts
_SIZE = (round((REGION[2] - REGION[0]) * ZOOM), round((REGION[3] - REGION[1]) * ZOOM))
_MIDDLE = complex((_SIZE[0] - 1) / 2, (_SIZE[1] - 1) / 2)
_REACH = _MIDDLE.real  # patch pixels that growing or turning by 1 moves the patch's edge
_ACROSS, _DOWN = np.meshgrid(
    ((np.arange(_SIZE[0]) - _MIDDLE.real) / _REACH).astype(np.float32),
    ((np.arange(_SIZE[1]) - _MIDDLE.imag) / _REACH).astype(np.float32),
)


@dataclass(frozen=True, slots=True)
class Similarity:
    """Takes the point z = x + iy to turn·z + shift: picture → patch pixels."""

    turn: complex
    shift: complex


@dataclass(frozen=True, eq=False)
class Anchor:
    """A face's appearance where it was detected.

    face: in source pixels. onto: its picture → patch.
    patch: float32 (N,), grey, of zero mean and unit length; steps: float32 (4, N), what a patch's difference from it
    means in growth, turn (both in patch pixels at its edge) and movement to the right and down.
    """

    face: Face
    onto: Similarity
    patch: NDArray[np.float32]
    steps: NDArray[np.float32]

    def find(self, luma: NDArray[np.uint8], near: Similarity) -> Similarity | None:
        """Find the face in another picture.

        luma: uint8 (H, W). near: that picture → patch, where the face was last.
        Returns the same for where it is now; None where nothing like it is there.
        """
        turn, shift = near.turn, near.shift
        for _ in range(ROUNDS):
            patch = _patch(luma, turn, shift)
            growth, rotation, right, down = (self.steps @ (patch - self.patch)).tolist()
            step = complex(1 + growth / _REACH, rotation / _REACH)
            turn, shift = step * turn, step * (shift - _MIDDLE) + _MIDDLE + complex(right, down)
            if max(abs(growth), abs(rotation), abs(right), abs(down)) < STILL:
                break
        else:
            patch = _patch(luma, turn, shift)
        if float(patch @ self.patch) < ALIKE or not 1 / GROWTH < abs(turn / self.onto.turn) < GROWTH:
            return None
        return Similarity(turn, shift)

    def face_at(self, onto: Similarity) -> Face:
        """Return the face where `find` found it, in that picture's pixels."""
        turn = self.onto.turn / onto.turn
        shift = (self.onto.shift - onto.shift) / onto.turn
        points = (self.face.points.view(np.complex64) * turn + shift).astype(np.complex64).view(np.float32)
        x0, y0, x1, y1 = self.face.box.tolist()
        centre = turn * complex(x0 + x1, y0 + y1) / 2 + shift
        across, down = abs(turn) * (x1 - x0) / 2, abs(turn) * (y1 - y0) / 2
        box = (centre.real - across, centre.imag - down, centre.real + across, centre.imag + down)
        return Face(np.array(box, np.float32), self.face.score, points)


def anchor(face: Face, luma: NDArray[np.uint8]) -> Anchor | None:
    """Return a face's anchor in its picture, uint8 (H, W); None where there is too little to see."""
    affine = align.similarity(face.points)
    if not np.isfinite(affine).all():
        return None
    turn = ZOOM * complex(affine[0, 0], affine[1, 0])
    shift = ZOOM * (complex(affine[0, 2], affine[1, 2]) - complex(*REGION[:2]))
    patch = _patch(luma, turn, shift)
    grey = patch.reshape(_SIZE[1], _SIZE[0])
    across, down = np.zeros_like(grey), np.zeros_like(grey)
    across[:, 1:-1] = (grey[:, 2:] - grey[:, :-2]) / 2
    down[1:-1] = (grey[2:] - grey[:-2]) / 2
    slopes = np.stack([across * _ACROSS + down * _DOWN, down * _ACROSS - across * _DOWN, across, down]).reshape(4, -1)
    strengths, directions = np.linalg.eigh(slopes @ slopes.T)
    if strengths[0] < FLAT:
        return None
    steps = (directions / strengths) @ directions.T @ slopes
    points = np.ascontiguousarray(face.points)
    return Anchor(Face(face.box, face.score, points), Similarity(turn, shift), patch, steps)


def _patch(luma: NDArray[np.uint8], turn: complex, shift: complex) -> NDArray[np.float32]:
    matrix = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
    return grey_patch(luma, matrix, _SIZE)


def appearance(luma: NDArray[np.uint8], face: Face) -> NDArray[np.float32]:
    """Return the aligned grey patch of a face, float32 (576,), of zero mean and unit length."""
    matrix = align.similarity(face.points) * (_APPEARANCE / CROP_SIZE)
    if not np.isfinite(matrix).all():
        return np.zeros(_APPEARANCE * _APPEARANCE, np.float32)
    return grey_patch(luma, matrix, (_APPEARANCE, _APPEARANCE))


def grey_patch(luma: NDArray[np.uint8], affine: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float32]:
    """Warp a grey picture to a patch of `size`, float32 (N,), of zero mean and unit length, whatever the light."""
    patch = align.warp(luma, affine, size).astype(np.float32).ravel()
    patch -= patch.sum() / patch.size
    patch *= 1 / max(math.sqrt(patch @ patch), 1e-6)
    return patch
