"""Mouth landmarks in aligned crops, real or generated; each frame is detected independently."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep.errors import AvprepError
from avprep.faces import align, landmarks
from avprep.faces.detectors.base import LEFT_MOUTH, RIGHT_MOUTH, Detector, LandmarkDetector, finite
from avprep.schema import CROP_SIZE

CORNERS = slice(LEFT_MOUTH, RIGHT_MOUTH + 1)
"""The mouth corners among the five points: left, then right."""


def mouth_landmarks(frames: NDArray[np.uint8], detector: Detector, name: str) -> tuple[NDArray[np.float32], str]:
    """Find the mouth in each crop; of several faces, that of the face nearest to its place in a crop.

    frames: uint8 (N, 256, 256, 3), RGB, aligned crops.
    detector, name: a detector and its name on the command line.
    Returns float32 (N, L, 2), x y in pixels of the crop, NaN if no face was found; and a description of the points. L
    is 20 if the detector places landmarks (48 … 67 of 300-W), else 2: the corners of the mouth, left one first.

    Raises AvprepError for opencv, which does not detect mouths: it places them at their usual position below the eyes.
    """
    if name == "opencv":
        raise AvprepError("the detector opencv does not see mouths: choose yunet or face-alignment")
    if isinstance(detector, LandmarkDetector):
        mouths = landmarks.in_crops(frames, detector)[:, landmarks.MOUTH]
        return mouths, f"{mouths.shape[1]} landmarks of the mouth by {name}"
    # YuNet was trained on smaller faces than crops show. With each mouth centred, its corners lie 3.0 pixels from
    # those in the source picture if crops are detected at full size, and 1.8 at its picture_side (GRID and VoxCeleb2).
    side = min(detector.picture_side, CROP_SIZE)
    if side < CROP_SIZE and len(frames):
        frames = np.stack([_resized(frame, side) for frame in frames])
    found = [finite(faces) for faces in detector.detect(frames)]
    zoom = CROP_SIZE / side
    mouths = np.full((len(frames), 2, 2), np.nan, np.float32)
    for mouth, faces in zip(mouths, found, strict=True):
        if faces:
            nearest = min((align.zoomed(face.points, np.float32(zoom)) for face in faces), key=align.off_template)
            mouth[:] = nearest[CORNERS]
    return mouths, f"both corners of the mouth by {name}"


def _resized(frame: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
