"""Measured speed of each step on this machine, as a ratio to the least that any tool must do."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from avprep import detectors, layouts
from avprep.errors import Reject, RunError
from avprep.manifest import Clip, Manifest
from avprep.media import Frames, open_file
from avprep.schema import FPS, SAMPLE_RATE
from avprep.stages import (
    CropSettings,
    MfccSettings,
    crop_clip,
    decode_image,
    encode_image,
    keep_freed_memory,
    mfcc_clip,
)


@dataclass(frozen=True)
class Step:
    """One measured step: median seconds a pass over all clips, and their ratio pass by pass to the floor's."""

    name: str
    floor: str
    seconds: float
    floor_seconds: float
    ratio: float


@dataclass(frozen=True)
class Result:
    """What was measured: one process, one thread. frames are video frames at 25 fps."""

    clips: int
    frames: int
    detector: str
    steps: list[Step]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    def table(self) -> str:
        """Return it as text."""
        lines = [f"{self.clips} clips, {self.frames} frames ({self.frames / FPS:.0f} s), one process, one thread"]
        for step in self.steps:
            speed = f"{step.seconds * 1e3 / self.clips:8.1f} ms a clip {self.frames / step.seconds:9.0f} frames/s"
            floor = f"{step.floor} ({step.floor_seconds * 1e3 / self.clips:.1f} ms)"
            lines.append(f"{step.name:5}{speed}   {step.ratio:5.2f} × {floor}")
        return "\n".join(lines)


def bench(folder: Path | None, detector: str, *, repeat: int = 5, limit: int = 24) -> Result:
    """Measure crop and mfcc against their floors.

    folder: a tree of videos, or a GRID or VoxCeleb2 tree; None makes a synthetic corpus.
    detector: resolved name. repeat: passes over all clips, step and floor in turn; limit: clips.
    Raises RunError where no clip of the folder can be used.
    """
    with tempfile.TemporaryDirectory(prefix="avprep-bench-") as temporary:
        plan = _plan(folder, Path(temporary), limit)
        return _measure(plan, detector, repeat)


def _plan(folder: Path | None, temporary: Path, limit: int) -> Manifest:
    if folder is None:
        from avprep import synthetic

        synthetic.make_corpus(temporary / "corpus", words=4, speakers=3, takes=-(-limit // 12))
        plan, _ = layouts.index("lrw", temporary / "corpus")
    else:
        voxceleb2 = any((folder / part).is_dir() for part in ("aac", "dev/aac", "test/aac"))
        plan, _ = layouts.index("voxceleb2" if voxceleb2 else "folder", folder)
    return Manifest(plan.dataset, plan.root, plan.clips[:limit], plan.seed)


def _measure(plan: Manifest, name: str, repeat: int) -> Result:
    cv2.setNumThreads(1)
    keep_freed_memory()
    settings, sound_settings = CropSettings(name), MfccSettings()
    detector = detectors.build(name)
    crops: dict[str, list[NDArray[np.uint8]]] = {}
    usable: list[Clip] = []
    for clip in plan.clips:
        try:
            members = dict(crop_clip(clip, plan.root, settings, detector).members)
            mfcc_clip(clip, plan.root, sound_settings)
        except Reject:
            continue
        images = [decode_image(data) for member, data in members.items() if member.endswith(".jpg")]
        crops[clip.key] = [image for image in images if image is not None]
        usable.append(clip)
    if not usable:
        raise RunError(f"{plan.root}: none of {len(plan.clips)} clips can be used to measure with")

    def crop() -> None:
        for clip in usable:
            for _ in crop_clip(clip, plan.root, settings, detector).members:
                pass

    def pictures_and_jpegs() -> None:
        for clip in usable:
            for picture in Frames(plan.root / clip.video, start=clip.start, duration=clip.duration, keep_bytes=0):
                picture.rgb()
            for image in crops[clip.key]:
                encode_image(image, "jpg")

    def mfcc() -> None:
        for clip in usable:
            for _ in mfcc_clip(clip, plan.root, sound_settings).members:
                pass

    def sound() -> None:
        for clip in usable:
            decode_sound(plan.root / (clip.audio or clip.video))

    def sound_as_stored() -> None:
        for clip in usable:
            decode_sound(plan.root / (clip.audio or clip.video), resample=False)

    steps = [
        _compare("crop", crop, "decode + encode JPEG", pictures_and_jpegs, repeat),
        _compare("mfcc", mfcc, "decode to 16 kHz mono", sound, repeat),
        _compare("mfcc", mfcc, "decode only", sound_as_stored, repeat),
    ]
    return Result(len(usable), sum(map(len, crops.values())), name, steps)


def _compare(name: str, step: Callable[[], None], floor_name: str, floor: Callable[[], None], repeat: int) -> Step:
    """Time a step and its floor in turn; the ratio is the median of the pairs', so that drift cancels."""
    step()
    floor()
    pairs = [(_seconds(step), _seconds(floor)) for _ in range(repeat)]
    return Step(
        name,
        floor_name,
        statistics.median(pair[0] for pair in pairs),
        statistics.median(pair[1] for pair in pairs),
        round(statistics.median(pair[0] / pair[1] for pair in pairs), 3),
    )


def decode_sound(path: Path, *, resample: bool = True) -> int:
    """Decode a file's sound the plain way, with libav's own resampler; return the number of samples."""
    resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
    count = 0
    with open_file(path) as container:
        for frame in container.decode(audio=0):
            for part in resampler.resample(frame) if resample else (frame,):
                count += part.to_ndarray().size
        for part in resampler.resample(None) if resample else ():
            count += part.to_ndarray().size
    return count


def _seconds(function: Callable[[], None]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin
