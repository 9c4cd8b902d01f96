"""From a followed face to five points per frame: motion from registration, positions of eyes and mouth from detections.

Each is accurate in a different respect. Registration measures each motion to a fraction of a pixel, but drifts slowly,
and when the head turns, eyes and mouth move within the face. Detections locate eyes and mouth, but jump by pixels from
one to the next. So detections are smoothed heavily, and only in the frame of reference that moves with the face. The
frame-to-frame motion of the face stays in its points, and the face holds still in its crop.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from avprep.faces.registration import EXTENT, Similarity
from avprep.faces.track import Detection, Track

DRIFT = 0.2
"""Motion of points in the frame of reference per frame: standard deviation of a random walk, crop pixels."""
MISTAKEN = 0.35
"""The same as a fraction of their apparent motion by scaling and rotation, which may really be a head turning aside."""

SURE = 0.5
"""A size is weighted by its noise to the power of minus this. Measured: at 0 and at 1 the authors' own crops are
reproduced less well."""

Array = NDArray[np.float64]


class Points(NamedTuple):
    """A face's points in every frame, float64 (T, 5, 2) each, in source pixels.

    smoothed: from smoothed detections. detected: from unsmoothed detections.
    """

    smoothed: Array
    detected: Array


def points_per_frame(track: Track, n_frames: int, cuts: frozenset[int]) -> Points:
    """Return a track's points in every frame.

    Frames without the face are interpolated within a shot; at the ends of a shot the points are held constant. See
    `check_gaps` for their maximum number.
    """
    points = np.empty((n_frames, 2, 5, 2))
    known = [(frames, _in_source(detections)) for frames, detections in _stretches(track, cuts)]
    edges = [0, *(min(cut for cut in cuts if cut > frames[-1]) for frames, _ in known[:-1]), n_frames]
    for (frames, places), (first, end) in zip(known, pairwise(edges), strict=True):
        points[first:end] = _interpolated(np.arange(first, end), np.array(frames), places)
    return Points(*points.swapaxes(0, 1))


def whittaker(values: Array, noise: Array, drift: Array) -> Array:
    """Return the most likely trajectory of a random walk that was observed with noise (a Whittaker smoother).

    values: (N, C), observations in temporal order. noise: (N,), their standard deviations.
    drift: (N − 1,), the walk's standard deviation from each to the next.
    Minimises Σ (x − value)² / noise² + Σ (xₙ₊₁ − xₙ)² / drift²: a tridiagonal system.
    """
    weight, link = 1 / noise**2, 1 / drift**2
    diagonal = weight.copy()
    diagonal[:-1] += link
    diagonal[1:] += link
    right = weight[:, None] * values
    for n in range(1, len(values)):  # Gaussian elimination, then back substitution
        factor = link[n - 1] / diagonal[n - 1]
        diagonal[n] -= factor * link[n - 1]
        right[n] += factor * right[n - 1]
    course = right / diagonal[:, None]
    for n in range(len(values) - 2, -1, -1):
        course[n] += link[n] / diagonal[n] * course[n + 1]
    return course


def _stretches(track: Track, cuts: frozenset[int]) -> Iterator[tuple[list[int], dict[int, Detection]]]:
    """Split a track at cuts across which the face was not followed; yield the frames and detections of each part."""
    part: dict[int, Detection] = {}
    frames: list[int] = []
    for frame, detection in track.detections.items():
        new = [*(one for one, _ in detection.path), frame]
        if part and detection.number != part[frames[-1]].number and any(frames[-1] < cut <= new[0] for cut in cuts):
            yield frames, part
            part, frames = {}, []
        part[frame] = detection
        frames += new
    yield frames, part


def _interpolated(frames: NDArray[np.intp], known: NDArray[np.intp], values: Array) -> Array:
    """Interpolate values (N, …), given in the frames `known`, at other frames."""
    columns = [np.interp(frames, known, column) for column in values.reshape(len(known), -1).T]
    return np.stack(columns, axis=1).reshape(len(frames), *values.shape[1:])


def _in_source(detections: dict[int, Detection]) -> Array:
    """Return the points of each frame of a part of a track, in source pixels: smoothed and detected, see `Points`.

    Returns (N, 2, 5, 2).
    """
    looks = [(frame, one.look) for frame, one in detections.items() if one.look is not None]
    onto = [(number, to) for frame, one in detections.items() for number, to in (*one.path, (frame, one.onto))]
    noise, sizes = np.array([look.noise for _, look in looks]), np.array([look.size for _, look in looks])
    detected = _without_sizes(np.stack([look.points.ravel() for _, look in looks]), noise, sizes)
    courses = np.stack([whittaker(detected, noise, _drifts(detections)), detected], axis=1).reshape(-1, 2, 5, 2)
    times, frames = np.array([frame for frame, _ in looks]), np.array([frame for frame, _ in onto])
    return _taken_back([to for _, to in onto], _interpolated(frames, times, courses))


def _without_sizes(seen: Array, noise: Array, sizes: NDArray[np.intp]) -> Array:
    """Return detections (N, C) without the mean deviation of each size from the mean of the sizes.

    Detections alternate between sizes, and each size has its own constant error. The weight of a size does not depend
    on how often it was used, so that a photo and a clip of any length give the same estimate; it falls with its noise.
    """
    of_size = [sizes == size for size in np.unique(sizes)]
    means = [seen[these].mean(axis=0) for these in of_size]
    middle = np.average(means, axis=0, weights=[(noise[these] ** -SURE).mean() for these in of_size])
    seen = seen.copy()
    for these, mean in zip(of_size, means, strict=True):
        seen[these] += middle - mean
    return seen


def _drifts(detections: dict[int, Detection]) -> Array:
    """Return the standard deviation of the points' motion in the frame of reference between successive detections."""
    frames = [frame for frame, one in detections.items() if one.look is not None]
    turns = np.array([detections[frame].onto.turn for frame in frames])
    seeming = EXTENT * np.abs(np.log(turns[1:] / turns[:-1]))
    return np.asarray(np.sqrt(DRIFT**2 * np.diff(frames) + (MISTAKEN * seeming) ** 2), np.float64)


def _taken_back(onto: list[Similarity], points: Array) -> Array:
    """Apply to the points (N, …, 2) the inverse of each one's similarity."""
    each = (-1, *(1,) * (points.ndim - 2))
    turns, shifts = (np.array([getattr(to, name) for to in onto]).reshape(each) for name in ("turn", "shift"))
    moved = (np.ascontiguousarray(points).view(np.complex128)[..., 0] - shifts) / turns
    return np.ascontiguousarray(moved)[..., None].view(np.float64)
