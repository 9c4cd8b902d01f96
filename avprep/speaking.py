"""Active-speaker selection: of several faces, the one whose mouth a model finds most in sync with the audio."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from avprep import schema
from avprep.errors import Reject
from avprep.faces import keyframes, track
from avprep.faces.detectors.base import Detector
from avprep.manifest import Clip
from avprep.media.mfcc import Preset
from avprep.media.video import Frames
from avprep.shards import Sample
from avprep.stages import Aligned, CropSettings, CropStage, MfccSettings, align_detections, align_track, mfcc_clip
from avprep.stages.crop import Hints

MAX_FACES = 6
"""Maximum faces of a clip that are scored: the largest ones."""

Judging = Callable[[Iterable[NDArray[np.uint8]], NDArray[np.float32], NDArray[np.bool_]], float | None]
"""Takes crops (256, 256, 3 or 4) of each frame, windows (T, 12, 20), and which of them are real (T,).

Returns the score of the mouth being in sync with the audio, None if there is too little of either.
"""


@runtime_checkable
class JudgeBuilder(Protocol):
    """Builds the active-speaker model in a worker: it is pickled to the worker and called there once."""

    def digest(self) -> str:
        """Return the digest of the model."""
        ...

    def preset(self) -> Preset:
        """Return the preset of the windows that the model takes."""
        ...

    def __call__(self) -> Judging:
        """Load the model."""
        ...


@dataclass(frozen=True)
class SpeakingCropStage(CropStage):
    """Builds the crop function of a worker that follows the active speaker."""

    judge: JudgeBuilder | None = None

    def versions(self) -> dict[str, str]:
        """Return the versions and digests that, together with the settings, decide the result."""
        assert self.judge is not None
        return {**super().versions(), "sync_model": self.judge.digest()}

    def __call__(self) -> Callable[[Clip], Sample]:
        """Build the detector and the active-speaker model, and return the function."""
        assert self.judge is not None
        work = super().__call__()
        heard = MfccSettings(self.judge.preset(), max_seconds=self.settings.max_seconds)
        return partial(_crop, work, self.root, self.judge(), heard)


def follow_speaking(
    frames: Frames,
    detector: Detector,
    settings: CropSettings,
    *,
    name: str,
    hints: Hints,
    judging: Judging,
    sound: Callable[[], tuple[NDArray[np.float32], NDArray[np.bool_]]],
) -> Aligned:
    """Detect, track and align the active speaker; raises Reject. See `avprep.stages.align_clip`.

    Faces that are too small or not detected for too long are not candidates. With fewer than two candidates the subject
    is chosen as for `largest`; without audio or a score it is chosen so among the candidates. sound: returns the
    windows of the clip, and which of them are real.
    """
    detections = keyframes.find_faces(frames, detector, settings.every)
    tracks = track.link(detections)
    candidates: list[Aligned] = []
    for subject in sorted(tracks, key=track.area, reverse=True)[:MAX_FACES]:
        try:
            candidates.append(align_track(frames, detections, tracks, subject, settings, name=name))
        except Reject:
            continue
    if len(candidates) < 2:
        return align_detections(frames, detections, settings, name=name, hints=hints(detections.size))
    scores: list[float | None] | None = None
    try:
        heard = sound()
    except Reject:
        pass
    else:
        scores = [judging(one.crops(), *heard) for one in candidates]
    if scores is None or all(score is None for score in scores):
        subject = track.choose([one.subject for one in candidates], detections, "largest", hints(detections.size))
        best = next(n for n, one in enumerate(candidates) if one.subject is subject)
    else:
        best = max(range(len(candidates)), key=lambda n: -1.0 if scores[n] is None else float(scores[n] or 0))
    return replace(candidates[best], chosen={"faces": len(candidates), "speaking": scores})


def _crop(work: Any, root: Path, judging: Judging, heard: MfccSettings, clip: Clip) -> Sample:
    """Process a clip; work: the function of a `CropStage`. heard: the settings of the windows that are scored."""
    sound = partial(_windows, clip, root, heard)
    sample: Sample = work(clip, follow=partial(follow_speaking, judging=judging, sound=sound))
    return sample


def _windows(clip: Clip, root: Path, settings: MfccSettings) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the windows of a clip and which are real; Reject if it has no audio, or only silence."""
    sample = mfcc_clip(clip, root, settings)
    if sample.summary["silent"]:
        raise Reject("no_audio", f"{clip.audio or clip.video}: holds silence alone")
    members = dict(sample.members)
    windows, valid = (schema.decode_array(members[name]) for name in schema.ARRAYS["mfcc"])
    return windows, valid
