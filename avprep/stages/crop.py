"""The aligned crops of one clip's face."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from avprep import schema
from avprep.errors import Reject, explained
from avprep.faces import align, keyframes, smoothing, track
from avprep.faces.detectors.base import Detector, LandmarkDetector
from avprep.faces.landmarks import Landmarks
from avprep.faces.steadiness import Steadiness
from avprep.files import check_regular
from avprep.manifest import Clip
from avprep.media.video import Frames
from avprep.shards import Sample
from avprep.shards.image import encode_bgr
from avprep.stages import CropSettings
from avprep.stages.facts import check_length, labels, named, rounded

Boxes = dict[int, NDArray[np.float32]]
Hints = Callable[[tuple[int, int]], Boxes]
"""Maps the width and height of the pictures to the data set's own face boxes: frame → box in source pixels."""


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

    threads: decoder threads. keep_bytes: maximum size of decoded pictures in memory. Neither changes the result.
    follow: called in place of `align_clip`, with the same arguments.
    The sample's members (crops, points, transforms, facts) are made as they are read. Pictures are read twice: once to
    find the face, once to crop it; those of a short clip stay in memory in between.
    Raises Reject; reading the members may raise it too.
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
    jitter_unsmoothed: the jitter that the crops would have without smoothing of the detections.
    chosen: metadata on how the subject was chosen among several faces.
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
        """The clockwise rotation of the picture that makes the face upright, in degrees, rounded to quarter turns."""
        across, down = self.affine[:, :, 0].mean(axis=0)
        return int(round(math.degrees(math.atan2(float(down), float(across))) / 90) % 4 * 90)

    def crops(self, form: Literal["rgba", "bgra"] = "rgba") -> Iterator[NDArray[np.uint8]]:
        """Yield the crop of each frame, uint8 (256, 256, 4); raises Reject as reading the pictures does."""
        sigma = align.blur_sigma(self.affine)
        shown = image = to_image = None
        for index, picture in enumerate(self.frames):
            if picture is not shown:  # a source slower than 25 fps repeats pictures
                shown, (image, to_image) = picture, picture.source(form)
            assert image is not None
            yield align.crop(image, self.affine[index], sigma=sigma, to_image=to_image)


def align_clip(
    frames: Frames, detector: Detector, settings: CropSettings, *, name: str, hints: Hints = lambda _: {}
) -> Aligned:
    """Detect, track and align the face of one clip; raises Reject.

    name: the clip's name in messages. hints: the data set's own face boxes, which decide the subject; default: none.
    """
    detections = keyframes.find_faces(frames, detector, settings.every)
    return align_detections(frames, detections, settings, name=name, hints=hints(detections.size))


def align_detections(
    frames: Frames,
    detections: track.Detections,
    settings: CropSettings,
    *,
    name: str,
    hints: Boxes | None = None,
) -> Aligned:
    """Track and align the face of one clip whose faces have been detected; raises Reject. See `align_clip`."""
    with named(name):
        check_length(detections.n_frames)
        tracks = track.link(detections)
        subject = track.choose(tracks, detections, settings.subject, hints or {})
    found = align_track(frames, detections, tracks, subject, settings, name=name)
    return replace(found, chosen={"track_overlap": rounded(track.overlap(subject, hints))}) if hints else found


def align_track(
    frames: Frames,
    detections: track.Detections,
    tracks: list[track.Track],
    subject: track.Track,
    settings: CropSettings,
    *,
    name: str,
) -> Aligned:
    """Align the face of one track of a clip; raises Reject. See `align_clip`."""
    with named(name):
        size = track.face_size(subject)
        if size < settings.min_face:
            raise Reject("face_too_small", f"the face is {size:.0f} px wide, --min-face is {settings.min_face:g}")
        track.check_gaps(subject, tracks, detections)
    smoothed, detected = smoothing.points_per_frame(subject, detections.n_frames, detections.cuts)
    points = (detected if settings.align == "per-frame" else smoothed).astype(np.float32)
    affine = align.similarity(points).astype(np.float32)
    if settings.align == "per-clip":
        affine[:] = align.similarity(np.median(points, axis=0))
    if not np.isfinite(affine).all():
        raise Reject("face_lost", f"{name}: the face's points fall together")
    return Aligned(
        frames, detections, subject, size, points, affine, align.jitter(align.similarity(detected), smoothed)
    )


def _crop_facts(clip: Clip, found: Aligned, settings: CropSettings) -> dict[str, Any]:
    """Return the metadata of a crop sample."""
    frames, detections = found.frames, found.detections
    scores = [detection.face.score for detection in found.subject.detections.values()]
    across, down = frames.pixel_aspect.as_integer_ratio()
    return {
        **labels(clip),
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
        "score": rounded(np.mean(scores)),
        "score_min": rounded(np.min(scores)),
        "face_size": rounded(found.face_size),
        "jitter_unsmoothed": rounded(found.jitter_unsmoothed),
        "cuts": sum(cut - 1 not in detections.cuts for cut in detections.cuts),  # not those between two shots
        **({"turned": found.turned} if found.turned else {}),
        **found.chosen,
    }


def _crop_members(
    found: Aligned, facts: dict[str, Any], summary: dict[str, Any], image_format: str, detector: Detector
) -> Iterator[tuple[str, bytes]]:
    finder = Landmarks(detector) if isinstance(detector, LandmarkDetector) else None
    steadiness = Steadiness(found.detections.cuts)
    for index, crop in enumerate(found.crops("bgra")):
        steadiness.add(crop)
        pixels = crop if image_format == "jpg" else crop[..., :3]
        yield schema.frame_member(index, image_format), encode_bgr(pixels, image_format)
        if finder is not None:
            finder.add(crop[..., 2::-1])
    yield "points.npy", schema.encode_array(found.points)
    yield "affine.npy", schema.encode_array(found.affine)
    if finder is not None:
        yield "landmarks.npy", schema.encode_array(placed := finder.finish())
        facts = {**facts, "landmarks": int(np.isfinite(placed).all(axis=(1, 2)).sum())}
    summary |= (measured := steadiness.figures())
    yield schema.METADATA["crop"], schema.encode_json({**facts, **measured})


def _hints(clip: Clip, root: Path, size: tuple[int, int]) -> Boxes:
    """Read the data set's own face boxes: frame of the clip -> box in source pixels."""
    if clip.track is None:
        return {}
    from avprep.layouts.voxceleb1 import read_track  # imported here because few data sets have boxes

    try:
        check_regular(root / clip.track)
        rows = read_track((root / clip.track).read_text(encoding="utf-8-sig", errors="replace"))
    except FileNotFoundError as error:
        raise Reject("missing", f"{root / clip.track}: no such file") from error
    except (OSError, ValueError) as error:
        raise Reject("unreadable", f"{root / clip.track}: {explained(error)}") from error
    first = rows[0][0]
    boxes = np.array([[x, y, x + w, y + h] for _, x, y, w, h in rows], np.float32)
    if boxes.max() <= 2:  # VoxCeleb2 writes fractions of the picture
        boxes *= np.tile(np.array(size, np.float32), 2)
    return {frame - first: box for (frame, *_), box in zip(rows, boxes, strict=True)}
