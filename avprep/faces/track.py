"""Face tracks, linked from keyframes by box and appearance, and the choice of the one to which a clip is cropped."""

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
"""Maximum frames without the face that are interpolated; a longer gap fails the clip."""

ALIKE, SURELY_ALIKE = 0.75, 0.85
"""Minimum correlation of a face's appearance before and after a cut: in the same place, and elsewhere. Measured on 26
people in 27 clips: at most 0.66 for two people; 0.77 for one person before and after a head turn in different light."""
NEAR = 0.2
"""Minimum overlap of two boxes in the same place."""

DISSOLVE, TRIED = 3 * FPS, 4
"""To find dissolves, a face is compared with detections of up to `DISSOLVE` frames before it, at most `TRIED` of them.
"""

Subject = Literal["largest", "central", "speaking"]


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """The result of detecting a followed face.

    points: float64 (5, 2), in its frame of reference. noise: their standard deviation there.
    size: number of the detector's size at which it was detected, as each has its own constant error; -1: none of them.
    """

    points: NDArray[np.float64]
    noise: float
    size: int = -1


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One face in one keyframe, and its motion up to there.

    face: in source pixels.
    appearance: float32 (N,), aligned grey patch of zero mean and unit length; two are compared by their dot product.
    onto: source pixels → the frame of reference in which the face is followed, approximately its crop.
    number: identifies that frame of reference; None for a face that is not followed.
    look: the result of detecting it, if it was detected here.
    path: the earlier frames since it was last recorded, each with the transform that `onto` is here.
    """

    face: Face
    appearance: NDArray[np.float32]
    onto: Similarity
    number: int | None = None
    look: Look | None = None
    path: tuple[tuple[int, Similarity], ...] = ()

    @classmethod
    def alone(cls, face: Face, luma: NDArray[np.uint8]) -> Detection:
        """Return the detection of a face that is not followed."""
        affine = align.similarity(face.points)
        onto = Similarity.of(affine)
        return cls(face, appearance(luma, affine), onto, look=Look(onto(face.points), noise=1.0))

    @property
    def frames(self) -> int:
        """The number of frames that it covers."""
        return 1 + len(self.path)

    def first(self, frame: int) -> int:
        """Return the first frame of its path, for a detection in this frame."""
        return self.path[0][0] if self.path else frame


@dataclass(eq=False)
class Track:
    """The same face over time: keyframe -> detection, in order of frames."""

    detections: dict[int, Detection] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """The last frame with the face."""
        return next(reversed(self.detections))

    @property
    def frames(self) -> list[int]:
        """The frames with the face."""
        return [frame for last, d in self.detections.items() for frame in (*(one for one, _ in d.path), last)]


@dataclass(frozen=True)
class Detections:
    """The faces that were detected in a clip.

    by_frame: keyframe -> faces; a keyframe without faces has an empty list.
    cuts: frames that begin a new shot.
    size: width and height of the pictures in pixels.
    seen: thumbnails of the pictures; if there are none, dissolves are not checked.
    """

    n_frames: int
    size: tuple[int, int]
    by_frame: dict[int, list[Detection]]
    cuts: frozenset[int]
    seen: Sequence[Thumbnail] = ()


def link(found: Detections) -> list[Track]:
    """Join faces of successive keyframes into tracks.

    A face that was followed joins its track; others join by overlap, best first. Across a cut or a dissolve, both join
    only if the appearance agrees, because pictures that mix two shots lead from one face to the other.
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
            # Within a dissolve it is unknown whose face is followed.
            parted = any(_followed(track, face, frame) for track in open_tracks)
            tracks.append(Track({frame: replace(face, path=()) if parted else face}))
    return tracks


def choose(tracks: list[Track], found: Detections, subject: Subject, hints: dict[int, NDArray[np.float32]]) -> Track:
    """Choose the clip's subject.

    `largest`: the largest total box area. `central`: the smallest mean distance to the picture's centre among the
    tracks that have at least half as many frames as the longest. `speaking`: as `largest`, if no model scores the
    mouths.
    hints: frame -> the data set's own face box, in source pixels. The track with the largest overlap with them is the
    subject, if any track overlaps.
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
    """Return a track's mean intersection over union with the data set's own boxes, 0 to 1."""
    frames = sum(d.frames for frame, d in subject.detections.items() if frame in hints)
    return _shared(subject, hints) / max(frames, 1)


def _shared(track: Track, hints: dict[int, NDArray[np.float32]]) -> float:
    """Return a track's overlap with the data set's own boxes, summed over its frames."""
    hinted = ((d, hints[frame]) for frame, d in track.detections.items() if frame in hints)
    return float(sum(d.frames * boxes.overlap(d.face.box, box) for d, box in hinted))


def area(track: Track) -> float:
    """Return the total box area of a track over its frames, in source pixels."""
    return float(sum(d.frames * boxes.area(d.face.box) for d in track.detections.values()))


def check_gaps(subject: Track, tracks: list[Track], found: Detections) -> None:
    """Raise Reject(`face_lost`), with the cause, if the subject is missing for more than `MAX_GAP` frames.

    tracks: all that were linked. Those that do not overlap the subject in time may show the same face, so the face is
    surely missing only where they are missing too.
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
    """Return how well a detection fits a track: above 1 for a face that was followed, else the overlap of the boxes."""
    if _followed(track, detection, frame):
        return 2.0
    return boxes.overlap(track.detections[track.last].face.box, detection.face.box)


def _followed(track: Track, detection: Detection, frame: int) -> bool:
    """Return whether a face was followed from the end of the track."""
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
        while cut - 1 in found.cuts:  # pictures between two shots may show both faces at once
            cut -= 1
        earlier = [seen for frame, seen in track.detections.items() if frame < cut]
        if not earlier or earlier[-1].appearance @ detection.appearance < (ALIKE if near else SURELY_ALIKE):
            return False
    elif not near:
        return False
    return not _dissolved(track, detection, frame, found.seen)


def _dissolved(track: Track, detection: Detection, frame: int, seen: Sequence[Thumbnail]) -> bool:
    """Return whether the picture has dissolved to another face than the track's."""
    recent = takewhile(lambda one: one[0] >= frame - DISSOLVE, reversed(track.detections.items()))
    unlike = [earlier for earlier, one in recent if one.appearance @ detection.appearance < ALIKE]
    return any(dissolves(seen[earlier : frame + 1]) for earlier in unlike[:: -(-len(unlike) // TRIED) or 1])


def _longest_gap(frames: Iterable[int], n_frames: int) -> tuple[int, int]:
    """Return the first frame and the length of the longest gap between the given frames."""
    edges = [-1, *sorted(frames), n_frames]
    return max(((before + 1, after - before - 1) for before, after in pairwise(edges)), key=lambda gap: gap[1])


def _apart(one: Track, other: Track) -> bool:
    """Return whether one track ends before the other begins."""
    return one.last < other.frames[0] or other.last < one.frames[0]
