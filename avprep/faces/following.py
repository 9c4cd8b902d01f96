"""Following the faces of a clip from frame to frame.

Registration measures how a face moved, to a fraction of a pixel and without a detector's noise, but not where in the
face its eyes and mouth are. So a face is also detected at intervals, each time at another size, unchanged, mirrored or
both. `avprep.faces.smoothing` averages these detections in the face's own frame of reference.

A face may be upside down or on its side. Detectors find such faces too, but with lower scores and wrong points. So when
a search starts without a known face, a face with a low score is detected in all four orientations. Until a shot has
shown a face with a sure score, the whole picture is also searched in the other orientations.
"""

from __future__ import annotations

import itertools

from avprep import boxes
from avprep.faces import views
from avprep.faces.detectors.base import Detector, Face
from avprep.faces.followed_face import FollowedFace
from avprep.faces.track import MAX_GAP, Detection
from avprep.faces.views import Keyframe
from avprep.media.picture import Picture
from avprep.schema import FPS

FOLLOWED = 3
"""Maximum number of faces that are followed: the largest ones."""
SEARCH_EVERY = 3 * FPS
"""Frames between searches of the whole picture while faces are being followed."""
SEARCH_AGAIN = 5
"""Frames between searches while no face is followed or one was lost recently."""
SETTLED = 3
"""Factor by which the interval between detections grows once a face was detected at all of the detector's sizes."""
CHANGED, SOON = 3.0, 4
"""A face is detected early if scaling and rotation appear to have moved its points by more than `CHANGED` crop pixels,
but at least `SOON` frames after the last time. The head may have turned aside, which registration cannot distinguish
from scaling and rotation."""
UNSURE = 4.0
"""Noise of a face's points if no repeated detection shows it (crop pixels)."""
FIRST_LOOKS = 3
"""Maximum detections at the first size until one finds the face where it was expected."""
TURNED = 1.5
"""A first detection that differs by more from the expected angle (degrees) is repeated from there."""
MISSES = 2
"""Number of detections in a row, in consecutive frames, that must miss a face before it is given up."""
LOST = 20.0
"""If a later detection is further from the expected position (crop pixels), registration has lost the face."""
TURNS = (2, 1, 3)
"""Quarter turns to try for a picture that is not upright; half a turn first, as detectors find such faces, but with
wrong points."""


class Following:
    """Follows the largest faces of a clip.

    cuts: frames that begin a new shot, found so far; it grows while frames are added.
    every: frames from one detection pass of a face to the next, until it was detected at all of the detector's sizes;
        then `SETTLED` times as many. 1 detects in each frame.
    """

    def __init__(self, detector: Detector, cuts: set[int], every: int) -> None:
        self._detector = detector
        self._views = views.viewer(detector)
        self._cuts = cuts
        self._every = every
        self._numbers = itertools.count()
        self._found: dict[int, list[Detection]] = {}
        self._searched = self._lost = -SEARCH_EVERY  # frames
        self._turns: int | None = None  # that make the shot's faces upright; None until it shows one
        self._followed: list[FollowedFace] = []
        self._unseen: list[tuple[int, Picture]] = []  # since the last search, while no face is followed
        self._last: Keyframe | None = None

    def add(self, frame: int, picture: Picture) -> None:
        """Follow the faces into the next frame; detect those that are due or lost."""
        keyframe, cut = Keyframe(frame, picture), frame in self._cuts
        if cut:
            self._end_shot(frame - 1)
        self._last = keyframe
        before = self._followed
        self._followed = [one for one in before if one.move(keyframe.luma, frame, cut=cut)]
        lost = [one for one in before if one not in self._followed]
        if not cut:
            self._end(lost, frame - 1)
            self._followed += [again for one in lost if (again := self._again(one, keyframe)) is not None]
        for one in [one for one in self._followed if self._due(one, frame)]:
            there = self._look(one, keyframe)
            one.misses += there is None
            if there is False or one.misses >= MISSES:
                self._followed.remove(one)
                again = self._again(one, keyframe)
                self._followed += [] if again is None else [again]
        if cut and not self._followed:
            self._turns, self._unseen = None, []
        fewer = len(self._followed) < len(before)
        self._lost = frame if fewer else self._lost
        if cut or fewer or frame - self._searched >= self._patience(frame):
            self._searched = frame
            self._found.setdefault(frame, [])
            self._search(keyframe)
            self._unseen = []
        elif not self._followed:
            self._unseen.append((frame, picture))
        if frame in self._found or any(one.frame == frame for one in self._followed):
            self._end(self._followed, frame)

    def finish(self, n_frames: int) -> dict[int, list[Detection]]:
        """Return the faces of each keyframe of a clip of `n_frames` frames."""
        self._end_shot(n_frames - 1)
        return self._found

    def _due(self, one: FollowedFace, frame: int) -> bool:
        sparse = self._every > 1 and one.looks >= self._views.sizes
        waited = frame - one.frame
        return waited >= self._every * (SETTLED if sparse else 1) or (waited >= SOON and one.changed > CHANGED)

    def _patience(self, frame: int) -> int:
        """Return the number of frames from the last search to the next."""
        if not self._followed and self._every == 1:
            return 1
        missing = not self._followed or frame - self._lost <= MAX_GAP + 1  # a lost face may come back
        return SEARCH_AGAIN if missing else SEARCH_EVERY

    def _end_shot(self, frame: int) -> None:
        """Record the faces in a shot's last frame; detect there those not yet detected at all sizes.

        Otherwise the crops of a shot too short for the next detection pass would have the error of the first size.
        """
        for one in self._followed:
            if self._last is not None and one.path and one.looks < self._views.sizes:
                self._look(one, self._last)
        self._end(self._followed, frame)

    def _end(self, faces: list[FollowedFace], frame: int) -> None:
        """Record the positions of some faces in a keyframe and since the previous one."""
        for one in faces:
            if one.path and one.path[-1][0] == frame:
                self._found.setdefault(frame, []).append(one.recorded())

    def _again(self, one: FollowedFace, keyframe: Keyframe) -> FollowedFace | None:
        """Detect a face that registration has lost at its last position; None if it is not there."""
        face = self._views.find(keyframe, one.face)
        return None if face is None else self._started(face, keyframe)

    def _started(self, face: Face, keyframe: Keyframe) -> FollowedFace:
        """Start to follow a face, and follow it back through the pictures that were not searched."""
        one = FollowedFace(next(self._numbers), face, keyframe.frame, keyframe.luma)
        if not self._look(one, keyframe):
            one.see(face, UNSURE)
        for frame, picture in reversed(self._unseen):
            if not one.move_back(picture.luma(), frame):
                break
        return one

    def _look(self, one: FollowedFace, keyframe: Keyframe) -> bool | None:
        """Detect a face close up; the first time, repeat this until it is at the expected position.

        Returns whether it is there; None if no face is found.
        """
        seen = self._views.look(keyframe, one.expected.affine, one.looks)
        for _ in range(FIRST_LOOKS - 1 if one.looks == 0 else 0):
            if seen is None:
                return None
            off, turned = one.distance(seen[0])
            if off <= self._views.off and turned <= TURNED:
                break
            one.begin(seen[0], keyframe.luma)
            seen = self._views.look(keyframe, one.expected.affine, 0)
        if seen is None:
            return None
        if one.distance(seen[0])[0] > LOST:
            return False
        one.see(*seen)
        one.looked(keyframe.frame, keyframe.luma)
        return True

    def _search(self, keyframe: Keyframe) -> None:
        """Detect in the whole picture; if no face is followed, at increasing resolution until a face is found.

        The largest new faces are followed. If a shot begins without a sure one, all four orientations are searched.
        """
        known = bool(self._followed)
        new = self._new_faces(keyframe, self._turns or 0)
        if not known:
            if self._turns is None and _best(new) < self._views.sure:
                for turns in TURNS:
                    turned = self._new_faces(keyframe, turns)
                    if _best(turned) > self._views.better * _best(new):
                        new = [(face, close) for face, close in turned if close]  # detectors have many false positives
            close = [face for face, close in new if close]
            if close:
                self._turns = views.turns_upright(max(close, key=_area))
        for n, (face, _) in enumerate(new):
            if n < FOLLOWED:
                self._followed.append(self._started(face, keyframe))
            else:
                self._found[keyframe.frame].append(Detection.alone(face, keyframe.luma))
        self._followed.sort(key=lambda one: _area(one.face), reverse=True)
        self._end(self._followed[FOLLOWED:], keyframe.frame)
        del self._followed[FOLLOWED:]

    def _new_faces(self, keyframe: Keyframe, turns: int) -> list[tuple[Face, bool]]:
        """Return new faces, found in the picture turned by quarter turns, and whether a close-up confirms each.

        The largest come first, with the close-up's points. If no face is known, close-ups of all four orientations are
        tried.
        """
        sides = getattr(self._detector, "search_sides", (self._detector.picture_side,))
        picture, found, known = keyframe.picture, list[Face](), [one.face for one in self._followed]
        for side in sides[: 1 if known else None]:
            small = picture.small(side)
            found = [
                views.from_shrunk(face, picture, small) for face in views.detect_turned(self._detector, small, turns)
            ]
            if found or max(picture.size) <= side:
                break
        new = [face for face in found if all(boxes.overlap(face.box, one.box) < 0.3 for one in known)]
        new.sort(key=_area, reverse=True)
        close_up = self._views.find if known else self._upright
        closer = [close_up(keyframe, face) for face in new[:FOLLOWED]]
        confirmed = [
            (face, False) if close is None else (close, True) for face, close in zip(new, closer, strict=False)
        ]
        return [*confirmed, *((face, False) for face in new[FOLLOWED:])]

    def _upright(self, keyframe: Keyframe, face: Face) -> Face | None:
        """Detect a face close up as found and, if that is not sure, in the other orientations; return the best."""
        best = self._views.find(keyframe, face)
        score = face.score if best is None else best.score
        middle = (face.box[:2] + face.box[2:]) / 2
        for turns in TURNS if best is None or score < self._views.sure else ():
            turned = self._views.find(keyframe, views.turned_face(face, turns, middle, middle))
            if turned is not None and turned.score > self._views.better * score:
                best, score = turned, turned.score
        return best


def _area(face: Face) -> float:
    return boxes.area(face.box)


def _best(faces: list[tuple[Face, bool]]) -> float:
    """Return the best score of the faces that a close-up confirms, 0 if there is none."""
    return max((face.score for face, close in faces if close), default=0.0)
