"""A few seconds of video of a person: their aligned face in each frame, and the sound that belongs to it."""

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
"""What a file that holds none is answered with."""
SECONDS = 20.0
"""Longest video of a person that is taken: its frames are in memory all at once."""


@dataclass(frozen=True, eq=False)
class Person:
    """A person in a video of T frames at 25 fps.

    crops: aligned faces uint8 (T, 256, 256, 3), RGB. windows: MFCC of the same frames, float32 (T, 12, 20); None where
    there is no sound, or nothing but silence.
    """

    crops: NDArray[np.uint8]
    windows: NDArray[np.float32] | None

    def spread(self, count: int) -> NDArray[np.uint8]:
        """Return so many of the crops at most, evenly spread."""
        places = np.linspace(0, len(self.crops) - 1, min(count, len(self.crops)))
        return self.crops[[round(place) for place in places.tolist()]]


def read_person(path: Path, detector: Detector, settings: CropSettings, preset: mfcc.Preset) -> Person:
    """Find and align the face of a video's subject, as the crops of shards are made, and read its sound.

    preset: of the windows. AvprepError, one line, for what cannot be read, shows no face, or is longer than `SECONDS`.
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
    """Return the windows of a video's frames, from the instant of its first picture on; None where nothing is heard."""
    try:
        sound = clip_sound(Clip("person", path.name, "test"), path.parent, MfccSettings(preset))
    except Reject:
        return None
    windows, _, silent = mfcc.clip_windows(sound.samples, sound.first, n_frames, preset)
    return None if silent.all() else windows
