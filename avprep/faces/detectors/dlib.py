"""dlib's regression trees for the 68 landmarks of 300-W, on faces found by YuNet or, without it, the Haar cascades.

Kazemi and Sullivan, "One Millisecond Face Alignment with an Ensemble of Regression Trees", 2014. The trees start from
the mean face in a given square and do not rotate it. So they get each face upright and at one size: aligned first by
the other detector's points, then by their own.
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
"""Pixels of the trees' input per crop pixel: their results are in whole pixels."""
SHOWN = (align.TEMPLATE + 0.5) * ZOOM - 0.5
"""Positions of eyes and mouth centre in the trees' input."""
SQUARE_MIDDLE, SQUARE_SIDE = (128, 150), 182
"""The square in which the mean face is placed (crop pixels). Measured on crops of 22 clips: here the points change
least, by .4 pixels, if the square moves by 5 pixels or grows by 6 %. With a side of 145, or 10 pixels lower or higher,
single faces come out wrong."""
PASSES = 2
"""With a second pass, points differ by .2° rms between an upright head and one tilted by 25°; with one pass by .5°."""
ALIGNED = 12.0
"""Maximum mean distance of eyes and mouth from the template for a face that counts as aligned (crop pixels), for either
detector."""
CLOSER = 2
"""Zoom of a close-up relative to the other detector's, which gets it shrunk."""


class DlibDetector:
    """Finds faces with YuNet or the Haar cascades, and 68 landmarks on each face.

    The score is that of YuNet or the cascades.
    boxes: the detector that finds the faces; by default YuNet if its weights are there, else the Haar cascades.
    """

    batch_size = 1
    bias = Bias(scale=1.035, down=2.7)
    """Measured on the DAVS authors' own aligned pictures; means over five sizes and the mirror image: scale 1.025 to
    1.047, down 0.8 to 4.0."""

    def __init__(self, boxes: Detector | None = None) -> None:
        self._boxes = boxes or detectors.build(box_detector())
        self.picture_side = self._boxes.picture_side
        self.search_sides = self._boxes.search_sides
        self._predictor, self._square = _predictor(), _square()
        self._in_crop = align.template(self.bias)[[0, 1, 2, 2, 2]]  # five points, of which the three matter

    @property
    def close_up(self) -> CloseUp:
        """The other detector's close-up, larger and both ways round; the landmarks show all of a head's tilt."""
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

        For an aligned face one pass is enough; it starts from the same points in every crop.
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
        """Return the faces with the five points computed from their landmarks."""
        grey = _grey(frame)
        placed = [(face, self._place(grey, face.points, PASSES)) for face in finite(found)]
        return [Face(face.box, face.score, five_points(landmarks)) for face, landmarks in placed]

    def _place(self, grey: NDArray[np.uint8], points: NDArray[Any], passes: int) -> NDArray[np.float32]:
        """Place the landmarks of a face, float32 (68, 2), given the approximate positions of its five points."""
        landmarks = np.full((N_LANDMARKS, 2), np.nan, np.float32)
        for _ in range(passes):
            onto = align.similarity(points, SHOWN)
            if not np.isfinite(onto).all():  # the points coincide
                return np.full_like(landmarks, np.nan)
            shown = align.warp(grey, onto, (ZOOM * CROP_SIZE, ZOOM * CROP_SIZE))
            parts = self._predictor(shown, self._square).parts()
            placed = align.apply(cv2.invertAffineTransform(onto), np.array([(part.x, part.y) for part in parts]))
            landmarks = placed.astype(np.float32)
            points = five_points(landmarks)
        return landmarks


build = DlibDetector


def box_detector() -> str:
    """Return the detector that finds the faces on this machine; WeightsError if YuNet's weights are damaged."""
    if not weights.available("yunet"):
        return "opencv"
    weights.require("yunet")
    return "yunet"


def identity() -> dict[str, str]:
    """Return the name of the detector that finds the faces, and what decides its output."""
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
    """Return the face in a picture that is `zoom` times as large."""
    points = align.zoomed(face.points, np.float32(zoom)).astype(np.float32)
    return Face((face.box * np.float32(zoom)).astype(np.float32), face.score, points)
