"""Offsets of the clips of shards, measured in training: those of its own clips, and known shifts in validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from avprep.errors import ShardError, plural
from avprep.schema import ARRAYS, FPS
from davs_model.data.arrays import windows_of
from davs_model.data.clips import Clips
from davs_model.models.base import Measure
from davs_model.models.sync import curve
from davs_model.models.sync.curve import Offset
from davs_model.models.sync.scorer import Features, Scorer

SHIFTS = range(-12, 13)
"""Shifts that validation applies to each clip, in frames."""
LENGTH = 2 * FPS
"""Number of windows from which validation measures an offset, or all if the clip has fewer."""


def features(scorer: Scorer, clips: Clips, rows: Sequence[int]) -> Iterator[Features | None]:
    """Yield the features of whole clips; None for one that cannot be read."""
    for row in rows:
        n_frames = int(clips.n_frames[row])
        try:
            pictures = scorer.pictures(clips.key(row), clips.read(row, "crop", range(n_frames)))
            sound = windows_of(clips, row, clips.read(row, "mfcc", ()))
        except ShardError:
            yield None
        else:
            yield scorer.features(pictures, *(sound[name] for name in ARRAYS["mfcc"]))


def offsets(scorer: Scorer, clips: Clips) -> list[Offset | None]:
    """Return the offset of each clip; None for one that cannot be measured."""
    return [None if found is None else found.offset() for found in features(scorer, clips, range(len(clips)))]


def known_shifts(found: Sequence[Features]) -> dict[str, Any]:
    """Return how many known shifts of clips are recovered, from `LENGTH` windows in the middle of each clip.

    Every clip is assumed to be in sync. `within_1`, `within_03`: fraction recovered within 1 and .3 frames;
    `confidence`: median.
    """
    errors: list[float] = []
    sure: list[float] = []
    for clip in found:
        seen = middle(clip.seen, LENGTH)
        for shift in SHIFTS:
            audio, heard = moved(clip, shift)
            result = curve.offset(curve.distances(clip.video, audio, seen, heard))
            if result is not None:
                errors.append(abs(result.audio_lead_frames - shift))
                sure.append(result.confidence)
    if not errors:
        return {}
    apart = np.array(errors)
    return {
        "n_clips": len(found),
        "within_1": float((apart <= 1).mean()),
        "within_03": float((apart <= 0.3 + 1e-9).mean()),
        "confidence": round(float(np.median(sure)), curve.DECIMALS),
    }


def measure(scorer: Scorer, clips: Clips, limit: int) -> tuple[Measure, ...]:
    """Measure how many known shifts of the first `limit` clips are recovered; nothing if none can be measured."""
    found = [one for one in features(scorer, clips, range(min(limit, len(clips)))) if one is not None]
    if not (shifts := known_shifts(found)):
        return ()
    summary = "shifts found {within_1:.1%} within 1 frame, {within_03:.1%} within .3; confidence {confidence:.3f}"
    percent = {name: f"{100 * shifts[name]:.1f}" for name in ("within_1", "within_03")}
    return (
        Measure(
            "offsets",
            f"{plural(shifts['n_clips'], 'clip')}: {summary.format(**shifts)}",
            shifts,
            "Known shifts found again",
            (f"Clips whose audio is moved by {SHIFTS[0]} to {SHIFTS[-1]} frames, by {LENGTH} windows of each.",),
            ("within 1 frame, %", "within .3 frames, %", "confidence", "clips"),
            ((percent["within_1"], percent["within_03"], f"{shifts['confidence']:.3f}", str(shifts["n_clips"])),),
        ),
    )


def doubtful(scorer: Scorer, clips: Clips, offset: float, confidence: float) -> dict[str, Any]:
    """Return lead and confidence of clips that are out of sync or uncertain; None for clips that cannot be measured.

    The keys are those of `Clips.name`. offset: maximum lead in frames, in either direction. confidence: minimum, as a
    fraction of the median of all clips.
    """
    found = offsets(scorer, clips)
    median = float(np.median([one.confidence for one in found if one is not None] or [0.0]))
    return {
        clips.name(row): None if one is None else [one.audio_lead_frames, one.confidence]
        for row, one in enumerate(found)
        if one is None or abs(one.audio_lead_frames) > offset or one.confidence < confidence * median
    }


def middle(seen: curve.Bools, length: int) -> curve.Bools:
    """Return the `length` middle frames of those that are seen, or all of them if there are fewer."""
    frames = np.flatnonzero(seen)
    first = max(0, (len(frames) - length) // 2)
    kept = np.zeros_like(seen)
    kept[frames[first : first + length]] = True
    return kept


def moved(clip: Features, lead: int) -> tuple[curve.Features, curve.Bools]:
    """Return the audio features of the clip with its audio moved `lead` frames earlier, and which of them exist."""
    frames = np.arange(len(clip.audio)) + lead
    inside = (frames >= 0) & (frames < len(clip.audio))
    source = np.where(inside, frames, 0)
    return clip.audio[source], clip.heard[source] & inside
