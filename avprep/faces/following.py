"""Following the faces of a clip from frame to frame.

Registration says how a face moved, to a fraction of a pixel and without a detector's noise, but not where in the face
its eyes and mouth are. So a face is detected too, every so often, each time at another size, as it is or mirrored or
both: `avprep.faces.smoothing` averages these looks in the face's own frame.

A face may be upside down or on its side. Detectors find such faces too, at poorer scores and with points in the wrong
places. So where the search starts afresh, a face with a doubtful score is detected four ways up; and until a shot has
shown a sure one, the picture itself is searched the other ways up.
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
"""Faces that are followed: the largest ones."""
SEARCH_EVERY = 3 * FPS
"""Frames after which the whole picture is searched even though faces are being followed."""
SEARCH_AGAIN = 5
"""Frames from one search to the next while no face is followed, or one was lost lately."""
SETTLED = 3
"""How many times as rarely a face is detected once it was seen at all of the detector's sizes."""
CHANGED, SOON = 3.0, 4
"""A face is detected early, but so many frames apart, where growing and turning seem to have moved it by more (crop
pixels): its head may have turned aside, which registration cannot tell from that."""
UNSURE = 4.0
"""Noise of a face's points where no look shows it (crop pixels)."""
FIRST_LOOKS = 3
"""Maximum looks of the first size until one shows the face where it was expected."""
TURNED = 1.5
"""A first look that is further from where the face was expected (degrees) is taken again from there."""
MISSES = 2
"""Looks in a row, in one frame after another, that must miss a face for it to be given up."""
LOST = 20.0
"""A later look that is further from where the face was expected (crop pixels) is of a face that registration lost."""
TURNS = (2, 1, 3)
"""Quarter turns of a picture that is not upright; half a turn first, where detectors find a face at wrong points."""


class Following:
    """Follows the largest faces of a clip.

    cuts: frames that begin a new shot, found so far; it grows while frames are added.
    every: frames from one detection pass of a face to the next, until it was seen at all of the detector's sizes; then
        `SETTLED` times as many. 1 detects in each frame.
    """

    def __init__(self, detector: Detector, cuts: set[int], every: int) -> None:
        self._detector = detector
        self._views = views.viewer(detector)
        self._cuts = cuts
        self._every = every
        self._numbers = itertools.count()
        self._found: dict[int, list[Detection]] = {}
        self._searched = self._lost = -SEARCH_EVERY  # frames
        self._turns: int | None = None  # that make the shot's faces upright; None before it has shown one
        self._followed: list[FollowedFace] = []
        self._unseen: list[tuple[int, Picture]] = []  # since the last search, while no face is followed
        self._last: Keyframe | None = None

    def add(self, frame: int, picture: Picture) -> None:
        """Follow the faces into the next frame; detect where that is due, and where one is lost."""
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
        """Return the faces of each keyframe of a clip of so many frames."""
        self._end_shot(n_frames - 1)
        return self._found

    def _due(self, one: FollowedFace, frame: int) -> bool:
        sparse = self._every > 1 and one.looks >= self._views.sizes
        waited = frame - one.frame
        return waited >= self._every * (SETTLED if sparse else 1) or (waited >= SOON and one.changed > CHANGED)

    def _patience(self, frame: int) -> int:
        """Return how many frames after the last search the picture is searched again."""
        if not self._followed and self._every == 1:
            return 1
        missing = not self._followed or frame - self._lost <= MAX_GAP + 1  # what was lost may come back
        return SEARCH_AGAIN if missing else SEARCH_EVERY

    def _end_shot(self, frame: int) -> None:
        """Record where the faces are in a shot's last frame; detect there those not yet seen at all sizes.

        Otherwise the crops of a shot too short for the next detection pass would have the error of the first size.
        """
        for one in self._followed:
            if self._last is not None and one.path and one.looks < self._views.sizes:
                self._look(one, self._last)
        self._end(self._followed, frame)

    def _end(self, faces: list[FollowedFace], frame: int) -> None:
        """Record where some faces are in a keyframe, and were since the one before."""
        for one in faces:
            if one.path and one.path[-1][0] == frame:
                self._found.setdefault(frame, []).append(one.recorded())

    def _again(self, one: FollowedFace, keyframe: Keyframe) -> FollowedFace | None:
        """Detect a face that registration has lost where it was; None where it is not there."""
        face = self._views.find(keyframe, one.face)
        return None if face is None else self._started(face, keyframe)

    def _started(self, face: Face, keyframe: Keyframe) -> FollowedFace:
        """Follow a face from here, and back through the pictures that were not searched."""
        one = FollowedFace(next(self._numbers), face, keyframe.frame, keyframe.luma)
        if not self._look(one, keyframe):
            one.see(face, UNSURE)
        for frame, picture in reversed(self._unseen):
            if not one.move_back(picture.luma(), frame):
                break
        return one

    def _look(self, one: FollowedFace, keyframe: Keyframe) -> bool | None:
        """Detect a face close up, the first time until it is where it was expected.

        Returns whether it is there; None where no face is.
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
        """Detect in the whole picture, where none is followed ever more finely until it shows a face.

        The largest new faces are followed. Where a shot begins without a sure one, the picture is searched all ways up.
        """
        known = bool(self._followed)
        new = self._new_faces(keyframe, self._turns or 0)
        if not known:
            if self._turns is None and _best(new) < self._views.sure:
                for turns in TURNS:
                    turned = self._new_faces(keyframe, turns)
                    if _best(turned) > self._views.better * _best(new):
                        new = [(face, close) for face, close in turned if close]  # detectors find much that is no face
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
        """Return faces that are not known yet, found by so many quarter turns, and whether a close-up shows them too.

        The largest come first, with the close-up's points; with nothing known there is one for each of four ways up.
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
        """Detect a face close up as it was found, and where that is not sure, the other ways up; return the best."""
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
    """Return the best score of faces that a close-up shows too, 0 where there is none."""
    return max((face.score for face, close in faces if close), default=0.0)
