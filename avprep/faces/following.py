"""Following the faces of a clip from keyframe to keyframe.

A face is found again by registration for as long as it looks the same, and detected again, close up, every
`REDETECT_EVERY` frames. Registration's error by then is shared out over the keyframes between. That is steadier than
detecting every time, and faster. The whole picture is searched at the start of each shot, when a face is lost, and
every three seconds.

A face may be upside down or on its side. Detectors find such faces too, at poorer scores and with points in the wrong
places. So where the search starts afresh, a face with a doubtful score is detected four ways up; and until a shot has
shown a sure one, the picture itself is searched the other ways up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from avprep import boxes
from avprep.faces import align, registration, views
from avprep.faces.detectors.base import Detector, Face
from avprep.faces.registration import Anchor, Similarity, appearance
from avprep.faces.track import Detection, jumped
from avprep.faces.views import CloseUps, Keyframe
from avprep.media.picture import Picture
from avprep.schema import FPS

FOLLOWED = 3
"""Faces that are followed: the largest ones."""
REDETECT_EVERY = 10
"""Frames after which a face is detected again even though registration still finds it."""
SEARCH_EVERY = 3 * FPS
"""Frames after which the whole picture is searched even though faces are being followed."""
TURNS = (2, 1, 3)
"""Quarter turns of a picture that is not upright; half a turn first, where detectors find a face at wrong points."""


@dataclass(frozen=True, eq=False)
class _Followed:
    """A face that is being followed.

    anchor: its appearance when it was last detected, in frame `frame`; None where that shows too little.
    onto: the last keyframe → the anchor's patch; None where that is the anchor's own.
    since: the keyframes that it was registered in since then, and the detections.
    """

    detection: Detection
    frame: int
    anchor: Anchor | None
    onto: Similarity | None = None
    since: tuple[tuple[int, Detection], ...] = ()

    @property
    def face(self) -> Face:
        """Where it was in the last keyframe."""
        return self.detection.face


class Following:
    """Follows faces from keyframe to keyframe: by registration while they look the same, else by close-ups.

    cuts: frames that begin a new shot, found so far; it grows while frames are added.
    detect_every: frames from one keyframe to the next; 1 detects in each of them.
    """

    def __init__(self, detector: Detector, cuts: set[int], detect_every: int) -> None:
        self._detector = detector
        self._close_ups = CloseUps(detector)
        self._cuts = cuts
        self._redetect_every = REDETECT_EVERY if detect_every > 1 else 1
        self._found: dict[int, list[Detection]] = {}
        self._searched = -SEARCH_EVERY  # the frame
        self._turns: int | None = None  # that make the shot's faces upright; None before it has shown one
        self._followed: list[_Followed] = []

    def add(self, frame: int, picture: Picture, between: list[tuple[int, Picture]]) -> None:
        """Follow the faces into a keyframe; into the frames `between` it and the last one too where a face jumped."""
        before = self._followed
        keyframe = Keyframe(frame, picture)
        faces = self._faces(keyframe)
        if between and jumped([one.face for one in before], faces):
            self._followed = before
            for earlier, skipped in between:
                self._faces(Keyframe(earlier, skipped))
            self._faces(keyframe)

    def finish(self) -> dict[int, list[Detection]]:
        """Return the faces of each keyframe."""
        return self._found

    def _faces(self, keyframe: Keyframe) -> list[Face]:
        """Follow the known faces; search the whole picture where that is due or one is lost."""
        frame, cut = keyframe.frame, keyframe.frame in self._cuts
        followed = [self._follow(one, keyframe) for one in self._followed]
        found = [one for one in followed if one is not None]
        if cut and not found:
            self._turns = None
        if cut or not found or len(found) < len(followed) or frame - self._searched >= SEARCH_EVERY:
            self._searched = frame
            found = self._search(keyframe, found)
        self._followed = sorted(found, key=lambda one: _area(one.face), reverse=True)[:FOLLOWED]
        self._found[frame] = [one.detection for one in found]
        return [one.face for one in found]

    def _follow(self, one: _Followed, keyframe: Keyframe) -> _Followed | None:
        """Find a face where it was before; None where it is not there, or over a cut does not look the same."""
        frame, registered = keyframe.frame, None
        if one.anchor is not None:
            onto = one.anchor.find(keyframe.luma, one.onto or one.anchor.onto)
            if onto is not None:
                registered = one.anchor.face_at(onto)
                if frame - one.frame < self._redetect_every:
                    detection = Detection(registered, appearance(keyframe.luma, registered))
                    return replace(one, detection=detection, onto=onto, since=(*one.since, (frame, detection)))
        if registered is None and frame in self._cuts:
            return None
        face = self._close_ups.detect(keyframe, registered or one.face)
        if face is None:
            return None
        if registered is not None:
            self._correct(one, frame, face.points - registered.points)
        return self._detected(face, keyframe)

    def _detected(self, face: Face, keyframe: Keyframe) -> _Followed:
        anchor = registration.anchor(face, keyframe.luma) if self._redetect_every > 1 else None
        return _Followed(Detection(face, appearance(keyframe.luma, face)), keyframe.frame, anchor)

    def _correct(self, one: _Followed, frame: int, error: NDArray[np.float32]) -> None:
        """Share registration's error at a new detection out over the keyframes since the last one."""
        for number, detection in one.since:
            off = error * np.float32((number - one.frame) / (frame - one.frame))
            box = detection.face.box + np.tile(align.three_points(off).mean(axis=0), 2).astype(np.float32)
            corrected = Face(box, detection.face.score, detection.face.points + off)
            found = self._found[number]
            found[:] = [Detection(corrected, other.appearance) if other is detection else other for other in found]

    def _search(self, keyframe: Keyframe, known: list[_Followed]) -> list[_Followed]:
        """Detect in the whole picture, where none is known ever more finely until it shows a face.

        The largest new faces get a close-up. Where a shot begins without a sure one, the picture is searched all ways
        up.
        """
        new = self._new_faces(keyframe, known, self._turns or 0)
        if not known:
            if self._turns is None and _best(new) < self._close_ups.sure:
                for turns in TURNS:
                    turned = self._new_faces(keyframe, known, turns)
                    if _best(turned) > self._close_ups.better * _best(new):
                        new = [(face, close) for face, close in turned if close]  # detectors find much that is no face
            close = [face for face, close in new if close]
            if close:
                self._turns = views.turns_upright(max(close, key=_area))
        return [*known, *(self._detected(face, keyframe) for face, _ in new)]

    def _new_faces(self, keyframe: Keyframe, known: list[_Followed], turns: int) -> list[tuple[Face, bool]]:
        """Return faces that are not known yet, found by so many quarter turns, and whether a close-up shows them too.

        The largest come first, with the close-up's points; with nothing known there is one for each of four ways up.
        """
        picture, found = keyframe.picture, list[Face]()
        for side in self._detector.search_sides[: 1 if known else None]:
            small = picture.small(side)
            found = [
                views.from_shrunk(face, picture, small) for face in views.detect_turned(self._detector, small, turns)
            ]
            if found or max(picture.size) <= side:
                break
        new = [face for face in found if all(boxes.overlap(face.box, one.face.box) < 0.3 for one in known)]
        new.sort(key=_area, reverse=True)
        close_up = self._close_ups.detect if known else self._upright
        closer = [close_up(keyframe, face) for face in new[:FOLLOWED]]
        confirmed = [
            (face, False) if close is None else (close, True) for face, close in zip(new, closer, strict=False)
        ]
        return [*confirmed, *((face, False) for face in new[FOLLOWED:])]

    def _upright(self, keyframe: Keyframe, face: Face) -> Face | None:
        """Detect a face close up as it was found, and where that is not sure, the other ways up; return the best."""
        best = self._close_ups.detect(keyframe, face)
        score = face.score if best is None else best.score
        middle = (face.box[:2] + face.box[2:]) / 2
        for turns in TURNS if best is None or score < self._close_ups.sure else ():
            turned = self._close_ups.detect(keyframe, views.turned_face(face, turns, middle, middle))
            if turned is not None and turned.score > self._close_ups.better * score:
                best, score = turned, turned.score
        return best


def _area(face: Face) -> float:
    return boxes.area(face.box)


def _best(faces: list[tuple[Face, bool]]) -> float:
    """Return the best score of faces that a close-up shows too, 0 where there is none."""
    return max((face.score for face, close in faces if close), default=0.0)
