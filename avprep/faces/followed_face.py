"""A face that is being followed: its position by registration, and the results of detecting it."""

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
"""A detected face gets a new anchor if its correlation with the present one is lower."""
REMEMBERED = 6
"""Recent detections from which the expected position for the next one is computed."""


class FollowedFace:
    """A face that is being followed from frame to frame.

    Its frame of reference is approximately its crop: registration maps each picture to it, whatever the face does. The
    positions of eyes and mouth within it come from detections.

    luma, in all methods: the grey levels of a picture, uint8 (H, W).
    number: identifies the face. frame: when it was last detected. looks: how often it was detected.
    path: picture → its frame of reference, for each frame since it was last recorded.
    """

    def __init__(self, number: int, face: Face, frame: int, luma: NDArray[np.uint8]) -> None:
        self.number, self.frame, self.looks, self.misses = number, frame, 0, 0
        self._look: Look | None = None
        self._recent: list[NDArray[np.float64]] = []
        self.begin(face, luma)

    def begin(self, face: Face, luma: NDArray[np.uint8]) -> None:
        """Start from a face's box and points, in pixels of the picture in which it was last detected."""
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
        """The face, in pixels of the last picture."""
        back = self._onto.inverse()
        centre, size = back.turn * self._centre + back.shift, abs(back.turn) / 2
        across, down = self._extent[0] * size, self._extent[1] * size
        box = (centre.real - across, centre.imag - down, centre.real + across, centre.imag + down)
        return Face(np.array(box, np.float32), self._score, back(self._shape).astype(np.float32))

    @property
    def expected(self) -> Similarity:
        """The last picture → crop pixels, estimated from recent detections."""
        return self._correction.after(self._onto)

    @property
    def changed(self) -> float:
        """Apparent movement of its points by scaling and rotation since it was last detected, in crop pixels."""
        return EXTENT * abs(cmath.log(self._onto.turn / self._looked))

    def move(self, luma: NDArray[np.uint8], frame: int, *, cut: bool) -> bool:
        """Follow the face into the next picture; return whether it is there. Across a cut it must not have moved."""
        near, found = self._onto, None
        if not cut:
            near = near.after(self._before.inverse()).after(near)  # assume the same motion as before
        if self._anchor is not None:
            found = self._anchor.find(luma, near)
        if found is None and not cut and (last := Anchor.of(self._luma, self._onto)) is not None:
            found = last.find(luma, near)  # it differs from when it was detected, but not from the last picture
            self._anchor = last if found else self._anchor
        if found is not None and cut and not self._alike(luma, found[0]):
            found = None
        if found is None:
            return False
        before, (self._onto, self._correlation), self._luma = self._onto, found, luma
        self._before = self._onto if cut else before  # a cut is not a motion that could continue
        self.path.append((frame, self._onto))
        return True

    def _alike(self, luma: NDArray[np.uint8], onto: Similarity) -> bool:
        """Return whether the whole face, not only the followed region, looks the same in another shot."""
        seen = appearance(luma, self._correction.after(onto).affine)
        return float(appearance(self._luma, self.expected.affine) @ seen) >= ALIKE

    def move_back(self, luma: NDArray[np.uint8], frame: int) -> bool:
        """Follow the face into the picture before the first one in `path`; return whether it is there."""
        found = None if self._anchor is None else self._anchor.find(luma, self.path[0][1])
        if found is not None:
            self.path.insert(0, (frame, found[0]))
        return found is not None

    def distance(self, face: Face) -> tuple[float, float]:
        """Return the distance of a detection from the expected position (crop pixels) and angle (degrees)."""
        points = self.expected(face.points)
        away = Similarity.of(align.similarity(points))
        moved = np.linalg.norm(align.three_points(points).mean(axis=0) - align.TEMPLATE.mean(axis=0))
        return float(moved), abs(math.degrees(cmath.phase(away.turn)))

    def see(self, face: Face, noise: float, size: int = -1) -> None:
        """Add a detection in the last picture; noise: standard deviation of its points, crop pixels. See `Look`."""
        points = self._onto(face.points)
        self._look = Look(points, noise, size)
        self._score = face.score
        self._recent = [*self._recent[1 - REMEMBERED :], points]
        self._shape = np.mean(self._recent, axis=0)
        self._correction = Similarity.of(align.similarity(self._shape))
        self.looks += 1
        self.misses = 0

    def looked(self, frame: int, luma: NDArray[np.uint8]) -> None:
        """Record that the face was detected in this frame; renew the anchor if its appearance has changed."""
        self.frame, self._looked = frame, self._onto.turn
        if self._correlation < REFRESH:
            self._anchor = Anchor.of(luma, self._onto) or self._anchor

    def recorded(self) -> Detection:
        """Return its present position and its path since it was last recorded."""
        *path, (_, onto) = self.path
        look, self._look, self.path = self._look, None, []
        patch = appearance(self._luma, self.expected.affine)
        return Detection(self.face, patch, onto, self.number, look, tuple(path))
