"""The 68 landmarks of 300-W: their numbers, and where they lie in aligned crops.

Sagonas et al., "300 Faces in-the-Wild Challenge", 2013. Counted from 0: 0–16 run along the jaw, 17–26 along the brows,
27–35 down the nose, 36–47 around the eyes, 48–59 around the lips' outer edge and 60–67 around the inner one, each from
the image's left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from avprep.faces import align
from avprep.faces.detectors.base import LandmarkDetector
from avprep.schema import N_LANDMARKS

MOUTH = slice(48, 68)

# fmt: off
MIRRORED = (
    16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0,     # jaw
    26, 25, 24, 23, 22, 21, 20, 19, 18, 17,                       # brows
    27, 28, 29, 30, 35, 34, 33, 32, 31,                           # nose
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,               # eyes
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55,               # outer edge of the lips
    64, 63, 62, 61, 60, 67, 66, 65,                               # inner edge
)
# fmt: on
"""For each landmark of a picture, the number of the same landmark in the mirrored picture."""


def five_points(landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Reduce the 68 landmarks (68, 2) to the five points (5, 2); an eye is the mean of its six landmarks."""
    eyes = [landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)]
    return np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]]).astype(np.float32)


def in_crops(crops: NDArray[np.uint8], detector: LandmarkDetector) -> NDArray[np.float32]:
    """Find the landmarks in each crop; of several faces, those of the face nearest to its place in a crop.

    crops: uint8 (N, 256, 256, 3), RGB.
    Returns float32 (N, 68, 2), x y in pixels of the crop; NaN if no face was found.
    """
    placed = np.full((len(crops), N_LANDMARKS, 2), np.nan, np.float32)
    found = detector.landmarks(crops) if len(crops) else []
    for into, faces in zip(placed, found, strict=True):
        faces = [face for face in faces if np.isfinite(face).all()]
        if faces:
            into[:] = min(faces, key=lambda face: align.off_template(five_points(face)))
    return placed


class Landmarks:
    """Finds the landmarks of crops that arrive one by one, in batches of the detector's size."""

    def __init__(self, detector: LandmarkDetector) -> None:
        self._detector = detector
        self._waiting: list[NDArray[np.uint8]] = []
        self._placed: list[NDArray[np.float32]] = []

    def add(self, crop: NDArray[np.uint8]) -> None:
        """Add a crop, uint8 (256, 256, 3 or 4), RGB or RGBA."""
        self._waiting.append(np.ascontiguousarray(crop[..., :3]))
        if len(self._waiting) >= self._detector.batch_size:
            self._find()

    def finish(self) -> NDArray[np.float32]:
        """Return the landmarks of all crops; see `in_crops`."""
        self._find()
        return np.concatenate(self._placed)

    def _find(self) -> None:
        if self._waiting:
            self._placed.append(in_crops(np.stack(self._waiting), self._detector))
            self._waiting = []
