"""Run a detector on the keyframes of a clip.

Either in whole pictures, many at once, or following each face with close-ups: a quick network's points depend on where
its grid falls on the face and on how large the face is. So a face that was found in the whole picture is looked at
again, upright and at one size, and the next keyframe looks where the face just was. That is steadier than whole
pictures, and faster. The whole picture is searched at the start of each shot, when a face is lost, and every three
seconds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from itertools import groupby

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
CLOSE_UP = (96, 128)
"""Width and height of a close-up in pixels. Measured: as accurate as larger ones."""
ZOOM = 0.45
"""Close-up pixels per crop pixel: the face is about 70 px wide."""
RISE = 4
"""Pixels by which the crop's middle lies above the close-up's: faces are taller above the eyes than below the mouth."""
SEARCH_EVERY = 3 * FPS
"""Frames after which the whole picture is searched even though faces are being followed."""
FINER = (1, 2, 4)
"""Multiples of a detector's `picture_side` at which a picture is searched until it shows a face."""
JUMP = 0.25
"""Movement between keyframes, in face sizes, beyond which the frames between are looked at too."""
DRIFT = 12.0
"""A face that moved further than this in its close-up (crop pixels) is looked at again where it is now."""
_LOOK = 24  # side of the patch that faces are compared by


def find_faces(pictures: Iterable[Picture], detector: Detector, every: int) -> Seen:
    """Find the faces of a clip's keyframes.

    pictures: the clip at 25 fps, read once; `every` of them are held, times the detector's batch.
    every: frames from one keyframe to the next; the first frame of a shot and the last of the clip are keyframes too.
    Where the largest face jumped, came or went between two keyframes, the frames between them are looked at as well.
    Raises what reading the pictures raises.
    """
    cuts = _Cuts()
    watch = _Following(detector, cuts) if detector.close_ups else _Batches(detector)
    between: list[tuple[int, Picture]] = []
    n_frames, size = 0, (0, 0)
    for n_frames, picture in enumerate(pictures, 1):
        frame = n_frames - 1
        size = picture.size
        if cuts.begins(frame, picture) or frame % every == 0:
            watch.look(frame, picture, between)
            between = []
        else:
            between.append((frame, picture))
    if between:
        frame, picture = between.pop()
        watch.look(frame, picture, between)
    return Seen(n_frames, size, watch.finish(), frozenset(cuts.frames))


class _Cuts:
    """Tells where a new shot begins: a picture that differs far more from the last than the ones before did."""

    def __init__(self) -> None:
        self.frames: set[int] = set()
        self._last: NDArray[np.int16] | None = None
        self._changes: list[float] = []

    def begins(self, frame: int, picture: Picture) -> bool:
        thumbnail = picture.thumbnail()
        before, self._last = self._last, thumbnail
        if before is None or before.shape != thumbnail.shape:
            return False
        change = int(np.abs(thumbnail - before).sum()) / thumbnail.size
        usual = statistics.median(self._changes) if self._changes else 0.0
        self._changes = [*self._changes[-8:], change]
        if change <= max(10.0, 5 * usual):
            return False
        self.frames.add(frame)
        return True


class _Batches:
    """Looks at whole pictures, as many at once as the detector likes."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._waiting: list[tuple[int, Picture, list[tuple[int, Picture]]]] = []
        self._last: list[Face] = []
        self._sightings: dict[int, list[Sighting]] = {}

    def look(self, frame: int, picture: Picture, between: list[tuple[int, Picture]]) -> None:
        self._waiting.append((frame, picture, between))
        if len(self._waiting) >= self._detector.batch_size:
            self._detect_waiting()

    def finish(self) -> dict[int, list[Sighting]]:
        self._detect_waiting()
        return self._sightings

    def _detect_waiting(self) -> None:
        skipped: list[tuple[int, Picture]] = []
        waiting, self._waiting = self._waiting, []
        for (frame, _, between), faces in zip(
            waiting, self._detect([(frame, picture) for frame, picture, _ in waiting]), strict=True
        ):
            if frame and _jumped(self._last, faces):
                skipped += between
            self._last = faces
        self._detect(skipped)

    def _detect(self, pictures: list[tuple[int, Picture]]) -> list[list[Face]]:
        """Detect in whole pictures and keep what is seen; pictures of one size go through together."""
        result: list[list[Face]] = []
        small = [picture.small(self._detector.picture_side) for _, picture in pictures]
        for _, group in groupby(range(len(small)), key=lambda n: small[n].shape):
            numbers = list(group)
            for first in range(0, len(numbers), self._detector.batch_size):
                part = numbers[first : first + self._detector.batch_size]
                found = self._detector.detect(np.stack([small[n] for n in part]))
                for n, faces in zip(part, found, strict=True):
                    frame, picture = pictures[n]
                    self._sightings[frame] = [
                        Sighting(_scaled(face, _ratio(picture, small[n])), _look(small[n], face)) for face in faces
                    ]
                    result.append([sighting.face for sighting in self._sightings[frame]])
        return result


class _Following:
    """Follows faces with close-ups from keyframe to keyframe."""

    def __init__(self, detector: Detector, cuts: _Cuts) -> None:
        self._detector = detector
        self._cuts = cuts
        self._sightings: dict[int, list[Sighting]] = {}
        self._searched = self._fine = self._seen = -SEARCH_EVERY  # frames
        self._last: list[Face] = []

    def look(self, frame: int, picture: Picture, between: list[tuple[int, Picture]]) -> None:
        before = [] if frame in self._cuts.frames else self._last
        self._last = before
        faces = self._faces(frame, picture)
        if between and _jumped(before, faces):
            self._last = before
            for earlier, skipped in between:
                self._faces(earlier, skipped)
            self._faces(frame, picture)

    def finish(self) -> dict[int, list[Sighting]]:
        return self._sightings

    def _faces(self, frame: int, picture: Picture) -> list[Face]:
        """Follow the known faces; search the whole picture where that is due or one is lost."""
        image = picture.rgb()
        followed = [self._close_up(image, face) for face in self._last]
        found = [face for face in followed if face is not None]
        if not found or len(found) < len(followed) or frame - self._searched >= SEARCH_EVERY:
            self._searched = frame
            found = self._search(frame, picture, image, found)
        if found:
            self._seen = frame
        self._last = sorted(found, key=_area, reverse=True)[:FOLLOWED]
        self._sightings[frame] = [Sighting(face, _look(image, face)) for face in found]
        return found

    def _search(self, frame: int, picture: Picture, image: NDArray[np.uint8], known: list[Face]) -> list[Face]:
        """Detect in the whole picture, ever more finely until it shows a face; look closely at the largest new ones.

        Finer looks cost more: a clip without a face gets them only as often as a clip with one is searched.
        """
        fine = not known and (frame - self._fine >= SEARCH_EVERY or frame - self._seen < SEARCH_EVERY)
        found = list[Face]()
        for finer in FINER if fine else FINER[:1]:
            side = finer * self._detector.picture_side
            small = picture.small(side)
            found = [_scaled(face, _ratio(picture, small)) for face in self._detector.detect(small[None])[0]]
            if found or max(picture.size) <= side:
                break
        if fine:
            self._fine = frame
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
            matrix[:, 2] += _SHIFT
            seen = self._detector.detect(align.warp(image, matrix, CLOSE_UP)[None])[0]
            nearest = _nearest(seen)
            if nearest is None:
                return None
            moved = np.linalg.norm(align.three_points(nearest.points) - _EXPECTED, axis=1).mean() / ZOOM
            face = _back(nearest, matrix)
            if moved <= DRIFT:
                break
        return face


_SHIFT = (np.array(CLOSE_UP) - 1) / 2 - ZOOM * (CROP_SIZE - 1) / 2 - np.array([0, RISE])
_EXPECTED = align.TEMPLATE * ZOOM + _SHIFT
_EYES = math.dist(_EXPECTED[0], _EXPECTED[1])


def _nearest(faces: list[Face]) -> Face | None:
    """Return the face that a close-up is of: the nearest to where it should be, if it has about the right size."""
    best, least = None, 1.5 * _EYES
    for face in faces:
        three = align.three_points(face.points)
        distance = math.dist(three.sum(axis=0) / 3, _EXPECTED.sum(axis=0) / 3)
        if 0.5 < math.dist(three[0], three[1]) / _EYES < 2 and distance < least:
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


def _ratio(picture: Picture, small: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return picture pixels per pixel of its shrunk copy, x and y."""
    return np.asarray(np.array(picture.size) / (small.shape[1], small.shape[0]), np.float64)


def _look(image: NDArray[np.uint8], face: Face) -> NDArray[np.float32]:
    """Return the aligned green patch of a face, float32 (576,), of zero mean and unit length."""
    matrix = align.similarity(face.points) * (_LOOK / CROP_SIZE)
    if not np.isfinite(matrix).all():
        return np.zeros(_LOOK * _LOOK, np.float32)
    patch = align.warp(image, matrix, (_LOOK, _LOOK))[..., 1].astype(np.float32).ravel()
    patch -= patch.sum() / patch.size
    return np.asarray(patch / max(np.sqrt(patch @ patch), 1e-6), np.float32)


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
