"""A face that is being followed: where registration says that it is, and what detecting it has shown."""

from __future__ import annotations

import cmath
import math

import numpy as np
from numpy.typing import NDArray

from avprep.faces import align
from avprep.faces.detectors.base import Face
from avprep.faces.registration import EXTENT, Anchor, Similarity, appearance
from avprep.faces.track import ALIKE, Detection, Look

REFRESH = 0.95
"""Below this correlation with its anchor a face gets a new one when it is detected."""
REMEMBERED = 6
"""Looks that tell where the next one expects the face."""


class FollowedFace:
    """A face that is being followed from frame to frame.

    Its frame of reference is about its crop: registration takes each picture there, whatever the face does. Where eyes
    and mouth lie in it is what looks tell.

    luma, of any method: the grey levels of a picture, uint8 (H, W).
    number: its own. frame: when it was last detected; looks: how often it was.
    path: picture → its frame of reference, of each frame since it was last recorded.
    """

    def __init__(self, number: int, face: Face, frame: int, luma: NDArray[np.uint8]) -> None:
        self.number, self.frame, self.looks, self.misses = number, frame, 0, 0
        self._look: Look | None = None
        self._recent: list[NDArray[np.float64]] = []
        self.begin(face, luma)

    def begin(self, face: Face, luma: NDArray[np.uint8]) -> None:
        """Begin with a face's box and points in pixels of a picture: that of the frame it was last detected in."""
        self._onto = self._before = Similarity.of(align.similarity(face.points))
        self._looked, self._correction = self._onto.turn, Similarity(1, 0)
        self._shape, self._score = self._onto(face.points), face.score
        x0, y0, x1, y1 = face.box.tolist()
        self._centre = self._onto.turn * complex(x0 + x1, y0 + y1) / 2 + self._onto.shift
        self._extent = (x1 - x0) * abs(self._onto.turn), (y1 - y0) * abs(self._onto.turn)
        self._luma, self._correlation = luma, 1.0
        self._anchor = Anchor.of(luma, self._onto)
        self.path = [(self.frame, self._onto)]

    @property
    def face(self) -> Face:
        """Where it is, in pixels of the last picture."""
        back = self._onto.inverse()
        centre, size = back.turn * self._centre + back.shift, abs(back.turn) / 2
        across, down = self._extent[0] * size, self._extent[1] * size
        box = (centre.real - across, centre.imag - down, centre.real + across, centre.imag + down)
        return Face(np.array(box, np.float32), self._score, back(self._shape).astype(np.float32))

    @property
    def expected(self) -> Similarity:
        """The last picture → crop pixels, as far as looks have told."""
        return self._correction.after(self._onto)

    @property
    def changed(self) -> float:
        """By how many crop pixels growing and turning seem to have moved its points since it was last detected."""
        return EXTENT * abs(cmath.log(self._onto.turn / self._looked))

    def move(self, luma: NDArray[np.uint8], frame: int, *, cut: bool) -> bool:
        """Follow it into the next picture; return whether it is there. Over a cut it must be where it was."""
        near, found = self._onto, None
        if not cut:
            near = near.after(self._before.inverse()).after(near)  # as it moved before
        if self._anchor is not None:
            found = self._anchor.find(luma, near)
        if found is None and not cut and (last := Anchor.of(self._luma, self._onto)) is not None:
            found = last.find(luma, near)  # it looks different from when it was detected, but not from just before
            self._anchor = last if found else self._anchor
        if found is not None and cut and not self._alike(luma, found[0]):
            found = None
        if found is None:
            return False
        before, (self._onto, self._correlation), self._luma = self._onto, found, luma
        self._before = self._onto if cut else before  # a cut is no movement that might go on
        self.path.append((frame, self._onto))
        return True

    def _alike(self, luma: NDArray[np.uint8], onto: Similarity) -> bool:
        """Return whether all of the face, not only what is followed, looks the same in another shot."""
        seen = appearance(luma, self._correction.after(onto).affine)
        return float(appearance(self._luma, self.expected.affine) @ seen) >= ALIKE

    def move_back(self, luma: NDArray[np.uint8], frame: int) -> bool:
        """Follow it into the picture before the first one that it is known in; return whether it is there."""
        found = None if self._anchor is None else self._anchor.find(luma, self.path[0][1])
        if found is not None:
            self.path.insert(0, (frame, found[0]))
        return found is not None

    def distance(self, face: Face) -> tuple[float, float]:
        """Return how far from where it is expected a detection is: crop pixels, degrees."""
        points = self.expected(face.points)
        away = Similarity.of(align.similarity(points))
        moved = np.linalg.norm(align.three_points(points).mean(axis=0) - align.TEMPLATE.mean(axis=0))
        return float(moved), abs(math.degrees(cmath.phase(away.turn)))

    def see(self, face: Face, noise: float, size: int = -1) -> None:
        """Take in a detection in the last picture, whose points may be so many crop pixels off. See `Look`."""
        points = self._onto(face.points)
        self._look = Look(points, noise, size)
        self._score = face.score
        self._recent = [*self._recent[1 - REMEMBERED :], points]
        self._shape = np.mean(self._recent, axis=0)
        self._correction = Similarity.of(align.similarity(self._shape))
        self.looks += 1
        self.misses = 0

    def looked(self, frame: int, luma: NDArray[np.uint8]) -> None:
        """Note when it was detected; follow its present looks where they have changed."""
        self.frame, self._looked = frame, self._onto.turn
        if self._correlation < REFRESH:
            self._anchor = Anchor.of(luma, self._onto) or self._anchor

    def recorded(self) -> Detection:
        """Return where it is and was since it was last recorded."""
        *path, (_, onto) = self.path
        look, self._look, self.path = self._look, None, []
        patch = appearance(self._luma, self.expected.affine)
        return Detection(self.face, patch, onto, self.number, look, tuple(path))
