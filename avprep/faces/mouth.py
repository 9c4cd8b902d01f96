"""Landmarks of the mouth in aligned crops, real or generated: detected in each frame anew."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep.errors import AvprepError
from avprep.faces import align
from avprep.faces.detectors.base import LEFT_MOUTH, RIGHT_MOUTH, Detector, finite
from avprep.schema import CROP_SIZE

CORNERS = slice(LEFT_MOUTH, RIGHT_MOUTH + 1)
"""Of the five points, the left corner of the mouth, then the right one."""
MOUTH = slice(48, 68)
"""Of the 68 landmarks of 300-W: twelve around the lips' outer edge, eight around the inner one."""


def mouth_landmarks(frames: NDArray[np.uint8], detector: Detector, name: str) -> tuple[NDArray[np.float32], str]:
    """Find the mouth in each crop: of several faces, that of the one nearest to where `avprep.faces.align` puts faces.

    frames: uint8 (N, 256, 256, 3), RGB, aligned crops.
    detector, name: a detector and what the command line calls it.
    Returns float32 (N, L, 2), x y in pixels of the crop, NaN where no face was found, and what they are, in words. L is
    20 for face-alignment, landmarks 48 … 67 of 300-W, and 2 for others, the corners of the mouth, left one first.

    Raises AvprepError for opencv, which sees no mouths: it puts them where they usually lie below the eyes.
    """
    if name == "opencv":
        raise AvprepError("the detector opencv does not see mouths: choose yunet or face-alignment")
    # YuNet was trained on smaller faces than crops show: at full size its mouth corners lie 3.0 pixels, each mouth
    # centred, from those in the source picture, and 1.8 at its picture_side (GRID and VoxCeleb2).
    side = min(detector.picture_side, CROP_SIZE)
    if side < CROP_SIZE and len(frames):
        frames = np.stack([_resized(frame, side) for frame in frames])
    if name == "face-alignment":
        # Here, since it loads torch.
        from avprep.faces.detectors.face_alignment import FaceAlignmentDetector, five_points

        assert isinstance(detector, FaceAlignmentDetector), detector
        found = [[(five_points(face), face[MOUTH]) for face in faces] for faces in detector.landmarks(frames)]
        n_landmarks, description = MOUTH.stop - MOUTH.start, "20 landmarks of the mouth by face-alignment"
    else:
        found = [[(face.points, face.points[CORNERS]) for face in finite(faces)] for faces in detector.detect(frames)]
        n_landmarks, description = 2, f"both corners of the mouth by {name}"
    zoom = CROP_SIZE / side
    mouths = np.full((len(frames), n_landmarks, 2), np.nan, np.float32)
    for mouth, faces in zip(mouths, found, strict=True):
        if faces:
            _, nearest = min(faces, key=lambda face: _distance_from_template(_zoomed(face[0], zoom)))
            mouth[:] = _zoomed(nearest, zoom)
    return mouths, description


def _distance_from_template(points: NDArray[np.float32]) -> float:
    """Return how far eyes and mouth of five points (5, 2) lie from their places in a crop: pixels, on average."""
    return float(np.linalg.norm(align.three_points(points) - align.TEMPLATE, axis=-1).mean())


def _resized(frame: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def _zoomed(points: NDArray[np.float32], zoom: float) -> NDArray[np.float32]:
    """Return where points lie in a picture so many times as large; pixel centres lie at +0.5 of the grid."""
    return (points + 0.5) * np.float32(zoom) - 0.5
