"""The inputs that a detector gets from a picture, and its results mapped back: shrunk or rotated pictures, close-ups.

A network's points depend on the position of its grid on the face and on the size of the face. So a face that was found
in the whole picture is detected again close up, upright and at one size. Points are always in pixels of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep import boxes
from avprep.faces import align
from avprep.faces.detectors.base import MIRRORED, OFF, Bias, CloseUp, Detector, Face, Way, finite
from avprep.media.picture import Picture
from avprep.schema import CROP_SIZE

CLOSE_UPS = 8
"""Maximum close-ups of one face in one frame."""
DRIFT, TILT = 12.0, 2.0
"""A face further than this from its expected position in a close-up (crop pixels, degrees) gets another close-up."""
MOST_MISSING = math.radians(20)
"""If a detection misses more of a head's tilt, its tilt is not corrected."""
NOISE = 1.3
"""Standard deviation of a detection's points in crop pixels, for a detector that shows all of a head's tilt."""
SHRUNK = (1.0, 0.8)
"""Alternating sizes of whole pictures for a detector without close-ups, as fractions of its maximum longer side."""
_FACE = np.array([[52.0, 60], [208.0, 60], [52.0, 236], [208.0, 236]])  # corners of a typical face box, crop pixels
_MIDDLE = align.TEMPLATE.mean(axis=0)
_TURNED = (1, 1j, -1, -1j)  # factors for 0 … 3 quarter turns of a point, clockwise as y points down


class Keyframe:
    """A picture in which faces are detected; it is converted once for all faces."""

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

    sure, better, off: see `avprep.faces.detectors.base.CloseUp`.
    """

    def __init__(self, detector: Detector) -> None:
        close_up = detector.close_up
        assert close_up is not None
        self._finding = _View(detector, close_up)
        self._looks = [_View(detector, size) for size in looks(detector)]
        self._bias = bias(detector)
        self.sizes = len(self._looks)
        self.sure, self.better, self.off = close_up.sure, close_up.better, close_up.off

    def find(self, keyframe: Keyframe, face: Face) -> Face | None:
        """Detect a face upright and at one size; None if it is not there.

        A detector may show only part of a head's tilt, so the next close-up is rotated by more.
        """
        onto, settled = align.similarity(face.points), None
        for _ in range(CLOSE_UPS):
            if not np.isfinite(onto).all():
                return None
            seen = self._finding.seen(keyframe.rgba, onto)
            if seen is None:
                return settled
            face = moved(seen, _inverse(onto))
            right = align.similarity(seen.points)
            turned = _angle(right)
            if align.off_template(seen.points) <= DRIFT:
                settled = face
                if abs(math.degrees(turned)) <= TILT:
                    break
            missing = (1 / self._finding.tilt_shown - 1) * turned
            onto = align.chained(_turn(missing, _MIDDLE), align.chained(right, onto))
        return face

    def look(self, keyframe: Keyframe, onto: NDArray[np.float64], number: int) -> tuple[Face, float, int] | None:
        """Detect a face at one of the detector's sizes; None if it is not there.

        onto: (2, 3), expected picture → crop pixels. number: detections before this one, as sizes alternate.
        Returns the face in pixels of the picture, the standard deviation of its points in crop pixels (approximate),
        and the number of the size.
        """
        view = self._looks[number % self.sizes]
        face = view.seen(keyframe.rgba, onto)
        if face is None:
            return None
        points = np.asarray(face.points, np.float64)
        missing = _angle(align.similarity(points)) * (1 / view.tilt_shown - 1)
        if abs(missing) < MOST_MISSING:
            points = align.apply(_turn(-missing, align.three_points(points).mean(axis=0)), points)
        face = Face(face.box, face.score, self._bias.corrected(points).astype(np.float32))
        return moved(face, _inverse(onto)), NOISE / view.tilt_shown, number % self.sizes


class WholePictures:
    """Detects faces again in whole pictures, for a detector not made for close-ups; otherwise as `CloseUps`."""

    sizes = len(SHRUNK)
    sure, better, off = 0.0, math.inf, OFF

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._bias = bias(detector)

    def find(self, keyframe: Keyframe, face: Face) -> Face | None:
        """Return the face that overlaps most with a known one; None if no overlap exceeds 0.3."""
        small = keyframe.picture.small(self._detector.picture_side)
        return _same(face, self._detected(small[None], keyframe.picture)[0])

    def look(self, keyframe: Keyframe, onto: NDArray[np.float64], number: int) -> tuple[Face, float, int] | None:
        """Detect a face in a picture shrunk to one of two sizes, unchanged and mirrored. See `CloseUps.look`."""
        small = keyframe.picture.small(round(self._detector.picture_side * SHRUNK[number % self.sizes]))
        both = self._detected(_with_mirrored(small), keyframe.picture)
        expected = _inverse(onto)
        corners = align.apply(expected, _FACE)
        near = Face(
            np.concatenate([corners.min(axis=0), corners.max(axis=0)]).astype(np.float32),
            0.0,
            corners.astype(np.float32),
        )
        flipped = [_flipped(face, keyframe.picture.size[0]) for face in both[1]]
        face = mean([_same(near, both[0]), _same(near, flipped)])
        if face is None:
            return None
        points = align.apply(expected, self._bias.corrected(align.apply(onto, face.points)))
        return Face(face.box, face.score, points.astype(np.float32)), NOISE, number % self.sizes

    def _detected(self, small: NDArray[np.uint8], picture: Picture) -> list[list[Face]]:
        found = self._detector.detect(np.ascontiguousarray(small))
        return [[from_shrunk(face, picture, small[0]) for face in finite(faces)] for faces in found]


def viewer(detector: Detector) -> CloseUps | WholePictures:
    """Return the object that detects faces again with a detector."""
    return WholePictures(detector) if detector.close_up is None else CloseUps(detector)


def _with_mirrored(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture (H, W, 3) and its mirror image, (2, H, W, 3); numpy takes twenty times as long to flip rows."""
    both = np.empty((2, *image.shape), np.uint8)
    both[0] = image
    cv2.flip(image, 1, dst=both[1])
    return both


def _one_way(
    detect: Callable[[NDArray[np.uint8]], list[list[Face]]], image: NDArray[np.uint8], way: Way
) -> Iterator[list[Face]]:
    """Yield the faces of a picture (H, W, 3), detected first one way round and then the other.

    Faces are in pixels of the picture itself.
    """
    half = image.shape[1] // 2
    left, right = (sum(cv2.sumElems(part)) for part in (image[:, :half], image[:, -half:]))
    as_it_is = (left >= right) == (way == "lighter left")
    for mirrored in (not as_it_is, as_it_is):
        if mirrored:
            (found,) = detect(np.asarray(cv2.flip(image, 1), np.uint8)[None])
            yield [_flipped(face, image.shape[1]) for face in finite(found)]
        else:
            (found,) = detect(image[None])
            yield finite(found)


def _same(face: Face, found: list[Face]) -> Face | None:
    best = max(found, key=lambda other: boxes.overlap(other.box, face.box), default=None)
    return best if best is not None and boxes.overlap(best.box, face.box) > 0.3 else None


def _flipped(face: Face, width: int) -> Face:
    """Mirror a face in a picture of this width. Pixel centres lie at +0.5 for its box, at 0 for its points."""
    x0, y0, x1, y1 = face.box.tolist()
    points = face.points[list(MIRRORED)] * (-1, 1) + (width - 1, 0)
    return Face(np.array([width - x1, y0, width - x0, y1], np.float32), face.score, points.astype(np.float32))


class _View:
    """One close-up of a detector. It is centred horizontally on the template, so that mirroring keeps it aligned."""

    def __init__(self, detector: Detector, close_up: CloseUp) -> None:
        self._detector, self._size, self._way = detector, close_up.size, close_up.way
        self.tilt_shown = close_up.tilt_shown
        width, height = close_up.size
        zoom, shift_x = close_up.zoom, (width - 1) / 2 - close_up.zoom * _MIDDLE[0]
        shift_y = (height - 1) / 2 - zoom * (CROP_SIZE - 1) / 2 - close_up.rise
        self._shown = np.array([[zoom, 0, shift_x], [0, zoom, shift_y]])
        self._back = _inverse(self._shown)
        self._eyes, self._middle = float(align.TEMPLATE[1, 0] - align.TEMPLATE[0, 0]), _MIDDLE.tolist()

    def seen(self, rgba: NDArray[np.uint8], onto: NDArray[np.float64]) -> Face | None:
        """Detect the face in this close-up, in crop pixels; None if it is not there.

        It is the face nearest to the expected position, of about the right size.
        """
        warped = align.warp(rgba, align.chained(self._shown, onto), self._size)
        patch = np.asarray(cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB), np.uint8)
        if self._way != "both":
            faces = (self._nearest(found) for found in _one_way(self._detector.detect_close, patch, self._way))
            return next((face for face in faces if face is not None), None)
        found = self._detector.detect_close(_with_mirrored(patch))
        mirrored = [_flipped(face, self._size[0]) for face in finite(found[1])]
        return mean([self._nearest(finite(found[0])), self._nearest(mirrored)])

    def _nearest(self, faces: list[Face]) -> Face | None:
        best, least = None, 1.5 * self._eyes
        for found in faces:
            face = moved(found, self._back)
            left, right, _, (x0, y0), (x1, y1) = face.points.tolist()
            middle = (left[0] + right[0] + (x0 + x1) / 2) / 3, (left[1] + right[1] + (y0 + y1) / 2) / 3
            distance = math.dist(middle, self._middle)
            if 0.5 < math.dist(left, right) / self._eyes < 2 and distance < least:
                best, least = face, distance
        return best


def mean(faces: list[Face | None]) -> Face | None:
    """Return the mean of one face's detections, None if there are none."""
    seen = [face for face in faces if face is not None]
    if len(seen) < 2:
        return seen[0] if seen else None
    box, points, score = (sum(getattr(face, name) for face in seen) / len(seen) for name in ("box", "points", "score"))
    return Face(box.astype(np.float32), float(score), points.astype(np.float32))


def bias(detector: Detector) -> Bias:
    """Return the constant error of a detector's points; zero if the detector does not state it."""
    return getattr(detector, "bias", None) or Bias()


def looks(detector: Detector) -> tuple[CloseUp, ...]:
    """Return the close-ups whose results are averaged."""
    close_up = detector.close_up
    assert close_up is not None
    return getattr(detector, "looks", None) or (close_up,)


def from_shrunk(face: Face, picture: Picture, small: NDArray[np.uint8]) -> Face:
    """Map a face from a picture's shrunk copy to the picture; pixel centres lie at +0.5."""
    ratio = np.array(picture.size) / (small.shape[1], small.shape[0])
    points = align.zoomed(face.points, ratio).astype(np.float32)
    return Face((face.box * np.tile(ratio, 2)).astype(np.float32), face.score, points)


def detect_turned(detector: Detector, image: NDArray[np.uint8], turns: int) -> list[Face]:
    """Detect in a picture rotated by quarter turns counter-clockwise; return faces in pixels of the unrotated picture.

    Like close-ups, it is shown either both ways round or one way. Both ways give all faces that either shows, and the
    mean for a face that both show. If one way shows no face, the other is tried.
    """
    shown = np.ascontiguousarray(np.rot90(image, turns))
    close_up = detector.close_up
    if close_up is not None and close_up.way != "both":
        faces = next((faces for faces in _one_way(detector.detect, shown, close_up.way) if faces), [])
    else:
        faces, others = (finite(found) for found in detector.detect(_with_mirrored(shown)))
        others = [_flipped(other, shown.shape[1]) for other in others]
        only_mirrored = [other for other in others if _same(other, faces) is None]
        faces = [mean([face, _same(face, others)]) or face for face in faces] + only_mirrored
    if not turns:
        return faces
    middle, middle_shown = (np.array([each.shape[1] - 1, each.shape[0] - 1]) / 2 for each in (image, shown))
    return [turned_face(face, turns, middle_shown, middle) for face in faces]


def turned_face(face: Face, turns: int, middle: NDArray[Any], to: NDArray[Any]) -> Face:
    """Rotate a face clockwise by quarter turns about a point (2,), and move that point to another."""
    points = np.concatenate([face.points, face.box.reshape(2, 2)]) - middle
    turned = np.ascontiguousarray(points, np.float64).view(np.complex128) * _TURNED[turns]
    placed = (turned.view(np.float64) + to).astype(np.float32)
    box = np.concatenate([placed[5:].min(axis=0), placed[5:].max(axis=0)])
    return Face(box, face.score, placed[:5])


def turns_upright(face: Face) -> int:
    """Return the number of counter-clockwise quarter turns that make a face most nearly upright."""
    affine = align.similarity(face.points)
    return round(-math.atan2(affine[1, 0], affine[0, 0]) / (math.pi / 2)) % 4


def moved(face: Face, transform: NDArray[np.float64]) -> Face:
    """Map a face by a transform (2, 3), which may mirror; the box stays parallel to the axes."""
    x0, y0, x1, y1 = face.box.tolist()
    (along, aside, right), (turned, down_along, down) = transform.tolist()
    x, y, size = (x0 + x1) / 2, (y0 + y1) / 2, math.hypot(along, turned) / 2
    x, y = along * x + aside * y + right, turned * x + down_along * y + down
    across, high = (x1 - x0) * size, (y1 - y0) * size
    if abs(turned) > abs(along):  # a face on its side
        across, high = high, across
    box = np.array([x - across, y - high, x + across, y + high], np.float32)
    return Face(box, face.score, align.apply(transform, face.points).astype(np.float32))


def _inverse(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(cv2.invertAffineTransform(affine), np.float64)


def _angle(affine: NDArray[np.float64]) -> float:
    return math.atan2(affine[1, 0], affine[0, 0])


def _turn(angle: float, about: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation by an angle (radians) about a point (2,), as a transform (2, 3)."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.column_stack([turn, about - turn @ about])
