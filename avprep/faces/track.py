"""Faces of keyframes to one subject to five points per frame, smoothed. Pure arithmetic on boxes and points."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from avprep import boxes
from avprep.errors import Reject
from avprep.faces.detectors.base import Face

JUMP = 0.25
"""Movement between keyframes, in face sizes, beyond which the frames between become keyframes too."""
MAX_GAP = 12
"""Frames without the face that are interpolated; a longer gap fails the clip."""
SMOOTHING = 3.0
"""Standard deviation of the smoothing kernel in frames: 120 ms."""

Subject = Literal["largest", "central"]


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One face in one frame.

    face: in source pixels.
    appearance: float32 (N,), aligned grey patch of zero mean and unit length; two are compared by their product.
    """

    face: Face
    appearance: NDArray[np.float32]


@dataclass(eq=False)
class Track:
    """The same face over time: frame -> detection, in order of frames."""

    detections: dict[int, Detection] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """The last frame it was detected in."""
        return next(reversed(self.detections))


@dataclass(frozen=True)
class Detections:
    """What was detected in a clip.

    by_frame: keyframe -> faces; a keyframe without faces has an empty list.
    cuts: frames that begin a new shot.
    size: width and height of the pictures in pixels.
    """

    n_frames: int
    size: tuple[int, int]
    by_frame: dict[int, list[Detection]]
    cuts: frozenset[int]


def link(found: Detections) -> list[Track]:
    """Join faces of successive keyframes into tracks: best overlap first, over a cut only if the appearance agrees."""
    tracks: list[Track] = []
    for frame in sorted(found.by_frame):
        open_tracks = [track for track in tracks if frame - track.last - 1 <= MAX_GAP]
        faces = found.by_frame[frame]
        pairs = sorted(
            (
                (boxes.overlap(track.detections[track.last].face.box, detection.face.box), -t, -s)
                for t, track in enumerate(open_tracks)
                for s, detection in enumerate(faces)
                if _same(track, detection, frame, found.cuts)
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
        tracks += [Track({frame: face}) for s, face in enumerate(faces) if -s not in taken_faces]
    return tracks


def choose(tracks: list[Track], found: Detections, subject: Subject, hints: dict[int, NDArray[np.float32]]) -> Track:
    """Choose the clip's subject.

    `largest`: the largest total box area. `central`: the smallest mean distance to the picture's centre among the
    tracks that are there for at least half as long as the longest. hints: frame -> the data set's own face box; where
    there are any, the track that overlaps them most is the subject.
    Raises Reject(`no_face`).
    """
    if not tracks:
        raise Reject("no_face", "no face was found in any keyframe")

    def area(track: Track) -> float:
        return float(sum(np.prod(boxes.extent(d.face.box)) for d in track.detections.values()))

    if hints:
        agreed = [
            sum(boxes.overlap(d.face.box, hints[frame]) for frame, d in track.detections.items() if frame in hints)
            for track in tracks
        ]
        if max(agreed) > 0:
            return tracks[int(np.argmax(agreed))]
    if subject == "largest":
        return max(tracks, key=area)
    longest = max(len(track.detections) for track in tracks)
    centre = np.asarray(found.size) / 2

    def distance(track: Track) -> float:
        return float(np.mean([np.linalg.norm(boxes.middle(d.face.box) - centre) for d in track.detections.values()]))

    return min((track for track in tracks if 2 * len(track.detections) >= longest), key=distance)


def check_gaps(subject: Track, tracks: list[Track], found: Detections) -> None:
    """Raise Reject(`face_lost`), with what is there, where the subject is missing for more than `MAX_GAP` frames.

    tracks: all that were linked. Those that are never there together with the subject may show the same face: only
    where they are missing too is the face known to be.
    """
    first, length = _longest_gap(subject.detections, found.n_frames)
    if length <= MAX_GAP:
        return
    maybe = {frame for track in tracks if track is subject or _apart(track, subject) for frame in track.detections}
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


def points_per_frame(track: Track, n_frames: int) -> NDArray[np.float64]:
    """Interpolate a track's points linearly to every frame, float64 (T, 5, 2); the ends are held.

    See `check_gaps` for how long they may be.
    """
    frames = np.array(list(track.detections))
    found = np.stack([detection.face.points for detection in track.detections.values()]).astype(np.float64)
    flat = found.reshape(len(frames), -1)
    every = np.arange(n_frames)
    return np.stack([np.interp(every, frames, column) for column in flat.T], axis=1).reshape(n_frames, *found.shape[1:])


def smooth(points: NDArray[np.float64], sigma: float = SMOOTHING) -> NDArray[np.float64]:
    """Smooth points over time by local linear regression with a Gaussian kernel.

    points: (T, 5, 2). Symmetric, so nothing lags; linear, so steady movement and the clip's ends are not bent.
    """
    n_frames = len(points)
    reach = int(np.ceil(3 * sigma))
    offsets = np.arange(-reach, reach + 1)
    frames = np.arange(n_frames)[:, None] + offsets
    weights = np.exp(-0.5 * (offsets / sigma) ** 2) * ((frames >= 0) & (frames < n_frames))
    s0 = weights.sum(axis=1)
    s1 = (weights * offsets).sum(axis=1)
    s2 = (weights * offsets**2).sum(axis=1)
    spread = s0 * s2 - s1**2
    line = (s2[:, None] - s1[:, None] * offsets) * weights
    # A single frame has no slope: the regression is then the point itself.
    kernel = np.where(spread[:, None] > 0, line / np.where(spread > 0, spread, 1)[:, None], weights / s0[:, None])
    flat = points.reshape(n_frames, -1)
    around = flat[np.clip(frames, 0, n_frames - 1)]
    return np.asarray(np.einsum("tk,tkc->tc", kernel, around).reshape(points.shape), np.float64)


def face_size(track: Track) -> float:
    """Return the median face size of a track: the mean of box width and height, in source pixels."""
    return float(np.median([boxes.extent(d.face.box).mean() for d in track.detections.values()]))


def jumped(before: list[Face], after: list[Face]) -> bool:
    """Return whether the largest face of either keyframe has no counterpart close by in the other."""
    if not before or not after:
        return bool(before or after)
    for faces, others in ((before, after), (after, before)):
        face = max(faces, key=lambda one: boxes.area(one.box))
        middle = boxes.middle(face.box)
        nearest = min(math.dist(boxes.middle(other.box), middle) for other in others)
        if nearest > JUMP * math.sqrt(boxes.area(face.box)):
            return True
    return False


def _same(track: Track, detection: Detection, frame: int, cuts: frozenset[int]) -> bool:
    before = track.detections[track.last]
    shared = boxes.overlap(before.face.box, detection.face.box)
    if any(track.last < cut <= frame for cut in cuts):
        return shared >= 0.5 and float(before.appearance @ detection.appearance) >= 0.8
    return shared >= 0.2


def _longest_gap(frames: Iterable[int], n_frames: int) -> tuple[int, int]:
    """Return the first frame and the length of the longest stretch that holds none of some frames."""
    edges = [-1, *sorted(frames), n_frames]
    return max(((before + 1, after - before - 1) for before, after in pairwise(edges)), key=lambda gap: gap[1])


def _apart(one: Track, other: Track) -> bool:
    """Return whether one track ends before the other begins."""
    return one.last < next(iter(other.detections)) or other.last < next(iter(one.detections))
