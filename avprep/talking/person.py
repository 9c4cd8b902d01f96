"""A few seconds of video of a person: the aligned face in each frame, and the audio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avprep.errors import AvprepError, Reject
from avprep.faces.detectors.base import Detector
from avprep.manifest import Clip
from avprep.media import mfcc
from avprep.media.video import Frames
from avprep.stages import CropSettings, MfccSettings, align_clip, clip_sound

NEEDED = "give a video of a face, of a few seconds"
"""The remedy in errors about a file without one."""
SECONDS = 20.0
"""Maximum length of a person's video: all its frames are in memory at once."""


@dataclass(frozen=True, eq=False)
class Person:
    """A person in a video of T frames at 25 fps.

    crops: aligned faces uint8 (T, 256, 256, 3), RGB. windows: MFCC of the same frames, float32 (T, 12, 20); None if
    there is no audio, or only silence.
    """

    crops: NDArray[np.uint8]
    windows: NDArray[np.float32] | None

    def spread(self, count: int) -> NDArray[np.uint8]:
        """Return at most `count` of the crops, evenly spaced."""
        places = np.linspace(0, len(self.crops) - 1, min(count, len(self.crops)))
        return self.crops[[round(place) for place in places.tolist()]]


def read_person(path: Path, detector: Detector, settings: CropSettings, preset: mfcc.Preset) -> Person:
    """Find and align the face of a video's subject, as for the crops of shards, and read its audio.

    preset: of the windows. Raises AvprepError, one line, for a video that cannot be read, shows no face, or is longer
    than `SECONDS`.
    """
    if path.is_dir():
        raise AvprepError(f"{path}: is a folder: {NEEDED}")
    frames = Frames(path, max_seconds=SECONDS)
    try:
        found = align_clip(frames, detector, settings, name=str(path))
        crops = np.stack([crop[..., :3] for crop in found.crops()])
    except Reject as reject:
        remedies = {"too_long": f"cut it to {SECONDS:g} s", "no_video": NEEDED, "unreadable": NEEDED}
        remedy = f": {todo}" if (todo := remedies.get(reject.reason)) else ""
        raise AvprepError(reject.message + remedy) from reject
    return Person(crops, _windows(path, len(crops), preset))


def _windows(path: Path, n_frames: int, preset: mfcc.Preset) -> NDArray[np.float32] | None:
    """Return the windows of a video's frames, from the instant of its first picture on; None if all is silent."""
    try:
        sound = clip_sound(Clip("person", path.name, "test"), path.parent, MfccSettings(preset))
    except Reject:
        return None
    windows, _, silent = mfcc.clip_windows(sound.samples, sound.first, n_frames, preset)
    return None if silent.all() else windows
