"""Run a detector on the keyframes of a clip, following each face with close-ups.

A detector's points depend on where its grid falls on the face and on how large the face is. So a face that was found in
the whole picture is looked at again, upright and at one size; the next keyframe looks where the face just was. That is
steadier than whole pictures, and faster. The whole picture is searched at the start of each shot, when a face is lost,
and once a second.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep import align
from avprep.detectors import Detector, Face
from avprep.media import Picture
from avprep.schema import CROP_SIZE, FPS
from avprep.track import Seen, Sighting, overlap

FOLLOWED = 3
"""Faces that are followed with close-ups: the largest ones."""
CLOSE_UP, ZOOM = 160, 0.5
"""Side of a close-up in pixels, and its pixels per crop pixel: 320 crop pixels wide, the face about 75 px."""
SEARCH_EVERY = FPS
JUMP = 0.25
"""Movement between keyframes, in face sizes, beyond which the frames between are looked at too."""
DRIFT = 6.0
"""A face that moved further than this in its close-up (crop pixels) is looked at again where it is now."""
_LOOK = 24  # side of the patch that faces are compared by


def find_faces(pictures: Iterable[Picture], detector: Detector, every: int) -> Seen:
    """Find the faces of a clip's keyframes.

    pictures: the clip at 25 fps; read once, at most `every` of them are held.
    every: frames from one keyframe to the next; the first frame of a shot and the last of the clip are keyframes too.
    Raises what reading the pictures raises.
    """
    watch = _Watch(detector)
    between: list[tuple[int, Picture]] = []
    n_frames, size = 0, (0, 0)
    for n_frames, picture in enumerate(pictures, 1):
        frame = n_frames - 1
        size = picture.size
        cut = watch.is_cut(frame, picture)
        if frame % every == 0 or cut:
            watch.look(frame, picture, between)
            between = []
        else:
            between.append((frame, picture))
    if between:
        frame, picture = between.pop()
        watch.look(frame, picture, between)
    return Seen(n_frames, size, watch.sightings, frozenset(watch.cuts))


class _Watch:
    """The state of following faces through one clip."""

    def __init__(self, detector: Detector) -> None:
        self.sightings: dict[int, list[Sighting]] = {}
        self.cuts: set[int] = set()
        self._detector = detector
        self._searched = -SEARCH_EVERY
        self._last: list[Face] = []
        self._thumbnail: NDArray[np.int16] | None = None
        self._changes: list[float] = []

    def is_cut(self, frame: int, picture: Picture) -> bool:
        """Tell whether this picture begins a new shot: it differs far more from the last than the ones before did."""
        thumbnail = picture.thumbnail()
        before, self._thumbnail = self._thumbnail, thumbnail
        if before is None or before.shape != thumbnail.shape:
            return False
        change = float(np.abs(thumbnail - before).mean())
        usual = float(np.median(self._changes[-8:])) if self._changes else 0.0
        self._changes = [*self._changes[-8:], change]
        cut = change > max(10.0, 5 * usual)
        if cut:
            self.cuts.add(frame)
            self._last = []
        return cut

    def look(self, frame: int, picture: Picture, between: list[tuple[int, Picture]]) -> None:
        """Look at a keyframe, and at the frames since the last one where the largest face jumped, came or went."""
        before = self._last
        faces = self._faces(frame, picture)
        if frame and _jumped(before, faces):
            self._last = before
            for earlier, skipped in between:
                self._keep(earlier, skipped, self._faces(earlier, skipped))
            faces = self._faces(frame, picture) if between else faces
        self._keep(frame, picture, faces)

    def _faces(self, frame: int, picture: Picture) -> list[Face]:
        """Follow the known faces; search the whole picture where that is due or one is lost."""
        image = picture.rgb()
        followed = [self._close_up(image, face) for face in self._last]
        found = [face for face in followed if face is not None]
        if not found or len(found) < len(followed) or frame - self._searched >= SEARCH_EVERY:
            self._searched = frame
            found = self._search(picture, image, found)
        self._last = sorted(found, key=_area, reverse=True)[:FOLLOWED]
        return found

    def _search(self, picture: Picture, image: NDArray[np.uint8], known: list[Face]) -> list[Face]:
        """Detect in the whole picture; look closely at the largest faces that are not known yet."""
        small = picture.small(self._detector.picture_side)
        ratio = np.array(picture.size) / (small.shape[1], small.shape[0])
        found = [_scaled(face, ratio) for face in self._detector.detect(small[None])[0]]
        new = [face for face in found if all(overlap(face.box, other.box) < 0.3 for other in known)]
        new.sort(key=_area, reverse=True)
        closer = [self._close_up(image, face) or face for face in new[:FOLLOWED]]
        return [*known, *closer, *new[FOLLOWED:]]

    def _close_up(self, image: NDArray[np.uint8], face: Face) -> Face | None:
        """Look at a face upright and at one size; None where it is not there."""
        for _ in range(2):
            matrix = align.similarity(face.points)
            if not np.isfinite(matrix).all():
                return None
            matrix *= ZOOM
            matrix[:, 2] += CLOSE_UP / 2 - ZOOM * (CROP_SIZE - 1) / 2 - 0.5
            seen = self._detector.detect(align.warp(image, matrix, CLOSE_UP)[None])[0]
            nearest = _nearest(seen)
            if nearest is None:
                return None
            moved = np.linalg.norm(align.three_points(nearest.points) - _EXPECTED, axis=1).mean() / ZOOM
            face = _back(nearest, matrix)
            if moved <= DRIFT:
                break
        return face

    def _keep(self, frame: int, picture: Picture, faces: list[Face]) -> None:
        image = picture.small(self._detector.picture_side)
        ratio = image.shape[1] / picture.size[0]
        self.sightings[frame] = [Sighting(face, _look(image, face, ratio)) for face in faces]


_EXPECTED = (align.TEMPLATE - (CROP_SIZE - 1) / 2) * ZOOM + CLOSE_UP / 2 - 0.5


def _nearest(faces: list[Face]) -> Face | None:
    """Return the face that a close-up is of: the nearest to where it should be, if it has about the right size."""
    eyes = float(np.linalg.norm(_EXPECTED[1] - _EXPECTED[0]))
    best, least = None, 1.5 * eyes
    for face in faces:
        three = align.three_points(face.points)
        distance = float(np.linalg.norm(three.mean(axis=0) - _EXPECTED.mean(axis=0)))
        if 0.5 < np.linalg.norm(three[1] - three[0]) / eyes < 2 and distance < least:
            best, least = face, distance
    return best


def _back(face: Face, matrix: NDArray[np.float64]) -> Face:
    """Map a face from its close-up to the picture; the box stays upright."""
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.asarray(face.box, np.float64).reshape(2, 2)
    centre = align.apply(inverse, corners.mean(axis=0, keepdims=True))[0]
    half = (corners[1] - corners[0]) / 2 * align.scale(inverse)
    box = np.concatenate([centre - half, centre + half]).astype(np.float32)
    return Face(box, face.score, align.apply(inverse, face.points).astype(np.float32))


def _scaled(face: Face, ratio: NDArray[np.float64]) -> Face:
    """Map a face from a shrunk picture to the picture; pixel centres lie at +0.5."""
    points = (face.points + 0.5) * ratio - 0.5
    return Face((face.box * np.tile(ratio, 2)).astype(np.float32), face.score, points.astype(np.float32))


def _look(image: NDArray[np.uint8], face: Face, ratio: float) -> NDArray[np.float32]:
    """Return the aligned grey patch of a face, float32 (576,), of zero mean and unit length."""
    matrix = align.similarity(face.points * ratio) * (_LOOK / CROP_SIZE)
    if not np.isfinite(matrix).all():
        return np.zeros(_LOOK * _LOOK, np.float32)
    patch = cv2.cvtColor(align.warp(image, matrix, _LOOK), cv2.COLOR_RGB2GRAY).astype(np.float32).ravel()
    patch -= patch.mean()
    return np.asarray(patch / max(float(np.linalg.norm(patch)), 1e-6), np.float32)


def _jumped(before: list[Face], after: list[Face]) -> bool:
    """Tell whether the largest face of either keyframe has no counterpart close by in the other."""
    if not before or not after:
        return bool(before or after)
    for faces, others in ((before, after), (after, before)):
        face = max(faces, key=_area)
        size = float(np.sqrt(_area(face)))
        centre = (face.box[:2] + face.box[2:]) / 2
        nearest = min(float(np.linalg.norm((other.box[:2] + other.box[2:]) / 2 - centre)) for other in others)
        if nearest > JUMP * size:
            return True
    return False


def _area(face: Face) -> float:
    return float(np.prod(np.maximum(face.box[2:] - face.box[:2], 0)))
