"""The processing of one clip: the settings of each column, and the stages that build its function in a worker.

`crop_clip` and `mfcc_clip` are pure functions from a Clip to a Sample or a Reject. They are loaded on first use, and
OpenCV and PyAV with them: the process that hands out clips needs neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args

import avprep
from avprep.bounds import check_choice, check_number, check_whole
from avprep.errors import Reject
from avprep.lazy import on_first_use
from avprep.manifest import Clip
from avprep.memory import keep_freed_memory
from avprep.runs.threads import KEPT, one_thread
from avprep.shards import Sample
from avprep.untrusted import number

if TYPE_CHECKING:
    from avprep.faces import track
    from avprep.media import mfcc
    from avprep.stages.crop import Aligned, align_clip, align_detections, align_track, crop_clip
    from avprep.stages.mfcc import clip_sound, mfcc_clip

__all__ = [
    "Align",
    "Aligned",
    "CropSettings",
    "CropStage",
    "ImageFormat",
    "MfccSettings",
    "MfccStage",
    "align_clip",
    "align_detections",
    "align_track",
    "by_name",
    "clip_sound",
    "crop_clip",
    "mfcc_clip",
]
_CROP = ("Aligned", "align_clip", "align_detections", "align_track", "crop_clip")
__getattr__, __dir__ = on_first_use(__name__, {"crop": _CROP, "mfcc": ("clip_sound", "mfcc_clip")})

Align = Literal["smooth", "per-frame", "per-clip"]
ImageFormat = Literal["jpg", "png"]
PRESETS = ("davs", "syncnet")
SUBJECTS = ("largest", "central", "speaking")
"""Presets of `avprep.media.mfcc` and subjects of `avprep.faces.track`; loading these modules for the names is slow."""
_LARGE = 500_000  # bytes: a smaller file finishes long before its time-out, so reading its header is not worth 1 ms


@dataclass(frozen=True)
class CropSettings:
    """The settings that decide the bytes of the crop column; `avprep.crop` and the command have the same defaults.

    detector: `opencv`, `yunet`, `dlib` or `face-alignment` (resolved, never `auto`).
    align: `smooth` points, the detector's own `per-frame`, or one transform `per-clip`.
    every: frames from one keyframe to the next, 1 … 12; see `avprep.faces.keyframes.find_faces`.
    min_face: minimum median face size in source pixels.
    image_format: `jpg` (quality 95) or `png`.
    subject: `largest` or `central`, see `avprep.faces.track.choose`; or `speaking`, see `avprep.speaking`.
    max_seconds: maximum length of a clip.

    Raises SettingsError, one line, for an invalid value.
    """

    detector: str = "opencv"
    align: Align = "smooth"
    every: int = 12
    min_face: float = 32.0
    image_format: ImageFormat = "jpg"
    subject: track.Subject = "largest"
    max_seconds: float = 1800.0

    def __post_init__(self) -> None:
        """Check the values."""
        check_choice("align", self.align, get_args(Align))
        check_whole("every", self.every, 1, 12)
        check_number("min_face", self.min_face, 0)
        check_choice("image_format", self.image_format, get_args(ImageFormat))
        check_choice("subject", self.subject, SUBJECTS)
        _check_seconds(self.max_seconds)


@dataclass(frozen=True)
class MfccSettings:
    """The settings that decide the bytes of the mfcc column; `avprep.mfcc` and the command have the same defaults.

    preset: `davs` or `syncnet`.
    audio_shift_ms: delay of the audio in milliseconds.
    max_seconds: maximum length of a clip.
    audio_track, audio_channel: which to read, from 0; None: as `avprep.media.audio.read_heard` chooses.

    Raises SettingsError, one line, for an invalid value.
    """

    preset: mfcc.Preset = "davs"
    audio_shift_ms: float = 0.0
    max_seconds: float = 1800.0
    audio_track: int | None = None
    audio_channel: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        check_choice("preset", self.preset, PRESETS)
        check_number("audio_shift_ms", self.audio_shift_ms)
        _check_seconds(self.max_seconds)
        for name, value in (("audio_track", self.audio_track), ("audio_channel", self.audio_channel)):
            if value is not None:
                check_whole(name, value, 0)

    def delayed(self, clip: Mapping[str, Any]) -> MfccSettings:
        """Return the settings by which the audio of a clip was read; clip: its record or facts in the mfcc column."""
        return replace(self, audio_shift_ms=self.audio_shift_ms + (number(clip.get("audio_offset_ms")) or 0.0))


def _check_seconds(value: object) -> None:
    if value != math.inf:
        check_number("max_seconds", value, 0, above=True)


S = TypeVar("S", CropSettings, MfccSettings)


@dataclass(frozen=True)
class ClipStage(Generic[S]):
    """The common part of both stages; root: the folder of the data set."""

    root: Path
    settings: S

    def resolved(self) -> dict[str, Any]:
        """Return the settings as JSON, without those that are None: they leave the choice to the file.

        Raises SettingsError for an infinite `max_seconds`, which JSON cannot hold.
        """
        check_number("max_seconds", self.settings.max_seconds, 0, above=True)
        return {name: value for name, value in asdict(self.settings).items() if value is not None}

    def seconds(self, clip: Clip) -> float | None:
        """Return the length of a clip from the manifest or else from its video's header, at most `max_seconds`.

        None for a small file, or if the header does not give it.
        """
        length = clip.duration
        if length is None:
            with suppress(Reject, OSError):
                if (self.root / clip.video).stat().st_size >= _LARGE:
                    from avprep.media import container

                    length = container.duration(self.root / clip.video)
        return None if length is None else min(length, self.settings.max_seconds)


@dataclass(frozen=True)
class CropStage(ClipStage[CropSettings]):
    """Builds the crop function of a worker: `CropStage(root, settings)()` is a function from Clip to Sample.

    threads: decoder threads of each worker. keep_bytes: maximum size of the decoded pictures that a worker keeps in
    memory. Neither changes the result.
    """

    threads: int = 1
    keep_bytes: int = 256 << 20

    column = "crop"

    def require(self) -> None:
        """Check that the detector can be built here; raises AvprepError, one line, if it cannot."""
        from avprep.faces import detectors

        detectors.require(self.settings.detector)

    def versions(self) -> dict[str, str]:
        """Return the versions and digests that, together with the settings, decide the result."""
        from avprep.faces import detectors

        return {**_versions(), **detectors.identity(self.settings.detector)}

    def __call__(self) -> Callable[[Clip], Sample]:
        """Build the detector and return the function."""
        from avprep.faces import detectors
        from avprep.stages.crop import crop_clip

        keep_freed_memory(KEPT)
        detector = detectors.build(self.settings.detector)
        one_thread()
        return partial(
            by_name,
            crop_clip,
            root=self.root,
            settings=self.settings,
            detector=detector,
            threads=self.threads,
            keep_bytes=self.keep_bytes,
        )


@dataclass(frozen=True)
class MfccStage(ClipStage[MfccSettings]):
    """Builds the MFCC function of a worker: `MfccStage(root, settings)()` is a function from Clip to Sample."""

    column = "mfcc"

    def versions(self) -> dict[str, str]:
        """Return the versions that, together with the settings, decide the result."""
        return _versions("python-speech-features")

    def __call__(self) -> Callable[[Clip], Sample]:
        """Return the function."""
        from avprep.stages.mfcc import mfcc_clip

        keep_freed_memory(KEPT)
        one_thread()
        return partial(by_name, mfcc_clip, root=self.root, settings=self.settings)


def by_name(work: Callable[..., Sample], clip: Clip, root: Path, **given: Any) -> Sample:
    """Process a clip; a Reject names files by their paths in the manifest, without the root."""
    try:
        return work(clip, root=root, **given)
    except Reject as reject:
        raise Reject(reject.reason, reject.message.removeprefix(f"{root}/")) from reject


def _versions(*others: str) -> dict[str, str]:
    """Return the versions of avprep, of the packages that every column needs, and of others, without importing them."""
    from importlib.metadata import version

    return {"avprep": avprep.__version__, **{name: version(name) for name in ("av", "numpy", *others)}}
