"""Offset and confidence from features of audio and video: the mean distance at each offset, as SyncNet measures it.

`audio_lead_frames` is positive if the audio is early: what is heard at frame i is seen at frame i + lead. For each
whole lead, the curve has the mean of ‖v_i − a_{i−lead}‖₂ over the pairs that exist. Confidence is its median minus its
minimum. Distance and confidence have the scale of the features: for unit vectors, distances lie in 0 … 2, and neither
is comparable with LSE-D and LSE-C of the released SyncNet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avprep.schema import FPS, MAX_LEAD

REACH = MAX_LEAD
MIN_PAIRS = 5
"""Minimum number of pairs of windows for a point of the curve."""
TOO_FEW = f"fewer than {MIN_PAIRS} pairs of whole windows at the leads that the offset may have"
"""Why a clip has no offset."""
SECONDS_FROM = 5.0
"""Minimum duration in seconds of a clip whose single seconds are measured, too."""
DECIMALS = 4
"""Decimals of distances; further ones depend on the processor."""

Features = NDArray[np.floating]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Offset:
    """The offset, confidence and distance of a curve.

    audio_lead_frames: to a tenth of a frame. distance: the minimum of the curve. n_windows: pairs at lead 0.
    curve: mean distance at leads −15 … 15, None where fewer than `MIN_PAIRS` pairs exist.
    """

    audio_lead_frames: float
    confidence: float
    distance: float
    n_windows: int
    curve: tuple[float | None, ...]

    @property
    def audio_lead_ms(self) -> float:
        """Return the lead in milliseconds."""
        return round(self.audio_lead_frames * 1000 / FPS, 1)

    @property
    def cut_off(self) -> bool:
        """Return whether the minimum is at an end of the curve before the largest leads: the lead may be larger."""
        exist = [n for n, value in enumerate(self.curve) if value is not None]
        lowest = min(exist, key=lambda n: self.curve[n] or 0.0)
        return lowest in (exist[0], exist[-1]) and 0 < lowest < len(self.curve) - 1


def distances(video: Features, audio: Features, seen: Bools, heard: Bools) -> NDArray[np.float64]:
    """Return the distance of each frame's video to the audio at each lead, (T, 2·`REACH` + 1); NaN without a pair.

    video, audio: (T, F). seen, heard: (T,), which frames have a whole window of video and of audio.
    """
    length = len(video)
    found = np.full((length, 2 * REACH + 1), np.nan)
    for column, lead in enumerate(range(-REACH, REACH + 1)):
        frames = np.arange(max(0, lead), min(length, length + lead))
        frames = frames[seen[frames] & heard[frames - lead]]
        found[frames, column] = np.linalg.norm(video[frames] - audio[frames - lead], axis=1)
    return found


def offset(found: NDArray[np.float64]) -> Offset | None:
    """Return the offset from distances (T, 2·reach + 1); None if no lead has `MIN_PAIRS` pairs."""
    reach = found.shape[1] // 2
    pairs = np.isfinite(found).sum(0)
    if not len(found) or pairs.max() < MIN_PAIRS:
        return None
    total = np.where(np.isfinite(found), found, 0).sum(0)
    curve = np.where(pairs >= MIN_PAIRS, total / np.maximum(pairs, 1), np.nan)
    lowest = int(np.nanargmin(curve))
    minimum = float(curve[lowest])
    return Offset(
        audio_lead_frames=round(lowest - reach + _vertex(curve, lowest), 1) + 0.0,  # never −0
        confidence=round(float(np.nanmedian(curve)) - minimum, DECIMALS),
        distance=round(minimum, DECIMALS),
        n_windows=int(pairs[reach]),
        curve=tuple(None if np.isnan(value) else round(float(value), DECIMALS) for value in curve),
    )


def complete_offset(found: NDArray[np.float64]) -> Offset | None:
    """Return the same as `offset`; also None if the curve is cut off before the lead can be found."""
    whole = offset(found)
    return None if whole is None or whole.cut_off else whole


def seconds(found: NDArray[np.float64]) -> list[tuple[int, Offset]]:
    """Return the offset of each second, counted from 0, that has enough pairs; none for clips under `SECONDS_FROM`.

    An incomplete last second may have none: see `complete_offset`.
    """
    if len(found) < SECONDS_FROM * FPS:
        return []
    parts = ((first // FPS, complete_offset(found[first : first + FPS])) for first in range(0, len(found), FPS))
    return [(second, part) for second, part in parts if part is not None]


def _vertex(curve: NDArray[np.float64], lowest: int) -> float:
    """Return the position of the minimum of a parabola through three points, relative to the middle one: −½ … ½."""
    if not 0 < lowest < len(curve) - 1:
        return 0.0
    before, middle, after = curve[lowest - 1 : lowest + 2]
    bend = before - 2 * middle + after
    return float((before - after) / (2 * bend)) if np.isfinite(bend) and bend > 0 else 0.0
