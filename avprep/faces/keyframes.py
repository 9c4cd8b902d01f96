"""Finding the faces of a clip's keyframes, in whole pictures, many at once, or following each face."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from itertools import groupby

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep.faces.detectors.base import Detector, Face, finite
from avprep.faces.following import Following
from avprep.faces.registration import appearance
from avprep.faces.track import Detection, Detections, jumped
from avprep.faces.views import from_shrunk
from avprep.media.picture import Picture


def find_faces(pictures: Iterable[Picture], detector: Detector, detect_every: int) -> Detections:
    """Find the faces of a clip's keyframes.

    pictures: the clip at 25 fps, read once; `detect_every` of them are held, times the detector's batch.
    detect_every: frames from one keyframe to the next; the first and the last frame of a shot are keyframes too.
    Where the largest face jumped, came or went between two keyframes, the frames between them become keyframes as well.
    Raises what reading the pictures raises.
    """
    cuts = _Cuts()
    faces = _Batches(detector) if detector.close_up is None else Following(detector, cuts.frames, detect_every)
    between: list[tuple[int, Picture]] = []
    n_frames, size = 0, (0, 0)
    for n_frames, picture in enumerate(pictures, 1):
        frame = n_frames - 1
        size = picture.size
        begins = cuts.begins(frame, picture)
        if begins and between:  # over a cut, faces are compared as they looked right before it
            before, last = between.pop()
            faces.add(before, last, between)
            between = []
        if begins or frame % detect_every == 0:
            faces.add(frame, picture, between)
            between = []
        else:
            between.append((frame, picture))
    if between:
        frame, picture = between.pop()
        faces.add(frame, picture, between)
    return Detections(n_frames, size, faces.finish(), frozenset(cuts.frames))


class _Cuts:
    """Detects cuts: pictures that differ far more from the last one than the ones before did.

    frames: those that begin a new shot.
    """

    def __init__(self) -> None:
        self.frames: set[int] = set()
        self._last: NDArray[np.uint8] | None = None
        self._changes: list[float] = []

    def begins(self, frame: int, picture: Picture) -> bool:
        """Return whether the next frame begins a new shot."""
        thumbnail = picture.thumbnail()
        before, self._last = self._last, thumbnail
        if before is None or before.shape != thumbnail.shape:
            return False
        change = cv2.norm(thumbnail, before, cv2.NORM_L1) / thumbnail.size
        usual = statistics.median(self._changes) if self._changes else 0.0
        self._changes = [*self._changes[-8:], change]
        if change <= max(10.0, 5 * usual):
            return False
        self.frames.add(frame)
        return True


class _Batches:
    """Detects in whole pictures, in batches of the detector's size; same interface as `Following`."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._waiting: list[tuple[int, Picture, list[tuple[int, Picture]]]] = []
        self._last: list[Face] = []
        self._found: dict[int, list[Detection]] = {}

    def add(self, frame: int, picture: Picture, between: list[tuple[int, Picture]]) -> None:
        self._waiting.append((frame, picture, between))
        if len(self._waiting) >= self._detector.batch_size:
            self._detect_waiting()

    def finish(self) -> dict[int, list[Detection]]:
        self._detect_waiting()
        return self._found

    def _detect_waiting(self) -> None:
        skipped: list[tuple[int, Picture]] = []
        waiting, self._waiting = self._waiting, []
        detected = self._detect([(frame, picture) for frame, picture, _ in waiting])
        for (frame, _, between), faces in zip(waiting, detected, strict=True):
            if frame and jumped(self._last, faces):
                skipped += between
            self._last = faces
        self._detect(skipped)

    def _detect(self, pictures: list[tuple[int, Picture]]) -> list[list[Face]]:
        """Detect in whole pictures and keep what is found; pictures of one size go through together."""
        result: list[list[Face]] = []
        small = [picture.small(self._detector.picture_side) for _, picture in pictures]
        for _, group in groupby(range(len(small)), key=lambda n: small[n].shape):
            numbers = list(group)
            for first in range(0, len(numbers), self._detector.batch_size):
                batch = numbers[first : first + self._detector.batch_size]
                found = self._detector.detect(np.stack([small[n] for n in batch]))
                for n, faces in zip(batch, found, strict=True):
                    frame, picture = pictures[n]
                    self._found[frame] = [
                        Detection(from_shrunk(face, picture, small[n]), appearance(small[n][..., 1], face))
                        for face in finite(faces)
                    ]
                    result.append([detection.face for detection in self._found[frame]])
        return result
