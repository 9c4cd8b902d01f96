"""What is done to one clip: `crop_clip` and `mfcc_clip`, pure functions from a Clip to a Sample or a Reject."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from numpy.typing import NDArray

import avprep
from avprep import schema
from avprep.errors import Reject
from avprep.faces import align, detectors, keyframes, steady, track
from avprep.faces.detectors.base import Detector, LandmarkDetector
from avprep.faces.landmarks import Landmarks
from avprep.faces.steadiness import Steadiness
from avprep.files import check_regular
from avprep.layouts.voxceleb1 import read_track
from avprep.manifest import Clip
from avprep.media import container, mfcc
from avprep.media.audio import Sound, read_heard
from avprep.media.video import Frames
from avprep.memory import keep_freed_memory
from avprep.runs.threads import KEPT, one_thread
from avprep.shards import Sample
from avprep.shards.image import encode_image

Align = Literal["smooth", "per-frame", "per-clip"]
_LARGE = 500_000  # bytes: a smaller file is read long before its time is up, and its header not worth a millisecond


@dataclass(frozen=True)
class CropSettings:
    """What decides the bytes of the crop column.

    detector: `opencv`, `yunet` or `face-alignment` (resolved, never `auto`).
    align: `smooth` points, the detector's own `per-frame`, or one transform `per-clip`.
    every: frames from one keyframe to the next, 1 … 12; see `avprep.faces.keyframes.find_faces`.
    min_face: minimum median face size in source pixels.
    image_format: `jpg` (quality 95) or `png`.
    subject: `largest` or `central`, see `avprep.faces.track.choose`; or `speaking`, see `avprep.speaking`.
    max_seconds: longest clip.
    """

    detector: str = "opencv"
    align: Align = "smooth"
    every: int = 12
    min_face: float = 32.0
    image_format: str = "jpg"
    subject: track.Subject = "largest"
    max_seconds: float = 1800.0


@dataclass(frozen=True)
class MfccSettings:
    """What decides the bytes of the mfcc column.

    preset: `davs` or `syncnet`.
    audio_shift_ms: milliseconds by which the sound is moved later.
    max_seconds: longest clip.
    audio_track, audio_channel: those to read, from 0; None: as `avprep.media.audio.read_heard` chooses.
    """

    preset: mfcc.Preset = "davs"
    audio_shift_ms: float = 0.0
    max_seconds: float = 1800.0
    audio_track: int | None = None
    audio_channel: int | None = None


@dataclass(frozen=True)
class CropStage:
    """Builds the crop function of a worker: `CropStage(root, settings)()` is a function from Clip to Sample.

    threads: decoder threads of each worker; keep_bytes: decoded pictures that a worker may hold on to. Neither changes
    the result.
    """

    root: Path
    settings: CropSettings
    threads: int = 1
    keep_bytes: int = 256 << 20

    column = "crop"

    def require(self) -> None:
        """Prove that the detector can be built here; AvprepError, one line, where it cannot."""
        detectors.require(self.settings.detector)

    def versions(self) -> dict[str, str]:
        """Return the versions and digests that decide the result besides the settings."""
        return {**_versions(), "opencv": cv2.__version__, **detectors.identity(self.settings.detector)}

    def resolved(self) -> dict[str, Any]:
        """Return the settings as JSON."""
        return asdict(self.settings)

    def seconds(self, clip: Clip) -> float | None:
        """Return how long a clip is by the manifest, or else by its video's header, `max_seconds` at most."""
        return _seconds(clip, self.root, self.settings.max_seconds)

    def __call__(self) -> Callable[[Clip], Sample]:
        """Build the detector and return the function."""
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
class MfccStage:
    """Builds the MFCC function of a worker: `MfccStage(root, settings)()` is a function from Clip to Sample."""

    root: Path
    settings: MfccSettings

    column = "mfcc"

    def versions(self) -> dict[str, str]:
        """Return the versions that decide the result besides the settings."""
        return {**_versions(), "python-speech-features": version("python-speech-features")}

    def resolved(self) -> dict[str, Any]:
        """Return the settings as JSON; a choice that is left to the file is none."""
        return {name: value for name, value in asdict(self.settings).items() if value is not None}

    def seconds(self, clip: Clip) -> float | None:
        """Return how long a clip is by the manifest, or else by its file's header, `max_seconds` at most."""
        return _seconds(clip, self.root, self.settings.max_seconds)

    def __call__(self) -> Callable[[Clip], Sample]:
        """Return the function."""
        keep_freed_memory(KEPT)
        one_thread()
        return partial(by_name, mfcc_clip, root=self.root, settings=self.settings)


def crop_clip(
    clip: Clip,
    root: Path,
    settings: CropSettings,
    detector: Detector,
    *,
    threads: int = 1,
    keep_bytes: int = 256 << 20,
    follow: Callable[..., Aligned] | None = None,
) -> Sample:
    """Detect, track and align the face of one clip.

    follow: takes what `align_clip` does and is called in its place.
    The sample's members (crops, points, transforms, facts) are made as they are read. Pictures are read twice: once to
    find the face, once to cut it out; short clips are held in memory between.
    Raises Reject; so may reading the members.
    """
    frames = Frames(
        root / clip.video,
        start=clip.start,
        duration=clip.duration,
        max_seconds=settings.max_seconds,
        keep_bytes=keep_bytes,
        threads=threads,
    )
    found = (follow or align_clip)(frames, detector, settings, name=clip.video, hints=partial(_hints, clip, root))
    facts = _crop_facts(clip, found, settings)
    summary = {name: facts[name] for name in ("face_size", "score")}
    members = _crop_members(found, facts, summary, settings.image_format, detector)
    return Sample(members, found.detections.n_frames, summary)


@dataclass(frozen=True, eq=False)
class Aligned:
    """The subject of a clip of T frames, found and aligned.

    face_size: median, in source pixels.
    points: float32 (T, 5, 2), in source pixels; affine: float32 (T, 2, 3), source → crop pixels.
    jitter_unsmoothed: what the movement of the face in its crops would be, were detections taken as they are.
    chosen: facts of how it was chosen among several.
    """

    frames: Frames
    detections: track.Detections
    subject: track.Track
    face_size: float
    points: NDArray[np.float32]
    affine: NDArray[np.float32]
    jitter_unsmoothed: float
    chosen: dict[str, Any] = field(default_factory=dict)

    @property
    def turned(self) -> int:
        """Degrees by which the picture is turned clockwise for the face to be upright, to the nearest quarter turn."""
        across, down = self.affine[:, :, 0].mean(axis=0)
        return int(round(math.degrees(math.atan2(float(down), float(across))) / 90) % 4 * 90)

    def crops(self) -> Iterator[NDArray[np.uint8]]:
        """Cut the face out of each frame, uint8 (256, 256, 4), RGBA; raises Reject as reading the pictures does."""
        sigma = align.blur_sigma(self.affine)
        shown = image = to_image = None
        for index, picture in enumerate(self.frames):
            if picture is not shown:  # a source slower than 25 fps shows a picture more than once
                shown, (image, to_image) = picture, picture.source()
            assert image is not None
            yield align.crop(image, self.affine[index], sigma=sigma, to_image=to_image)


def align_clip(
    frames: Frames,
    detector: Detector,
    settings: CropSettings,
    *,
    name: str,
    hints: Callable[[tuple[int, int]], dict[int, NDArray[np.float32]]] = lambda _: {},
) -> Aligned:
    """Detect, track and align the face of one clip; raises Reject.

    name: of the clip in messages.
    hints: maps the pictures' width and height to the data set's own face boxes: frame → box in source pixels.
    """
    detections = keyframes.find_faces(frames, detector, settings.every)
    return align_detections(frames, detections, settings, name=name, hints=hints(detections.size))


def align_detections(
    frames: Frames,
    detections: track.Detections,
    settings: CropSettings,
    *,
    name: str,
    hints: dict[int, NDArray[np.float32]] | None = None,
) -> Aligned:
    """Track and align the face of one clip in which faces have been found; raises Reject. See `align_clip`."""
    with _named(name):
        _check_length(detections.n_frames)
        tracks = track.link(detections)
        subject = track.choose(tracks, detections, settings.subject, hints or {})
    return align_track(frames, detections, tracks, subject, settings, name=name)


def align_track(
    frames: Frames,
    detections: track.Detections,
    tracks: list[track.Track],
    subject: track.Track,
    settings: CropSettings,
    *,
    name: str,
) -> Aligned:
    """Align the face of one of the tracks of a clip; raises Reject. See `align_clip`."""
    with _named(name):
        size = track.face_size(subject)
        if size < settings.min_face:
            raise Reject("face_too_small", f"the face is {size:.0f} px wide, --min-face is {settings.min_face:g}")
        track.check_gaps(subject, tracks, detections)
    smoothed, detected = steady.points_per_frame(subject, detections.n_frames, detections.cuts)
    points = (detected if settings.align == "per-frame" else smoothed).astype(np.float32)
    affine = align.similarity(points).astype(np.float32)
    if settings.align == "per-clip":
        affine[:] = align.similarity(np.median(points, axis=0))
    if not np.isfinite(affine).all():
        raise Reject("face_lost", f"{name}: the face's points fall together")
    return Aligned(
        frames, detections, subject, size, points, affine, align.jitter(align.similarity(detected), smoothed)
    )


def mfcc_clip(clip: Clip, root: Path, settings: MfccSettings) -> Sample:
    """Compute the MFCC windows of one clip; raises Reject."""
    sound = clip_sound(clip, root, settings)
    with _named(clip.video):
        _check_length(sound.n_frames)
    windows, valid, silent = mfcc.clip_windows(sound.samples, sound.first, sound.n_frames, settings.preset)
    if not silent.size:
        raise Reject("no_audio", f"{clip.audio or clip.video}: the sound is shorter than one 25 ms column")
    share = float(silent.mean())
    source = {"audio_track": sound.track, "audio_channel": sound.channel}
    facts = {
        **_labels(clip),
        "n_frames": sound.n_frames,
        "preset": settings.preset,
        "sample_rate": sound.rate,
        "channels": sound.channels,
        **(source if any(source.values()) else {}),
        "decode_errors": sound.decode_errors,
        **({} if sound.promised is None else {"promised_seconds": _rounded(sound.promised)}),
        "n_samples": int(sound.samples.size),
        "first_sample": sound.first,
        "seconds": _rounded(sound.samples.size / schema.SAMPLE_RATE),
        "start_offset": _rounded(sound.first / schema.SAMPLE_RATE),
        "peak": _rounded(float(np.abs(sound.samples.astype(np.int32)).max()) / 32768),
        "silent_share": _rounded(share),
        "silent": share == 1.0,
        "n_valid": int(valid.sum()),
    }
    members = [
        ("mfcc.npy", schema.encode_array(windows)),
        ("valid.npy", schema.encode_array(valid)),
        (schema.METADATA["mfcc"], schema.encode_json(facts)),
    ]
    return Sample(members, sound.n_frames, {name: facts[name] for name in ("n_valid", "silent_share", "silent")})


def clip_sound(clip: Clip, root: Path, settings: MfccSettings) -> Sound:
    """Read the sound of a clip that its windows are made of; see `read_heard`, which raises Reject."""
    return read_heard(
        root / clip.video,
        None if clip.audio is None else root / clip.audio,
        start=clip.start,
        duration=clip.duration,
        before=mfcc.SAMPLES_BEFORE,
        after=mfcc.SAMPLES_AFTER,
        shift=settings.audio_shift_ms / 1000,
        max_seconds=settings.max_seconds,
        track=settings.audio_track,
        channel=settings.audio_channel,
    )


def _crop_facts(clip: Clip, found: Aligned, settings: CropSettings) -> dict[str, Any]:
    """Return the metadata of a crop sample."""
    frames, detections = found.frames, found.detections
    scores = [detection.face.score for detection in found.subject.detections.values()]
    across, down = frames.pixel_aspect.as_integer_ratio()
    return {
        **_labels(clip),
        "n_frames": detections.n_frames,
        "size": list(detections.size),
        "source_frames": frames.source_frames,
        "decode_errors": frames.decode_errors,
        **frames.damage,
        "interlaced": frames.interlaced,
        **({"hdr": frames.hdr} if frames.hdr else {}),
        **({"pixel_aspect": f"{across}:{down}"} if across != down else {}),
        "detector": settings.detector,
        "align": settings.align,
        "keyframes": len(detections.by_frame),
        "detections": len(scores),
        "score": _rounded(np.mean(scores)),
        "score_min": _rounded(np.min(scores)),
        "face_size": _rounded(found.face_size),
        "jitter_unsmoothed": _rounded(found.jitter_unsmoothed),
        "cuts": len(detections.cuts),
        **({"turned": found.turned} if found.turned else {}),
        **found.chosen,
    }


def _crop_members(
    found: Aligned, facts: dict[str, Any], summary: dict[str, Any], image_format: str, detector: Detector
) -> Iterator[tuple[str, bytes]]:
    finder = Landmarks(detector) if isinstance(detector, LandmarkDetector) else None
    steadiness = Steadiness(found.detections.cuts)
    for index, crop in enumerate(found.crops()):
        steadiness.add(crop)
        yield schema.frame_member(index, image_format), encode_image(crop, image_format)
        if finder is not None:
            finder.add(crop)
    yield "points.npy", schema.encode_array(found.points)
    yield "affine.npy", schema.encode_array(found.affine)
    if finder is not None:
        yield "landmarks.npy", schema.encode_array(placed := finder.finish())
        facts = {**facts, "landmarks": int(np.isfinite(placed).all(axis=(1, 2)).sum())}
    summary |= (measured := steadiness.figures())
    yield schema.METADATA["crop"], schema.encode_json({**facts, **measured})


def _check_length(n_frames: int) -> None:
    if n_frames < schema.WINDOW_FRAMES:
        raise Reject("too_short", f"{n_frames} frames, fewer than the {schema.WINDOW_FRAMES} of a window")


def _hints(clip: Clip, root: Path, size: tuple[int, int]) -> dict[int, NDArray[np.float32]]:
    """Read the data set's own face boxes: clip frame -> box in source pixels."""
    if clip.track is None:
        return {}
    try:
        check_regular(root / clip.track)
        rows = read_track((root / clip.track).read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError as error:
        raise Reject("missing", f"{root / clip.track}: no such file") from error
    except (OSError, ValueError) as error:
        raise Reject("unreadable", f"{root / clip.track}: {error}") from error
    first = rows[0][0]
    boxes = np.array([[x, y, x + w, y + h] for _, x, y, w, h in rows], np.float32)
    if boxes.max() <= 2:  # VoxCeleb2 writes fractions of the picture
        boxes *= np.tile(np.array(size, np.float32), 2)
    return {frame - first: box for (frame, *_), box in zip(rows, boxes, strict=True)}


def _seconds(clip: Clip, root: Path, most: float) -> float | None:
    """Return the length of a clip; None for a small file, or where no header has it."""
    length = clip.duration
    if length is None:
        with suppress(Reject, OSError):
            if (root / clip.video).stat().st_size >= _LARGE:
                length = container.duration(root / clip.video)
    return None if length is None else min(length, most)


def by_name(work: Callable[..., Sample], clip: Clip, root: Path, **given: Any) -> Sample:
    """Do a clip; files are named in a Reject as in the manifest, not by where the data set lies just now."""
    try:
        return work(clip, root=root, **given)
    except Reject as reject:
        raise Reject(reject.reason, reject.message.removeprefix(f"{root}/")) from reject


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the file's name before the message of a Reject from a part that takes no files."""
    try:
        yield
    except Reject as reject:
        raise Reject(reject.reason, f"{name}: {reject.message}") from reject


def _labels(clip: Clip) -> dict[str, Any]:
    return {
        "key": clip.key,
        "word": clip.word,
        "speaker": clip.speaker,
        "split": clip.split,
        "source": clip.video.encode("utf-8", "backslashreplace").decode(),  # for names that are not UTF-8
        "start": clip.start,
        "duration": clip.duration,
    } | ({"labels": dict(clip.labels)} if clip.labels else {})


def _rounded(value: float | np.floating[Any]) -> float:
    return round(float(value), 4)


def _versions() -> dict[str, str]:
    return {"avprep": avprep.__version__, "av": av.__version__, "numpy": np.__version__}
