"""Run a detector on the keyframes of a clip.

Either in whole pictures, many at once, or following each face. A quick network's points depend on where its grid falls
on the face and on how large the face is, so a face that was found in the whole picture is looked at again close up,
upright and at one size. In the next keyframes it is found by registration, for as long as it looks the same, and
detected again, close up, every `LOOK_EVERY` frames; what registration is off by then is shared out over the keyframes
between. That is steadier than detecting every time, and faster. The whole picture is searched at the start of each
shot, when a face is lost, and every three seconds.

A face may be upside down or on its side. Detectors find such faces too, at poorer scores and with points in the wrong
places. So where the search starts afresh, a face whose score leaves doubt is looked at four ways up; and before a shot
has shown one that leaves none, the picture itself is searched the other ways up. Points are always in source pixels.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep.faces import align, registration
from avprep.faces.detectors.base import CloseUp, Detector, Face, finite
from avprep.faces.registration import Anchor, Similarity
from avprep.faces.track import Seen, Sighting, overlap
from avprep.media.picture import Picture
from avprep.schema import CROP_SIZE, FPS

FOLLOWED = 3
"""Faces that are followed: the largest ones."""
LOOK_EVERY = 10
"""Frames after which a face is detected again even though registration still finds it."""
SEARCH_EVERY = 3 * FPS
"""Frames after which the whole picture is searched even though faces are being followed."""
JUMP = 0.25
"""Movement between keyframes, in face sizes, beyond which the frames between are looked at too."""
LOOKS = 8
"""Most close-ups of one face in one frame."""
DRIFT, TILT = 12.0, 0.7
"""A face that is further than this from where its close-up expects it (crop pixels, degrees) is looked at again."""
TURNS = (2, 1, 3)
"""Quarter turns of a picture that is not upright, half a turn first: so detectors still see a face, at wrong points."""
_TURNED = (1, 1j, -1, -1j)  # what takes a point by 0 … 3 quarter turns, clockwise as y points down
_LOOK = 24  # side of the patch that faces are compared by over cuts


def find_faces(pictures: Iterable[Picture], detector: Detector, every: int) -> Seen:
    """Find the faces of a clip's keyframes.

    pictures: the clip at 25 fps, read once; `every` of them are held, times the detector's batch.
    every: frames from one keyframe to the next; the first and the last frame of a shot are keyframes too.
    Where the largest face jumped, came or went between two keyframes, the frames between them are looked at as well.
    Raises what reading the pictures raises.
    """
    cuts = _Cuts()
    close_up = detector.close_up
    watch = _Batches(detector) if close_up is None else _Following(detector, close_up, cuts, every)
    between: list[tuple[int, Picture]] = []
    n_frames, size = 0, (0, 0)
    for n_frames, picture in enumerate(pictures, 1):
        frame = n_frames - 1
        size = picture.size
        begins = cuts.begins(frame, picture)
        if begins and between:  # over a cut, faces are compared as they looked right before it
            before, last = between.pop()
            watch.look(before, last, between)
            between = []
        if begins or frame % every == 0:
            watch.look(frame, picture, between)
            between = []
        else:
            between.append((frame, picture))
    if between:
        frame, picture = between.pop()
        watch.look(frame, picture, between)
    return Seen(n_frames, size, watch.finish(), frozenset(cuts.frames))


def settle(picture: Picture, face: Face, detector: Detector) -> Face | None:
    """Look at a face close up again and again, as a clip that shows one picture for long does, and take the mean.

    face: where it was found, in pixels of the picture; so is what is returned, None where no close-up shows it.
    """
    assert detector.close_up is not None
    following, keyframe = _Following(detector, detector.close_up, _Cuts(), 1), _Keyframe(0, picture)
    seen: list[Face] = []
    for _ in range(LOOKS):
        close = following.close_up(keyframe, seen[-1] if seen else face)
        if close is None:
            break
        seen.append(close)
    if not seen:
        return None
    settled = seen[2:] or seen[-1:]  # the first looks are still drawn to where the face was found
    box, points = (np.mean([getattr(one, name) for one in settled], axis=0) for name in ("box", "points"))
    return Face(box.astype(np.float32), seen[-1].score, points.astype(np.float32))


class _Cuts:
    """Tells where a new shot begins: a picture that differs far more from the last than the ones before did."""

    def __init__(self) -> None:
        self.frames: set[int] = set()
        self._last: NDArray[np.uint8] | None = None
        self._changes: list[float] = []

    def begins(self, frame: int, picture: Picture) -> bool:
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
                        Sighting(_scaled(face, _ratio(picture, small[n])), _look(small[n][..., 1], face))
                        for face in finite(faces)
                    ]
                    result.append([sighting.face for sighting in self._sightings[frame]])
        return result


class _Keyframe:
    """A picture that is looked at, converted once however many faces there are."""

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


@dataclass(frozen=True, eq=False)
class _Followed:
    """A face that is being followed.

    anchor: how it looked when it was last detected, in frame `frame`; None where that shows too little.
    onto: the last keyframe → the anchor's patch; None where that is the anchor's own.
    since: keyframes that it was registered in since then, and as what.
    """

    sighting: Sighting
    frame: int
    anchor: Anchor | None
    onto: Similarity | None = None
    since: tuple[tuple[int, Sighting], ...] = ()

    @property
    def face(self) -> Face:
        """Where it was in the last keyframe."""
        return self.sighting.face


class _Following:
    """Follows faces from keyframe to keyframe: by registration while they look the same, else with close-ups."""

    def __init__(self, detector: Detector, close_up: CloseUp, cuts: _Cuts, every: int) -> None:
        self._detector = detector
        self._view = _View(close_up)
        self._cuts = cuts
        self._look_every = LOOK_EVERY if every > 1 else 1
        self._sightings: dict[int, list[Sighting]] = {}
        self._searched = -SEARCH_EVERY  # the frame
        self._turns: int | None = None  # that make the shot's faces upright; None before it has shown one
        self._followed: list[_Followed] = []

    def look(self, frame: int, picture: Picture, between: list[tuple[int, Picture]]) -> None:
        before = self._followed
        keyframe = _Keyframe(frame, picture)
        faces = self._faces(keyframe)
        if between and _jumped([one.face for one in before], faces):
            self._followed = before
            for earlier, skipped in between:
                self._faces(_Keyframe(earlier, skipped))
            self._faces(keyframe)

    def finish(self) -> dict[int, list[Sighting]]:
        return self._sightings

    def _faces(self, keyframe: _Keyframe) -> list[Face]:
        """Follow the known faces; search the whole picture where that is due or one is lost."""
        frame, cut = keyframe.frame, keyframe.frame in self._cuts.frames
        followed = [self._follow(one, keyframe) for one in self._followed]
        found = [one for one in followed if one is not None]
        if cut and not found:
            self._turns = None
        if cut or not found or len(found) < len(followed) or frame - self._searched >= SEARCH_EVERY:
            self._searched = frame
            found = self._search(keyframe, found)
        self._followed = sorted(found, key=lambda one: _area(one.face), reverse=True)[:FOLLOWED]
        self._sightings[frame] = [one.sighting for one in found]
        return [one.face for one in found]

    def _follow(self, one: _Followed, keyframe: _Keyframe) -> _Followed | None:
        """Find a face where it was last seen; None where it is not there, or over a cut does not look the same."""
        frame, registered = keyframe.frame, None
        if one.anchor is not None:
            onto = one.anchor.find(keyframe.luma, one.onto or one.anchor.onto)
            if onto is not None:
                registered = one.anchor.face_at(onto)
                if frame - one.frame < self._look_every:
                    sighting = Sighting(registered, _look(keyframe.luma, registered))
                    return replace(one, sighting=sighting, onto=onto, since=(*one.since, (frame, sighting)))
        if registered is None and frame in self._cuts.frames:
            return None
        face = self.close_up(keyframe, registered or one.face)
        if face is None:
            return None
        if registered is not None:
            self._correct(one, frame, face.points - registered.points)
        return self._detected(face, keyframe)

    def _detected(self, face: Face, keyframe: _Keyframe) -> _Followed:
        anchor = registration.anchor(face, keyframe.luma) if self._look_every > 1 else None
        return _Followed(Sighting(face, _look(keyframe.luma, face)), keyframe.frame, anchor)

    def _correct(self, one: _Followed, frame: int, error: NDArray[np.float32]) -> None:
        """Share what registration is off by at the next look out over the keyframes since the last one."""
        for number, sighting in one.since:
            off = error * np.float32((number - one.frame) / (frame - one.frame))
            box = sighting.face.box + np.tile(align.three_points(off).mean(axis=0), 2).astype(np.float32)
            corrected = Face(box, sighting.face.score, sighting.face.points + off)
            seen = self._sightings[number]
            seen[:] = [Sighting(corrected, other.look) if other is sighting else other for other in seen]

    def _search(self, keyframe: _Keyframe, known: list[_Followed]) -> list[_Followed]:
        """Detect in the whole picture, where none is known ever more finely until it shows a face.

        Look closely at the largest new ones; where a shot begins without a sure one, search the picture all ways up.
        """
        new = self._new_faces(keyframe, known, self._turns or 0)
        if not known:
            if self._turns is None and _best(new) < self._view.sure:
                for turns in TURNS:
                    turned = self._new_faces(keyframe, known, turns)
                    if _best(turned) > self._view.better * _best(new):
                        new = [(face, close) for face, close in turned if close]  # detectors see much that is no face
            close = [face for face, close in new if close]
            if close:
                self._turns = _turns(max(close, key=_area))
        return [*known, *(self._detected(face, keyframe) for face, _ in new)]

    def _new_faces(self, keyframe: _Keyframe, known: list[_Followed], turns: int) -> list[tuple[Face, bool]]:
        """Return faces that are not known yet, seen by so many quarter turns, and whether a closer look saw them too.

        The largest come first, with the points of that look; with nothing known they are looked at four ways up.
        """
        picture, found = keyframe.picture, list[Face]()
        for side in self._detector.search_sides[: 1 if known else None]:
            small = picture.small(side)
            ratio = _ratio(picture, small)
            found = [_scaled(face, ratio) for face in self._detected_turned(small, turns)]
            if found or max(picture.size) <= side:
                break
        new = [face for face in found if all(overlap(face.box, one.face.box) < 0.3 for one in known)]
        new.sort(key=_area, reverse=True)
        closer = [(self.close_up if known else self._upright)(keyframe, face) for face in new[:FOLLOWED]]
        looked = [(face, False) if close is None else (close, True) for face, close in zip(new, closer, strict=False)]
        return [*looked, *((face, False) for face in new[FOLLOWED:])]

    def _detected_turned(self, small: NDArray[np.uint8], turns: int) -> list[Face]:
        """Detect in a picture that is turned by quarter turns counter-clockwise; return faces where it shows them."""
        shown = np.ascontiguousarray(np.rot90(small, turns))
        faces = finite(self._detector.detect(shown[None])[0])
        if not turns:
            return faces
        middle, middle_shown = (np.array([image.shape[1] - 1, image.shape[0] - 1]) / 2 for image in (small, shown))
        return [_turned_face(face, turns, middle_shown, middle) for face in faces]

    def _upright(self, keyframe: _Keyframe, face: Face) -> Face | None:
        """Look closely at a face as it was found, and where that is not sure, the other ways up; return the best."""
        best = self.close_up(keyframe, face)
        score = face.score if best is None else best.score
        middle = (face.box[:2] + face.box[2:]) / 2
        for turns in TURNS if best is None or score < self._view.sure else ():
            turned = self.close_up(keyframe, _turned_face(face, turns, middle, middle))
            if turned is not None and turned.score > self._view.better * score:
                best, score = turned, turned.score
        return best

    def close_up(self, keyframe: _Keyframe, face: Face) -> Face | None:
        """Look at a face upright and at one size; None where it is not there.

        A look tells only a part of how far a head is still tilted, so it is turned by more before the next one.
        """
        view, image = self._view, keyframe.rgba
        onto, settled = align.similarity(face.points, view.expected), None
        for _ in range(LOOKS):
            if not np.isfinite(onto).all():
                return None
            patch = cv2.cvtColor(align.warp(image, onto, view.size), cv2.COLOR_RGBA2RGB)
            nearest = view.nearest(finite(self._detector.detect_close(np.asarray(patch, np.uint8)[None])[0]))
            if nearest is None:
                return settled
            face = _back(nearest, onto)
            moved = np.linalg.norm(align.three_points(nearest.points) - view.expected, axis=1).mean() / view.zoom
            right = align.similarity(nearest.points, view.expected)
            turned = math.atan2(right[1, 0], right[0, 0])
            if moved <= DRIFT:
                settled = face
                if abs(math.degrees(turned)) <= TILT:
                    break
            onto = align.chained(_turn((1 / view.tells - 1) * turned, view.middle), align.chained(right, onto))
        return face


def _turn(angle: float, about: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the turn by an angle (radians) about a point (2,), as a transform (2, 3)."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.column_stack([turn, about - turn @ about])


class _View:
    """A detector's close-up: what part of the crop it shows, and where eyes and mouth of a face lie in it."""

    def __init__(self, close_up: CloseUp) -> None:
        self.size, self.zoom, self.tells = close_up.size, close_up.zoom, close_up.tells
        self.sure, self.better = close_up.sure, close_up.better
        shift = (np.array(self.size) - 1) / 2 - self.zoom * (CROP_SIZE - 1) / 2 - np.array([0, close_up.rise])
        self.expected = align.TEMPLATE * self.zoom + shift
        self.middle = self.expected.mean(axis=0)
        self._eyes = math.dist(self.expected[0], self.expected[1])

    def nearest(self, faces: list[Face]) -> Face | None:
        """Return the face that the close-up is of: the nearest to where it should be, of about the right size."""
        best, least = None, 1.5 * self._eyes
        for face in faces:
            three = align.three_points(face.points)
            distance = math.dist(three.sum(axis=0) / 3, self.middle)
            if 0.5 < math.dist(three[0], three[1]) / self._eyes < 2 and distance < least:
                best, least = face, distance
        return best


def _back(face: Face, matrix: NDArray[np.float64]) -> Face:
    """Map a face from its close-up to the picture; the box's sides stay along the picture's."""
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.asarray(face.box, np.float64).reshape(2, 2)
    centre = align.apply(inverse, corners.mean(axis=0, keepdims=True))[0]
    half = (corners[1] - corners[0]) / 2 * align.scale(inverse)
    if abs(matrix[1, 0]) > abs(matrix[0, 0]):  # a face on its side
        half = half[::-1]
    box = np.concatenate([centre - half, centre + half]).astype(np.float32)
    return Face(box, face.score, align.apply(inverse, face.points).astype(np.float32))


def _scaled(face: Face, ratio: NDArray[np.float64]) -> Face:
    """Map a face from a shrunk picture to the picture; pixel centres lie at +0.5."""
    points = (face.points + 0.5) * ratio - 0.5
    return Face((face.box * np.tile(ratio, 2)).astype(np.float32), face.score, points.astype(np.float32))


def _turned_face(face: Face, turns: int, middle: NDArray[Any], to: NDArray[Any]) -> Face:
    """Turn a face clockwise by quarter turns about a point (2,), and move that point to another."""
    points = np.concatenate([face.points, face.box.reshape(2, 2)]) - middle
    turned = np.ascontiguousarray(points, np.float64).view(np.complex128) * _TURNED[turns]
    placed = (turned.view(np.float64) + to).astype(np.float32)
    box = np.concatenate([placed[5:].min(axis=0), placed[5:].max(axis=0)])
    return Face(box, face.score, placed[:5])


def _best(faces: list[tuple[Face, bool]]) -> float:
    """Return the best score of faces that a closer look saw too, 0 where there is none."""
    return max((face.score for face, close in faces if close), default=0.0)


def _turns(face: Face) -> int:
    """Return the counter-clockwise quarter turns that make a face upright, to the nearest."""
    affine = align.similarity(face.points)
    return round(-math.atan2(affine[1, 0], affine[0, 0]) / (math.pi / 2)) % 4


def _ratio(picture: Picture, small: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return picture pixels per pixel of its shrunk copy, x and y."""
    return np.asarray(np.array(picture.size) / (small.shape[1], small.shape[0]), np.float64)


def _look(luma: NDArray[np.uint8], face: Face) -> NDArray[np.float32]:
    """Return the aligned grey patch of a face, float32 (576,), of zero mean and unit length."""
    matrix = align.similarity(face.points) * (_LOOK / CROP_SIZE)
    if not np.isfinite(matrix).all():
        return np.zeros(_LOOK * _LOOK, np.float32)
    return registration.grey_patch(luma, matrix, (_LOOK, _LOOK))


def _jumped(before: list[Face], after: list[Face]) -> bool:
    """Tell whether the largest face of either keyframe has no counterpart close by in the other."""
    if not before or not after:
        return bool(before or after)
    for faces, others in ((before, after), (after, before)):
        face = max(faces, key=_area)
        middle = _middle(face)
        nearest = min(math.dist(_middle(other), middle) for other in others)
        if nearest > JUMP * math.sqrt(_area(face)):
            return True
    return False


def _middle(face: Face) -> tuple[float, float]:
    x0, y0, x1, y1 = face.box.tolist()
    return (x0 + x1) / 2, (y0 + y1) / 2


def _area(face: Face) -> float:
    x0, y0, x1, y1 = face.box.tolist()
    return float(max(x1 - x0, 0.0) * max(y1 - y0, 0.0))
