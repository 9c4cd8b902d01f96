"""Inputs of a generated video, read from files: photos of the person who is to talk, and the driving speech."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from avprep import auto
from avprep.auto import Remark
from avprep.errors import AvprepError, RunError
from avprep.faces import detectors
from avprep.media.mfcc import PRESETS, Preset
from avprep.schema import FPS
from avprep.stages import CropSettings
from avprep.talking import driver as drivers
from avprep.talking import likeness, person, photo
from avprep.talking.driver import Driver
from avprep.talking.person import Person
from avprep.talking.photo import Photo

MAX_SECONDS = 1800.0
"""Maximum length of audio or video unless the caller chooses another limit."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""


def _nothing(_: str) -> None:
    """Ignore a detail."""


def read_photos(
    paths: Sequence[Path],
    *,
    detector: str = "auto",
    box: Box | None = None,
    aligned: bool = False,
    paste_back: bool = False,
    choosable: bool = True,
    remark: Remark = auto.log,
    detail: Remark = _nothing,
) -> list[Photo]:
    """Read photos and align the largest face of each.

    box: the wanted face, in pixels of the upright photo. aligned: the photos are already crops.
    paste_back: shrink the photos to the frame size of a video, so that the talking face can be put back into them.
    choosable: whether the user can give a box, as remarks and errors then advise.
    Raises AvprepError, one line, for a photo that cannot be read or shows no face.
    """
    if aligned:
        return [photo.read_aligned(path) for path in paths]
    name = auto.detector(detector, remark)
    detail(f"faces by {name}")
    built = detectors.build(name)
    found = [photo.read_face(path, built, box=box, choosable=choosable) for path in paths]
    for path, one in zip(paths, found, strict=True):
        if one.n_faces > 1 and box is None:
            remark(f"{path}: {one.n_faces} faces, the largest one is taken{' (--face-box chooses)' * choosable}")
        if unlike := likeness.differences(one):
            remark(f"{path}: unlike what models learn from, so expect less: {'; '.join(unlike)}")
    return [photo.fit_film(one) for one in found] if paste_back else found


def read_driver(
    path: Path,
    drive_by: Literal["audio", "video"] = "audio",
    *,
    preset: str = "davs",
    detector: str = "auto",
    max_seconds: float = MAX_SECONDS,
    track: int | None = None,
    channel: int | None = None,
    remark: Remark = auto.log,
) -> Driver:
    """Read the driving input: the audio of a file, or the talking face in it; or a folder prepared from either.

    preset: of the model's MFCC windows. track, channel: of the audio, from 0; None: the default ones.
    Raises AvprepError, one line, for input that cannot be read, does not fit the preset, or is longer than
    `max_seconds`.
    """
    if drive_by == "audio":
        found = _from_audio(path, preset, max_seconds, track, channel)
    elif path.is_dir():
        found = drivers.from_frames(path)
    else:
        name = auto.detector(detector, remark)
        settings = CropSettings(name, max_seconds=max_seconds)
        found = drivers.from_video(path, detectors.build(name), settings, track=track)
    if found.n_frames > max_seconds * FPS:
        longest = f"longer than {max_seconds:g} s: raise --max-seconds or cut it"
        raise AvprepError(f"{path}: {found.n_frames / FPS:.0f} s, {longest}")
    if found.damage:
        remark(f"warning: {path}: {found.damage}")
    return found


def read_person(path: Path, *, preset: str = "davs", detector: str = "auto", remark: Remark = auto.log) -> Person:
    """Read a few seconds of video of the person who is to talk. preset: of the model's MFCC windows.

    Raises AvprepError, one line, for a video that cannot be read, shows no face, or is longer than `person.SECONDS`.
    """
    name = auto.detector(detector, remark)
    return person.read_person(path, detectors.build(name), CropSettings(name), _preset(preset))


def read_expression(path: Path, *, preset: str = "davs", detector: str = "auto", remark: Remark = auto.log) -> Person:
    """Read a few seconds of video of any person's face, or a photo as a video of one frame; see `read_person`."""
    if not photo.is_still(path):
        return read_person(path, preset=preset, detector=detector, remark=remark)
    return Person(read_photos([path], detector=detector, choosable=False, remark=remark)[0].crop[None], None)


def _preset(name: str) -> Preset:
    """Return a preset by its name; RunError for an unknown name."""
    if name not in PRESETS:
        raise RunError(f"the model's windows are of the preset {name!r}, which nobody knows")
    return PRESETS[PRESETS.index(name)]


def _from_audio(path: Path, preset: str, max_seconds: float, track: int | None, channel: int | None) -> Driver:
    known = _preset(preset)
    if path.is_dir():
        if preset != "davs":
            raise RunError(f"{path}: prepared windows are of the preset davs, the model's is {preset}")
        return drivers.from_windows(path)
    return drivers.from_sound(path, known, track=track, channel=channel, max_seconds=max_seconds)
