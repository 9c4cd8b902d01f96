"""The Haar cascades that come with opencv-python: nothing to download, for faces that look into the camera.

A cascade returns windows, not points: up to a hundred on each eye, and a few more or fewer if a picture changes by a
grey level. OpenCV would merge them into one window of whole pixels. Here an eye is their mean, weighted by confidence,
and the face window is the mean of its windows, so that nearly the same pictures give nearly the same result.

The face window is steady, and people's eyes lie at nearly the same fraction of it. The eye windows follow the person,
but less steadily. The fewer there are, the closer an eye is placed to its mean position in the face window; the mouth
is derived from the eyes. All fractions below were measured against YuNet's points on 13 people (GRID, VoxCeleb2 and
others).
"""

from __future__ import annotations

from pathlib import Path

import cv2
import cv2.data
import numpy as np
from numpy.typing import NDArray

from avprep.faces import align
from avprep.faces.detectors.base import Bias, CloseUp, Face, Way

FACE_CASCADE = "haarcascade_frontalface_alt.xml"
"""The default and alt2 cascades are as fast, but have false positives."""

EYE_CASCADES = ("haarcascade_righteye_2splits.xml", "haarcascade_lefteye_2splits.xml")
"""For the eye on the image's left, then right: each was trained on one side of the person."""

MIN_FACE = 0.12
"""Minimum face to search, as a fraction of the frame's shorter side: the smallest faces take most of the time."""

QUICK_STEP, STEP = 1.25, 1.15
"""Ratio of successive face sizes: in the first search of whole pictures, and elsewhere."""
MIN_NEIGHBOURS, ALIKE = 4, 0.2
"""A face has more windows than the first number, within about the second of each other (fraction of their sides)."""
FRACTIONS = 16
"""OpenCV groups windows in integers: coordinates are multiplied by this to keep fractions of a pixel."""
SMALLEST = 20
"""Side of the face cascade's own window (pixels)."""

CLOSE_UP = CloseUp((136, 136), zoom=0.464, rise=5, tilt_shown=0.9, sure=16, better=1.5, way="lighter left", off=6)
"""The eyes are 36 px apart in it, so that the face window is 94 px wide. In it faces seldom score less than 18, rotated
faces and false positives at most 14."""
_SHOWN: tuple[tuple[float, Way], ...] = ((1.36, "darker left"), (1.6, "lighter left"))
LOOKS = tuple(
    CloseUp((round(136 * size), round(136 * size)), zoom=0.464 * size, rise=5 * size, tilt_shown=0.88, way=way)
    for size, way in _SHOWN
)
"""Alternating sizes and ways round: both ways for each would take twice as long and are hardly better. In smaller ones
eyes are missed, as they are searched in the enlarged face window."""
CLOSE_FACE, CLOSE_RANGE = 64, (0.8, 1.25)
"""Side of the face window in a close-up after it is shrunk for the search (pixels), and the range around it. Measured:
at 40 pixels windows come out larger, so that the distance between the eyes is a tenth too large."""

EYE_STEP, EYE_RANGE = 1.07, (0.185, 0.28)
"""Step and range of sizes of the eye windows, as fractions of the face window."""
EYE_LEAST, EYE_EXPECTED = -1.8, (5.0, 20.0)
"""A window's weight is the excess of its sum in the cascade's last stage over the first, about the minimum to pass. The
second is the weight of the eye's mean position, in a small and in a large face window. The windows of an eye together
have a median weight of 80 and 330."""

EYES = np.array([[0.309, 0.384], [0.691, 0.384]])
"""Mean positions of the eyes, in fractions of the face window."""

EYE_SEARCH = (np.array([0.05, 0.12, 0.53, 0.64]), np.array([0.47, 0.12, 0.95, 0.64]))
"""The area in which each eye is searched: x0 y0 x1 y1 in fractions of the face window. It is wide enough to include all
windows of an eye; cutting some off would pull their mean to the middle."""

EYE_WINDOW_OFFSET = np.array([[0.002, -0.033], [-0.002, -0.033]])
"""From an eye to the centre of its window (the brow is in it), in fractions of the face window."""

LARGE, FACE_SIDES = 110, (128, 216)
"""The face window is resized before the eyes are searched: to the first side if it is small, to the second if it has at
least LARGE pixels, as in `looks`. At the second, all of EYE_RANGE is at least twice the 20 pixels of a cascade's own
window. Below that, OpenCV skips every second position across and down: with a quarter of the windows, a shift by a
hundredth of a pixel moves their mean twice as far, but a close-up takes 7 ms instead of 13."""

WINDOW_SIDE = float((align.TEMPLATE[1, 0] - align.TEMPLATE[0, 0]) / (EYES[1, 0] - EYES[0, 0]))
"""Side of the face window in a crop (pixels): the distance between the eyes over its fraction of the window."""

MOUTH_DROP = 1.07
"""Distance from the eyes' midpoint to that of the mouth corners, perpendicular to the line of the eyes, in units of the
distance between the eyes."""

MOUTH_WIDTH = 0.86
"""Distance between the mouth corners, in units of the distance between the eyes."""


class OpenCVDetector:
    """Finds frontal faces with opencv-python 4.x alone; the nose is NaN.

    The score is the number of windows that agree on the face, at least 4.
    picture_side: at 128 a frame takes about 6 ms on one core.
    """

    batch_size = 1
    close_up: CloseUp | None = CLOSE_UP
    looks = LOOKS
    bias = Bias(scale=1.075, down=1.9)

    def __init__(self, *, picture_side: int = 128) -> None:
        self.picture_side = picture_side
        self.search_sides: tuple[int, ...] = (picture_side, 2 * picture_side)
        self._face = _cascade(FACE_CASCADE)
        self._eyes = [_cascade(name) for name in EYE_CASCADES]

    def detect(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        """Find the faces of each frame; see `avprep.faces.detectors.base.Detector`."""
        return [self._detect_one(_grey(frame)) for frame in frames]

    def detect_close(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        """Find the face of each close-up, at approximately the expected size."""
        return [self._detect_one_close(_grey(frame)) for frame in frames]

    def _detect_one(self, grey: NDArray[np.uint8]) -> list[Face]:
        least = max(round(MIN_FACE * min(grey.shape)), SMALLEST)
        quick = max(grey.shape) <= self.picture_side  # the eyes are found later, in close-ups
        return self._faces(grey, grey, QUICK_STEP if quick else STEP, least, 0, eyes=not quick)

    def _detect_one_close(self, grey: NDArray[np.uint8]) -> list[Face]:
        shrink = CLOSE_FACE / (WINDOW_SIDE * CLOSE_UP.zoom)
        small = cv2.resize(grey, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        expected = CLOSE_FACE * grey.shape[1] / CLOSE_UP.size[0]
        least, most = (round(expected * share) for share in CLOSE_RANGE)
        return self._faces(grey, np.asarray(small, np.uint8), STEP, least, most)

    def _faces(
        self,
        grey: NDArray[np.uint8],
        searched: NDArray[np.uint8],
        step: float,
        least: int,
        most: int,
        *,
        eyes: bool = True,
    ) -> list[Face]:
        """Find faces of `least` to `most` pixels, 0 for any, in a picture or its shrunk copy; place their points.

        eyes: whether the eyes are searched; otherwise they get their mean positions.
        """
        each = self._face.detectMultiScale(
            searched, scaleFactor=step, minNeighbors=0, minSize=(least, least), maxSize=(most, most)
        )
        finer = (np.asarray(each, np.intc).reshape(-1, 4) * FRACTIONS).tolist()
        windows, counts = cv2.groupRectangles(finer, MIN_NEIGHBOURS, ALIKE)
        scale = grey.shape[0] / searched.shape[0] / FRACTIONS
        found = sorted(zip(np.ravel(counts).tolist(), windows, strict=True), key=lambda face: -face[0])
        return [self._face_in(grey, np.asarray(window, float) * scale, float(count), eyes) for count, window in found]

    def _face_in(self, grey: NDArray[np.uint8], window: NDArray[np.float64], score: float, search: bool) -> Face:
        """Place the points in one face window: x y width height, pixels."""
        origin, size = window[:2], window[2:]
        large = bool(size[0] >= LARGE)
        placed = self._eyes_in(_cut(grey, window, FACE_SIDES[large]), EYE_EXPECTED[large]) if search else EYES
        eyes = origin + size * placed
        mouth = _mouth(eyes)
        points = np.stack([*eyes, np.full(2, np.nan), *mouth])
        box = np.concatenate([origin, origin + size])
        return Face(box=box.astype(np.float32), score=score, points=points.astype(np.float32))

    def _eyes_in(self, face: NDArray[np.uint8], expected: float) -> NDArray[np.float64]:
        """Find both eyes in a square grey face; (2, 2), x y in fractions of its side.

        expected: the weight of their mean positions in the face window.
        """
        side = len(face)
        least, most = (round(side * share) for share in EYE_RANGE)
        eyes = EYES.copy()
        for eye, (cascade, area) in enumerate(zip(self._eyes, EYE_SEARCH, strict=True)):
            x0, y0, x1, y1 = np.rint(area * side).astype(int)
            found, _, sums = cascade.detectMultiScale3(
                face[y0:y1, x0:x1],
                scaleFactor=EYE_STEP,
                minNeighbors=0,
                minSize=(least, least),
                maxSize=(most, most),
                outputRejectLevels=True,
            )
            if len(found):
                windows = np.asarray(found, float)
                centres = (windows[:, :2] + windows[:, 2:] / 2 + (x0, y0)) / side - EYE_WINDOW_OFFSET[eye]
                weights = np.maximum(np.ravel(sums) - EYE_LEAST, 0)
                eyes[eye] = (expected * EYES[eye] + weights @ centres) / (expected + weights.sum())
        return eyes


build = OpenCVDetector


def _grey(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)


def _cascade(name: str) -> cv2.CascadeClassifier:
    cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / name))
    assert not cascade.empty(), f"opencv-python {cv2.__version__} ships no {name}"
    return cascade


def _cut(grey: NDArray[np.uint8], window: NDArray[np.float64], side: int) -> NDArray[np.uint8]:
    """Resize the square under a window to a side in pixels."""
    zoom = window[2] / side
    corner = window[:2] + 0.5 * zoom - 0.5  # pixel centres lie at +0.5 of the grid
    face: NDArray[np.uint8] = cv2.warpAffine(
        grey,
        np.array([[zoom, 0, corner[0]], [0, zoom, corner[1]]]),
        (side, side),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    ).astype(np.uint8, copy=False)
    return face


def _mouth(eyes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the usual mouth corners, left then right, for two eyes: (2, 2) -> (2, 2)."""
    along = eyes[1] - eyes[0]
    down = np.array([-along[1], along[0]])
    middle = eyes.mean(axis=0) + MOUTH_DROP * down
    return np.stack([middle - MOUTH_WIDTH / 2 * along, middle + MOUTH_WIDTH / 2 * along])
