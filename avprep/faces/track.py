"""Faces of keyframes, linked into tracks by box and appearance, and the one of them that a clip is cropped to."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, takewhile
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from avprep import boxes
from avprep.errors import Reject
from avprep.faces import align
from avprep.faces.cuts import Thumbnail, dissolves
from avprep.faces.detectors.base import Face
from avprep.faces.registration import Similarity, appearance
from avprep.schema import FPS

MAX_GAP = 12
"""Frames without the face that are interpolated; a longer gap fails the clip."""

ALIKE, SURELY_ALIKE = 0.75, 0.85
"""Minimum correlation of a face's appearance before and after a cut: where it was, and anywhere else. Measured on 26
people in 27 clips: of two people at most 0.66, of one before and after he turns his head in other light 0.77."""
NEAR = 0.2
"""Minimum overlap of two boxes in the same place."""

DISSOLVE, TRIED = 3 * FPS, 4
"""A face is compared with detections of so many frames before it, at most so many of them, where the picture may have
dissolved in between."""

Subject = Literal["largest", "central", "speaking"]


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What detecting a followed face showed.

    points: float64 (5, 2), in its frame of reference. noise: how far they may be off there (a standard deviation).
    size: which of the detector's sizes it was shown in, for each has an error of its own; -1: none of them.
    """

    points: NDArray[np.float64]
    noise: float
    size: int = -1


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One face in one keyframe, and how it came there.

    face: in source pixels.
    appearance: float32 (N,), aligned grey patch of zero mean and unit length; two are compared by their product.
    onto: source pixels → the frame of reference in which the face is followed, about its crop.
    number: of that frame of reference; None for a face that is not followed.
    look: what detecting it showed, if it was detected here.
    path: earlier frames since it was last recorded, and the same as `onto` in each.
    """

    face: Face
    appearance: NDArray[np.float32]
    onto: Similarity
    number: int | None = None
    look: Look | None = None
    path: tuple[tuple[int, Similarity], ...] = ()

    @classmethod
    def alone(cls, face: Face, luma: NDArray[np.uint8]) -> Detection:
        """Return a face as it was detected once."""
        affine = align.similarity(face.points)
        onto = Similarity.of(affine)
        return cls(face, appearance(luma, affine), onto, look=Look(onto(face.points), noise=1.0))

    @property
    def frames(self) -> int:
        """How many frames it stands for."""
        return 1 + len(self.path)

    def first(self, frame: int) -> int:
        """Return the first frame that it was followed in to be here in this one."""
        return self.path[0][0] if self.path else frame


@dataclass(eq=False)
class Track:
    """The same face over time: keyframe -> detection, in order of frames."""

    detections: dict[int, Detection] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """The last frame it is there in."""
        return next(reversed(self.detections))

    @property
    def frames(self) -> list[int]:
        """The frames it is there in."""
        return [frame for last, d in self.detections.items() for frame in (*(one for one, _ in d.path), last)]


@dataclass(frozen=True)
class Detections:
    """What was detected in a clip.

    by_frame: keyframe -> faces; a keyframe without faces has an empty list.
    cuts: frames that begin a new shot.
    size: width and height of the pictures in pixels.
    seen: their thumbnails; where there are none, nothing dissolves.
    """

    n_frames: int
    size: tuple[int, int]
    by_frame: dict[int, list[Detection]]
    cuts: frozenset[int]
    seen: Sequence[Thumbnail] = ()


def link(found: Detections) -> list[Track]:
    """Join faces of successive keyframes into tracks.

    A face that was followed is the same; others join by overlap, best first. Over a cut, and where the picture
    dissolves, either joins only if the appearance agrees: what mixes two shots leads from one face to the other.
    """
    tracks: list[Track] = []
    for frame in sorted(found.by_frame):
        faces = found.by_frame[frame]
        begin = min((face.first(frame) for face in faces), default=frame)
        open_tracks = [track for track in tracks if begin - track.last - 1 <= MAX_GAP]
        pairs = sorted(
            (
                (_likeness(track, detection, frame), -t, -s)
                for t, track in enumerate(open_tracks)
                for s, detection in enumerate(faces)
                if _same(track, detection, frame, found)
            ),
            reverse=True,
        )
        taken_tracks: set[int] = set()
        taken_faces: set[int] = set()
        for _, t, s in pairs:
            if t not in taken_tracks and s not in taken_faces:
                taken_tracks.add(t)
                taken_faces.add(s)
                open_tracks[-t].detections[frame] = faces[-s]
        for face in (face for s, face in enumerate(faces) if -s not in taken_faces):
            # Whose face it is on the way from before a dissolve to after it is not known.
            parted = any(_followed(track, face, frame) for track in open_tracks)
            tracks.append(Track({frame: replace(face, path=()) if parted else face}))
    return tracks


def choose(tracks: list[Track], found: Detections, subject: Subject, hints: dict[int, NDArray[np.float32]]) -> Track:
    """Choose the clip's subject.

    `largest`: the largest total box area. `central`: the smallest mean distance to the picture's centre among the
    tracks that are there for at least half as long as the longest. `speaking`: as `largest`, where nothing judges
    mouths.
    hints: frame -> the data set's own face box, in source pixels; where there are any, the track that overlaps them
    most is the subject.
    Raises Reject(`no_face`).
    """
    if not tracks:
        raise Reject("no_face", "no face was found in any keyframe")

    if hints:
        best = max(tracks, key=lambda track: _shared(track, hints))
        if _shared(best, hints) > 0:
            return best
    if subject != "central":
        return max(tracks, key=area)
    longest = max(len(track.frames) for track in tracks)
    centre = np.asarray(found.size) / 2

    def distance(track: Track) -> float:
        away = [np.linalg.norm(boxes.middle(d.face.box) - centre) for d in track.detections.values()]
        return float(np.average(away, weights=[d.frames for d in track.detections.values()]))

    return min((track for track in tracks if 2 * len(track.frames) >= longest), key=distance)


def overlap(subject: Track, hints: dict[int, NDArray[np.float32]]) -> float:
    """Return how much of the data set's own boxes a track shares on average: intersection over union, 0 to 1."""
    frames = sum(d.frames for frame, d in subject.detections.items() if frame in hints)
    return _shared(subject, hints) / max(frames, 1)


def _shared(track: Track, hints: dict[int, NDArray[np.float32]]) -> float:
    """Return a track's overlap with the data set's own boxes, added up over its frames."""
    hinted = ((d, hints[frame]) for frame, d in track.detections.items() if frame in hints)
    return float(sum(d.frames * boxes.overlap(d.face.box, box) for d, box in hinted))


def area(track: Track) -> float:
    """Return the total box area of a track over its frames, in source pixels."""
    return float(sum(d.frames * boxes.area(d.face.box) for d in track.detections.values()))


def check_gaps(subject: Track, tracks: list[Track], found: Detections) -> None:
    """Raise Reject(`face_lost`), with what is there, where the subject is missing for more than `MAX_GAP` frames.

    tracks: all that were linked. Those that are never there together with the subject may show the same face: only
    where they are missing too is the face known to be.
    """
    first, length = _longest_gap(subject.frames, found.n_frames)
    if length <= MAX_GAP:
        return
    maybe = {frame for track in tracks if track is subject or _apart(track, subject) for frame in track.frames}
    hidden, missing = _longest_gap(maybe, found.n_frames)
    if missing > MAX_GAP:
        raise Reject(
            "face_lost", f"the face is not detected for {missing} frames from frame {hidden} (at most {MAX_GAP})"
        )
    cuts = sorted(cut for cut in found.cuts if first <= cut <= first + length)
    if cuts:
        raise Reject(
            "face_lost",
            f"the picture cuts at frame {cuts[0]}, and the faces before and after the cut do not look the same: it may "
            "be another person; cut the video there, or leave it out",
        )
    raise Reject(
        "face_lost",
        f"the face is not where it was for {length} frames from frame {first} (at most {MAX_GAP}): another face is "
        "detected there, or the same one jumps",
    )


def face_size(track: Track) -> float:
    """Return the median face size of a track: the mean of box width and height, in source pixels."""
    return statistics.median(boxes.size(d.face.box) for d in track.detections.values())


def _likeness(track: Track, detection: Detection, frame: int) -> float:
    """Return how surely a detection is of a track's face: above 1 for one that was followed, else their overlap."""
    if _followed(track, detection, frame):
        return 2.0
    return boxes.overlap(track.detections[track.last].face.box, detection.face.box)


def _followed(track: Track, detection: Detection, frame: int) -> bool:
    """Return whether a face was followed from where the track ends."""
    before = track.detections[track.last]
    return before.number is not None and before.number == detection.number and detection.first(frame) == track.last + 1


def _same(track: Track, detection: Detection, frame: int, found: Detections) -> bool:
    before, first = track.detections[track.last], detection.first(frame)
    followed = _followed(track, detection, frame)
    if not followed and not 0 < first - track.last <= MAX_GAP + 1:
        return False
    near = followed or boxes.overlap(before.face.box, detection.face.box) >= NEAR
    if crossed := [cut for cut in found.cuts if track.last < cut <= first]:
        cut = min(crossed)
        while cut - 1 in found.cuts:  # what lies between two shots may show both faces at once
            cut -= 1
        earlier = [seen for frame, seen in track.detections.items() if frame < cut]
        if not earlier or earlier[-1].appearance @ detection.appearance < (ALIKE if near else SURELY_ALIKE):
            return False
    elif not near:
        return False
    return not _dissolved(track, detection, frame, found.seen)


def _dissolved(track: Track, detection: Detection, frame: int, seen: Sequence[Thumbnail]) -> bool:
    """Return whether the picture has dissolved into one that shows another face than the track did."""
    recent = takewhile(lambda one: one[0] >= frame - DISSOLVE, reversed(track.detections.items()))
    unlike = [earlier for earlier, one in recent if one.appearance @ detection.appearance < ALIKE]
    return any(dissolves(seen[earlier : frame + 1]) for earlier in unlike[:: -(-len(unlike) // TRIED) or 1])


def _longest_gap(frames: Iterable[int], n_frames: int) -> tuple[int, int]:
    """Return the first frame and the length of the longest stretch that holds none of some frames."""
    edges = [-1, *sorted(frames), n_frames]
    return max(((before + 1, after - before - 1) for before, after in pairwise(edges)), key=lambda gap: gap[1])


def _apart(one: Track, other: Track) -> bool:
    """Return whether one track ends before the other begins."""
    return one.last < other.frames[0] or other.last < one.frames[0]
