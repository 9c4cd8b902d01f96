"""dlib's regression trees for the 68 landmarks of 300-W, on faces that YuNet finds, or the Haar cascades without it.

Kazemi and Sullivan, "One Millisecond Face Alignment with an Ensemble of Regression Trees", 2014. The trees start from
the mean face in a given square and do not turn it, so they are shown each face upright and at one size: first as the
other detector's points have it, then as their own do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep.errors import WeightsError
from avprep.faces import align, detectors, weights
from avprep.faces.detectors.base import OFF, Bias, CloseUp, Detector, Face, finite
from avprep.faces.landmarks import five_points
from avprep.schema import CROP_SIZE, N_LANDMARKS

if TYPE_CHECKING:
    import dlib

PACKAGES = {"dlib-bin": "dlib", "face_recognition_models": "face_recognition_models"}
EXTRA = "dlib"
NOTICE = "the landmark weights of dlib were trained on iBUG 300-W, whose licence excludes commercial use"
WEIGHTS = (
    weights.WeightsFile(
        name="dlib-68",
        detector="dlib",
        file="shape_predictor_68_face_landmarks.dat",
        url="",
        sha256="fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
        size=99_693_937,
        licence="CC0 by their maker; trained on iBUG 300-W, whose licence excludes commercial use",
        source="https://github.com/davisking/dlib-models",
        package="face_recognition_models/models",
    ),
)

ZOOM = 2
"""Pixels of what the trees are shown per crop pixel: they answer in whole pixels."""
SHOWN = (align.TEMPLATE + 0.5) * ZOOM - 0.5
"""Where eyes and mouth centre are in it."""
SQUARE_MIDDLE, SQUARE_SIDE = (128, 150), 182
"""The square that the mean face is put in (crop pixels). Measured on crops of 22 clips: here the points follow least
where the square is moved by 5 pixels or grows by 6 %: .4 pixels; where its side is 145, or it lies 10 pixels lower or
higher, single faces come out wrong."""
PASSES = 2
"""With a second one, points differ by .2° rms whether a head is upright or tilted by 25°; with one by .5°."""
ALIGNED = 12.0
"""Eyes and mouth of a face in a crop lie so near to their places (crop pixels, on average), whatever finds them."""
CLOSER = 2
"""A close-up has so many times the pixels of the other detector's, which sees it shrunk."""


class DlibDetector:
    """Finds what YuNet or the Haar cascades find, and 68 landmarks on each face.

    Its score is theirs.
    boxes: the detector that finds the faces; by default YuNet where its weights are, else the Haar cascades.
    """

    batch_size = 1
    bias = Bias(scale=1.035, down=2.7)
    """Measured on the DAVS authors' own aligned pictures, as means over five sizes and the mirror image: scale 1.025 to
    1.047, down 0.8 to 4.0."""

    def __init__(self, boxes: Detector | None = None) -> None:
        self._boxes = boxes or detectors.build(box_detector())
        self.picture_side = self._boxes.picture_side
        self.search_sides = self._boxes.search_sides
        self._predictor, self._square = _predictor(), _square()
        self._in_crop = align.template(self.bias)[[0, 1, 2, 2, 2]]  # five points, of which the three matter

    @property
    def close_up(self) -> CloseUp:
        """The other detector's, larger and shown both ways round; the landmarks show all of a head's tilt."""
        close_up = self._boxes.close_up
        assert close_up is not None
        width, height = close_up.size
        size, zoom, rise = (CLOSER * width, CLOSER * height), CLOSER * close_up.zoom, CLOSER * close_up.rise
        return replace(close_up, size=size, zoom=zoom, rise=rise, tilt_shown=1.0, way="both", off=OFF)

    def detect(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        """Find the faces of each frame; see `avprep.faces.detectors.base.Detector`."""
        return [self._faces(*pair) for pair in zip(frames, self._boxes.detect(frames), strict=True)]

    def detect_close(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        """Do the same in close-ups."""
        found = self._boxes.detect_close(np.stack([_resized(frame, 1 / CLOSER) for frame in frames]))
        larger = [[_enlarged(face, CLOSER) for face in faces] for faces in found]
        return [self._faces(*pair) for pair in zip(frames, larger, strict=True)]

    def landmarks(self, crops: NDArray[np.uint8]) -> list[list[NDArray[np.float32]]]:
        """Find the landmarks of each face; see `avprep.faces.detectors.base.LandmarkDetector`.

        Where a face is in its place, one pass does, which begins from the same points in every crop.
        """
        zoom = self.close_up.zoom / CLOSER
        found = self._boxes.detect_close(np.stack([_resized(crop, zoom) for crop in crops]))
        placed: list[list[NDArray[np.float32]]] = []
        for crop, faces in zip(crops, found, strict=True):
            grey = _grey(crop)
            points = [_enlarged(face, 1 / zoom).points for face in finite(faces)]
            aligned = [align.off_template(face) <= ALIGNED for face in points]
            placed.append(
                [
                    self._place(grey, self._in_crop if here else face, 1 if here else PASSES)
                    for face, here in zip(points, aligned, strict=True)
                ]
            )
        return placed

    def _faces(self, frame: NDArray[np.uint8], found: list[Face]) -> list[Face]:
        """Return faces with the points that the landmarks give."""
        grey = _grey(frame)
        placed = [(face, self._place(grey, face.points, PASSES)) for face in finite(found)]
        return [Face(face.box, face.score, five_points(landmarks)) for face, landmarks in placed]

    def _place(self, grey: NDArray[np.uint8], points: NDArray[Any], passes: int) -> NDArray[np.float32]:
        """Place the landmarks of a face, float32 (68, 2), that has its five points at about `points`."""
        landmarks = np.full((N_LANDMARKS, 2), np.nan, np.float32)
        for _ in range(passes):
            onto = align.similarity(points, SHOWN)
            if not np.isfinite(onto).all():  # the points fall together
                return np.full_like(landmarks, np.nan)
            shown = align.warp(grey, onto, (ZOOM * CROP_SIZE, ZOOM * CROP_SIZE))
            parts = self._predictor(shown, self._square).parts()
            placed = align.apply(cv2.invertAffineTransform(onto), np.array([(part.x, part.y) for part in parts]))
            landmarks = placed.astype(np.float32)
            points = five_points(landmarks)
        return landmarks


build = DlibDetector


def box_detector() -> str:
    """Return the detector that finds the faces on this machine; WeightsError where YuNet's weights are damaged."""
    if not weights.available("yunet"):
        return "opencv"
    weights.require("yunet")
    return "yunet"


def identity() -> dict[str, str]:
    """Return which detector finds the faces, and what decides its output."""
    name = box_detector()
    return {"boxes": name, **detectors.identity(name)}


def _predictor() -> dlib.shape_predictor:
    import dlib

    path = weights.find("dlib-68")
    try:
        return dlib.shape_predictor(str(path))
    except RuntimeError as error:
        raise WeightsError(f"{path}: dlib cannot load it ({error})") from error


def _square() -> dlib.rectangle:
    import dlib

    x, y = ((middle - SQUARE_SIDE / 2) * ZOOM for middle in SQUARE_MIDDLE)
    side = SQUARE_SIDE * ZOOM
    return dlib.rectangle(round(x), round(y), round(x + side), round(y + side))


def _grey(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)


def _resized(frame: NDArray[np.uint8], zoom: float) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(frame, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA), np.uint8)


def _enlarged(face: Face, zoom: float) -> Face:
    """Return where a face lies in a picture so many times as large."""
    points = align.zoomed(face.points, np.float32(zoom)).astype(np.float32)
    return Face((face.box * np.float32(zoom)).astype(np.float32), face.score, points)
