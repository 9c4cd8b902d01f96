"""What a detector is shown of a picture, and its answers mapped back: shrunk pictures, turned ones, close-ups.

A network's points depend on where its grid falls on the face and on how large the face is. So a face that was found in
the whole picture is detected again close up, upright and at one size. Points are always in pixels of the picture.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep.faces import align
from avprep.faces.detectors.base import Detector, Face, finite
from avprep.media.picture import Picture
from avprep.schema import CROP_SIZE

CLOSE_UPS = 8
"""Maximum close-ups of one face in one frame."""
DRIFT, TILT = 12.0, 0.7
"""A face further than this from where its close-up expects it (crop pixels, degrees) gets another close-up."""
_TURNED = (1, 1j, -1, -1j)  # what takes a point by 0 … 3 quarter turns, clockwise as y points down


class Keyframe:
    """A picture in which faces are detected, converted once however many faces there are."""

    def __init__(self, frame: int, picture: Picture) -> None:
        self.frame, self.picture = frame, picture

    @cached_property
    def rgba(self) -> NDArray[np.uint8]:
        """See `Picture`."""
        return self.picture.rgba()

    @cached_property
    def luma(self) -> NDArray[np.uint8]:
        """See `Picture`."""
        return self.picture.luma()


class CloseUps:
    """Detects faces close up.

    expected: float64 (3, 2), where eyes and mouth centre of a face lie in a close-up.
    sure, better: see `avprep.faces.detectors.base.CloseUp`.
    """

    def __init__(self, detector: Detector) -> None:
        close_up = detector.close_up
        assert close_up is not None
        self._detector = detector
        self._size, self._zoom, self._tilt_shown = close_up.size, close_up.zoom, close_up.tilt_shown
        self.sure, self.better = close_up.sure, close_up.better
        shift = (np.array(self._size) - 1) / 2 - self._zoom * (CROP_SIZE - 1) / 2 - np.array([0, close_up.rise])
        self.expected = align.TEMPLATE * self._zoom + shift
        self._middle = self.expected.mean(axis=0)
        self._eyes = math.dist(self.expected[0], self.expected[1])

    def detect(self, keyframe: Keyframe, face: Face) -> Face | None:
        """Detect a face upright and at one size; None where it is not there.

        A close-up shows only part of a head's tilt, so the next one is turned by more.
        """
        image = keyframe.rgba
        onto, settled = align.similarity(face.points, self.expected), None
        for _ in range(CLOSE_UPS):
            if not np.isfinite(onto).all():
                return None
            patch = cv2.cvtColor(align.warp(image, onto, self._size), cv2.COLOR_RGBA2RGB)
            nearest = self._nearest(finite(self._detector.detect_close(np.asarray(patch, np.uint8)[None])[0]))
            if nearest is None:
                return settled
            face = _from_close_up(nearest, onto)
            moved = np.linalg.norm(align.three_points(nearest.points) - self.expected, axis=1).mean() / self._zoom
            right = align.similarity(nearest.points, self.expected)
            turned = math.atan2(right[1, 0], right[0, 0])
            if moved <= DRIFT:
                settled = face
                if abs(math.degrees(turned)) <= TILT:
                    break
            onto = align.chained(_turn((1 / self._tilt_shown - 1) * turned, self._middle), align.chained(right, onto))
        return face

    def _nearest(self, faces: list[Face]) -> Face | None:
        """Return the face nearest to where it is expected, of about the right size."""
        best, least = None, 1.5 * self._eyes
        for face in faces:
            three = align.three_points(face.points)
            distance = math.dist(three.sum(axis=0) / 3, self._middle)
            if 0.5 < math.dist(three[0], three[1]) / self._eyes < 2 and distance < least:
                best, least = face, distance
        return best


def settle(picture: Picture, face: Face, detector: Detector) -> Face | None:
    """Detect a face close up again and again, as in a clip that shows one picture for long, and take the mean.

    face: where it was found, in pixels of the picture; so is what is returned, None where no close-up shows it.
    """
    close_ups, keyframe = CloseUps(detector), Keyframe(0, picture)
    found: list[Face] = []
    for _ in range(CLOSE_UPS):
        close = close_ups.detect(keyframe, found[-1] if found else face)
        if close is None:
            break
        found.append(close)
    if not found:
        return None
    settled = found[2:] or found[-1:]  # the first close-ups are still drawn to where the face was found
    box, points = (np.mean([getattr(one, name) for one in settled], axis=0) for name in ("box", "points"))
    return Face(box.astype(np.float32), found[-1].score, points.astype(np.float32))


def from_shrunk(face: Face, picture: Picture, small: NDArray[np.uint8]) -> Face:
    """Map a face from a picture's shrunk copy to the picture; pixel centres lie at +0.5."""
    ratio = np.array(picture.size) / (small.shape[1], small.shape[0])
    points = (face.points + 0.5) * ratio - 0.5
    return Face((face.box * np.tile(ratio, 2)).astype(np.float32), face.score, points.astype(np.float32))


def detect_turned(detector: Detector, image: NDArray[np.uint8], turns: int) -> list[Face]:
    """Detect in a picture turned by quarter turns counter-clockwise; return faces in pixels of the unturned one."""
    shown = np.ascontiguousarray(np.rot90(image, turns))
    faces = finite(detector.detect(shown[None])[0])
    if not turns:
        return faces
    middle, middle_shown = (np.array([each.shape[1] - 1, each.shape[0] - 1]) / 2 for each in (image, shown))
    return [turned_face(face, turns, middle_shown, middle) for face in faces]


def turned_face(face: Face, turns: int, middle: NDArray[Any], to: NDArray[Any]) -> Face:
    """Turn a face clockwise by quarter turns about a point (2,), and move that point to another."""
    points = np.concatenate([face.points, face.box.reshape(2, 2)]) - middle
    turned = np.ascontiguousarray(points, np.float64).view(np.complex128) * _TURNED[turns]
    placed = (turned.view(np.float64) + to).astype(np.float32)
    box = np.concatenate([placed[5:].min(axis=0), placed[5:].max(axis=0)])
    return Face(box, face.score, placed[:5])


def turns_upright(face: Face) -> int:
    """Return the counter-clockwise quarter turns that make a face upright, to the nearest."""
    affine = align.similarity(face.points)
    return round(-math.atan2(affine[1, 0], affine[0, 0]) / (math.pi / 2)) % 4


def _from_close_up(face: Face, matrix: NDArray[np.float64]) -> Face:
    """Map a face from its close-up to the picture; the box's sides stay along the picture's.

    matrix: (2, 3), picture → close-up pixels.
    """
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.asarray(face.box, np.float64).reshape(2, 2)
    centre = align.apply(inverse, corners.mean(axis=0, keepdims=True))[0]
    half = (corners[1] - corners[0]) / 2 * align.scale(inverse)
    if abs(matrix[1, 0]) > abs(matrix[0, 0]):  # a face on its side
        half = half[::-1]
    box = np.concatenate([centre - half, centre + half]).astype(np.float32)
    return Face(box, face.score, align.apply(inverse, face.points).astype(np.float32))


def _turn(angle: float, about: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the turn by an angle (radians) about a point (2,), as a transform (2, 3)."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.column_stack([turn, about - turn @ about])
