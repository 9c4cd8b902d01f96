"""Validated arrays of a clip, from the members of its sample: windows, landmarks, and what is computed from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avprep.errors import ShardError
from avprep.schema import ARRAYS, N_POINTS, decode_array
from davs_model.data.clips import NO_WORDS, Clips
from davs_model.data.sampling import spoken_part

WHOLE_SOUND = "all windows"
"""Name of the windows of the whole sample; a clip may be a part of it."""
MIN_DEVIATION = 1e-3
"""Minimum standard deviation of a coefficient; that of silence is 0."""


def statistics(windows: NDArray[np.generic], length: int = 2) -> NDArray[np.float32]:
    """Return mean and standard deviation of each coefficient of a clip's windows (T, 12, 20): float32 (2, 12).

    length: `ALL_STATISTICS`: with their covariance, (14, 12).
    """
    mean, deviation = windows.mean((0, 2), dtype=np.float64), windows.std((0, 2), dtype=np.float64)
    rows = [mean, deviation.clip(MIN_DEVIATION)]
    if length > len(rows):
        steps = np.asarray(windows, np.float64).transpose(1, 0, 2).reshape(windows.shape[1], -1)
        rows += list(np.cov(steps, bias=True))
    return np.stack(rows).astype(np.float32)


def windows_of(clips: Clips, row: int, members: Mapping[str, bytes]) -> dict[str, NDArray[Any]]:
    """Return the windows of a clip, and which of them hold nothing but real audio, from the members of its `mfcc`."""
    n_frames, first = int(clips.whole[row]), int(clips.first[row])
    found: dict[str, NDArray[Any]] = {}
    for name, (dtype, shape) in ARRAYS["mfcc"].items():
        array = _array(clips, row, members, name)
        if array.dtype.str != dtype or array.shape != (n_frames, *shape):
            raise ShardError(
                f"{clips.key(row)}: {name} is {array.dtype.str} {array.shape}, expected {dtype} {(n_frames, *shape)}"
            )
        if not np.isfinite(array).all():
            raise ShardError(f"{clips.key(row)}: {name} holds numbers that are not finite")
        if name == "mfcc.npy":
            found[WHOLE_SOUND] = array
        found[name] = array[first : first + int(clips.n_frames[row])]
    return found


def heard(clips: Clips, row: int, arrays: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    """Return 1 for each frame whose window holds nothing but real audio while the clip's speaker speaks, else 0.

    A window of digital silence is never heard, whether or not the times of words are known.
    """
    n_frames, heard = int(clips.n_frames[row]), arrays["valid.npy"].astype(np.float32)
    words = clips.timed[row] if clips.timed else NO_WORDS
    first, end = spoken_part(n_frames, words, arrays["valid.npy"])
    heard[:first] = heard[end:] = 0
    sizes = np.abs(arrays["mfcc.npy"].astype(np.float32)).max((1, 2))
    heard[sizes < MIN_DEVIATION] = 0  # the only coefficient of a flat spectrum is c0, which windows lack
    return heard


def points_of(clips: Clips, row: int, members: Mapping[str, bytes]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the five landmarks of each frame in pixels of the crop, (T, 5, 2), and its affine transform, (T, 2, 3).

    members: those of the clip's `crop`.
    """
    first = int(clips.first[row])
    points, affine = (_array(clips, row, members, name).astype(np.float32) for name in ("points.npy", "affine.npy"))
    if points.shape != (int(clips.whole[row]), N_POINTS, 2) or affine.shape != (len(points), 2, 3):
        raise ShardError(f"{clips.key(row)}: points.npy {points.shape} and affine.npy {affine.shape} do not agree")
    crops = points @ affine[:, :, :2].transpose(0, 2, 1) + affine[:, None, :, 2]
    part = slice(first, first + int(clips.n_frames[row]))
    return crops[part], affine[part]


def _array(clips: Clips, row: int, members: Mapping[str, bytes], name: str) -> NDArray[np.generic]:
    """Decode a member of a clip's sample; ShardError that names the clip and the member."""
    try:
        return decode_array(members[name])
    except ShardError as error:
        raise ShardError(f"{clips.key(row)}: {name}: {error}") from error
