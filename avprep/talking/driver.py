"""The driving input of a talking face: MFCC windows of audio, or crops of a video, of any length, at 25 fps.

It is read from media, with the same detection and alignment as for shards, or from the prepared form of the released
code: a folder of aligned frames, or of windows, with one numbered file per frame.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from avprep.errors import AvprepError, Reject, plural
from avprep.faces.detectors.base import Detector
from avprep.files import check_regular
from avprep.media import mfcc
from avprep.media.audio import SoundFile
from avprep.media.container import Seconds, audio_stream, open_file, track_number
from avprep.media.video import Frames
from avprep.schema import FPS, N_COEFFICIENTS, WINDOW_STEPS
from avprep.stages import CropSettings, align_clip
from avprep.talking import photo

AT_ONCE = 16
"""Maximum frames that are yielded together."""
_STRETCH = 60 * FPS  # frames whose audio is in memory at once
_AUDIO = "a file with audio, such as .wav, .m4a or a video"
_KEPT = 256 << 20  # bytes of decoded pictures that are kept instead of being decoded again


@dataclass(frozen=True, eq=False)
class Driver:
    """Driving speech, from audio or from video.

    kind: what `read` yields: for `audio`, windows float32 (n, 12, 20); for `video`, aligned faces uint8
        (n, 256, 256, 3), RGB. Each call begins at the first frame and yields at most `AT_ONCE` frames at a time; it
        raises AvprepError.
    n_frames: at 25 fps.
    sound: the file with the corresponding audio, None if there is none; zero: time stamp of frame 0 in it (s);
        track: the audio track in it, from 0; channel: the audio channel that `read` uses, None for video.
    damage: what is missing of a damaged file's audio, in words; "" if nothing, or for video.
    """

    kind: Literal["audio", "video"]
    n_frames: int
    read: Callable[[], Iterator[NDArray[Any]]]
    sound: Path | None = None
    zero: Seconds = Fraction(0)
    track: int = 0
    channel: int | None = None
    damage: str = ""


def from_sound(
    path: Path,
    preset: mfcc.Preset = "davs",
    *,
    track: int | None = None,
    channel: int | None = None,
    max_seconds: float = math.inf,
) -> Driver:
    """Return the windows of a file with audio; it is decoded once to measure it. Raises AvprepError, one line.

    track, channel, max_seconds: see `avprep.media.audio.SoundFile`.
    """
    file = SoundFile(path, track=track, channel=channel, max_seconds=max_seconds)
    with _one_line(path, _AUDIO):
        file.scan()

    def windows() -> Iterator[NDArray[np.float32]]:
        with _one_line(path, _AUDIO):
            for part in file.stretches(_STRETCH, before=mfcc.SAMPLES_BEFORE, after=mfcc.SAMPLES_AFTER):
                cut, _, silent = mfcc.clip_windows(part.samples, part.first, part.n_frames, preset)
                if not silent.size:
                    raise Reject("no_audio", f"{path}: the sound is shorter than one 25 ms column")
                yield from np.split(cut, range(AT_ONCE, len(cut), AT_ONCE))

    next(windows())  # audio that is too short should be an error before a model is loaded
    return Driver("audio", file.n_frames, windows, path, file.zero, file.track or 0, file.channel, _damage(file))


def from_video(path: Path, detector: Detector, settings: CropSettings, *, track: int | None = None) -> Driver:
    """Return the aligned faces of a video's subject, detected in one pass and cropped in another.

    track: the audio track to use, from 0; None: the default one.
    Raises AvprepError, one line.
    """
    frames = Frames(path, max_seconds=settings.max_seconds, keep_bytes=_KEPT)
    with _one_line(path, "a video"):
        with open_file(path) as container:  # a missing track should be an error before minutes of detection
            heard = audio_stream(container, track)
            number = track_number(container, heard) if heard else 0
        found = align_clip(frames, detector, settings, name=str(path))

    def crops() -> Iterator[NDArray[np.uint8]]:
        with _one_line(path, "a video"):
            faces = found.crops()
            while part := list(itertools.islice(faces, AT_ONCE)):
                yield np.stack(part)[..., :3]

    return Driver("video", found.detections.n_frames, crops, path if heard else None, frames.zero, number)


def from_windows(folder: Path) -> Driver:
    """Return prepared windows: N.bin, float64, 20×12 time-major, as the released code writes them."""
    files = _numbered(folder, ("bin",))
    return Driver("audio", len(files), partial(_parts, files, _window))


def from_frames(folder: Path) -> Driver:
    """Return prepared frames: N.jpg or N.png, aligned, 256×256 or the released code's 260×260."""
    files = _numbered(folder, ("jpg", "jpeg", "png"))
    return Driver("video", len(files), partial(_parts, files, lambda path: photo.read_aligned(path).crop))


def _parts(files: list[Path], read: Callable[[Path], NDArray[Any]]) -> Iterator[NDArray[Any]]:
    for first in range(0, len(files), AT_ONCE):
        yield np.stack([read(path) for path in files[first : first + AT_ONCE]])


def _numbered(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the numbered files of a folder in order; AvprepError if there is none, or one is missing."""
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(r"(\d{1,9})\.(\w+)", path.name, re.ASCII)
        if match and match[2].lower() in suffixes:
            number = int(match[1])
            if number in found:
                raise AvprepError(f"{path}: {found[number].name} has the same number: remove one of them")
            found[number] = path
    if not found:
        raise AvprepError(f"{folder}: holds no prepared files, expected 0.{suffixes[0]}, 1.{suffixes[0]} and so on")
    missing = next((n for n in range(min(found), max(found)) if n not in found), None)
    if missing is not None:
        raise AvprepError(f"{folder}: {missing}.{suffixes[0]} is missing between others")
    return [found[number] for number in sorted(found)]


def _window(path: Path) -> NDArray[np.float32]:
    size = N_COEFFICIENTS * WINDOW_STEPS * 8
    try:
        check_regular(path)
        with path.open("rb") as file:
            data = file.read(size + 1)
    except OSError as error:
        raise AvprepError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) != size:
        raise AvprepError(f"{path}: not a window of 20×12 float64, which has {size} bytes")
    window = np.frombuffer(data, "<f8").reshape(WINDOW_STEPS, N_COEFFICIENTS).T.astype(np.float32)
    if not np.isfinite(window).all():
        raise AvprepError(f"{path}: holds numbers that are not finite")
    return window


def _damage(file: SoundFile) -> str:
    """Return `Driver.damage` of a file that has been scanned."""
    parts = []
    if file.promised is not None:
        there = file.n_frames / FPS
        parts.append(f"of {float(file.promised):.1f} s that its header promises only {there:.1f} s are there")
    if file.decode_errors:
        parts.append(f"{plural(file.decode_errors, 'packet')} of its audio cannot be decoded")
    return f"damaged: {' and '.join(parts)}; the rest is used" if parts else ""


@contextmanager
def _one_line(path: Path, wanted: str) -> Iterator[None]:
    """Turn a Reject into an error for the user that states what `path` should be: `wanted`."""
    try:
        yield
    except Reject as reject:
        if reject.reason == "unreadable":
            said = reject.message.removeprefix(f"{path}: ")
            raise AvprepError(f"{path}: cannot be read as {wanted} ({said})") from reject
        raise AvprepError(reject.message) from reject
