"""Clips of a talking face with known motion, and the motion of their crops."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep.demo import synthetic
from avprep.demo.drawing import render
from avprep.demo.speech import perform, speak, speaker
from avprep.faces import align
from avprep.faces.detectors.base import Detector
from avprep.faces.steadiness import Steadiness
from avprep.stages import Align, Aligned, CropSettings, align_clip
from avprep.talking import photo

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

SIDE = 256
FACE = np.array([[101.0, 110.0], [155.0, 110.0], [128.0, 135.0]])
"""Approximate eyes and nose of the speaker, pixels."""
STILL = np.array([[1.0, 0, 0], [0, 1, 0]])


class Motion(NamedTuple):
    """The motion of a picture. at: (T, 2, 3), from the points of a still frame to those of each frame."""

    at: Floats

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.at)


@lru_cache
def talker(n_frames: int = 36) -> tuple[Pixels, NDArray[np.int16]]:
    """Return pictures of a talker with a still head, uint8 (T, 256, 256, 3), and the speech."""
    # Shaved and sharp, so that opencv's cascades find the same eyes in mirrored pictures.
    who = dataclasses.replace(speaker(3), moustache=0.0, blur=0.0)
    frames, sound = list[Pixels](), list[NDArray[np.int16]]()
    while sum(map(len, frames)) < n_frames:
        take = perform("ABOUT", who, len(frames))
        still = dataclasses.replace(take, pose=np.zeros_like(take.pose) + np.float32([0, 0, 0, 1]))
        frames.append(render(still, who, SIDE))
        sound.append(speak(still, who)[:18560])
    return np.concatenate(frames)[:n_frames], np.concatenate(sound)[: n_frames * 640]


def moved(x: Any = 0.0, y: Any = 0.0, degrees: Any = 0.0, zoom: Any = 1.0) -> Motion:
    """Return the motion by x and y after a rotation and a zoom about the face's centre, each (T,) or a number."""
    x, y, degrees, zoom = np.broadcast_arrays(*(np.asarray(each, np.float64) for each in (x, y, degrees, zoom)))
    middle = FACE.mean(axis=0)
    turns = [cv2.getRotationMatrix2D(middle.tolist(), angle, size) for angle, size in zip(degrees, zoom, strict=True)]
    at = np.stack(turns)
    at[:, :, 2] += np.stack([x, y], axis=1)
    return Motion(at)


def filmed(motion: Motion, *, blurred: bool = False, noise: float = 0.0) -> Pixels:
    """Return the moved pictures of the talker. blurred: over half a frame. noise: standard deviation, grey levels."""
    frames, _ = talker(motion.n_frames)
    ahead = np.diff(motion.at, axis=0, append=motion.at[-1:])
    shares = np.linspace(-0.25, 0.25, 5) if blurred else [0.0]
    film = np.stack(
        [
            np.mean([_warped(frame, at + share * step) for share in shares], axis=0)
            for frame, at, step in zip(frames, motion.at, ahead, strict=True)
        ]
    )
    film = film + noise * np.random.default_rng(0).normal(size=film.shape) if noise else film
    return np.asarray(np.clip(np.rint(film), 0, 255), np.uint8)


def _warped(frame: Pixels, at: Floats) -> Pixels:
    return np.asarray(cv2.warpAffine(frame, at, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE), np.uint8)


def aligned(film: Pixels, detector: Detector, name: str, mode: Align = "smooth") -> Aligned:
    """Detect and align the face of a video with the default settings."""
    pictures: Any = [photo._picture(frame) for frame in film]
    return align_clip(pictures, detector, CropSettings(name, align=mode), name="film.mp4")


class Crops(NamedTuple):
    """The motion of the face in its crops, in crop pixels, and the measured figures of it.

    step: mean motion between consecutive frames without a cut. off: largest distance from the median position.
    away: root mean square distance from the mean position. jitter, slip: as measured on the crops, NaN if not measured.
    """

    step: float
    off: float
    away: float
    jitter: float
    slip: float
    cuts: frozenset[int]


def crops_of(found: Aligned, motion: Motion) -> Crops:
    """Measure the position of the face in its crops, by the known motion."""
    shown = align.apply(np.asarray(found.affine, np.float64), align.apply(motion.at, FACE))
    cuts = found.detections.cuts
    steps = np.linalg.norm(np.diff(shown, axis=0), axis=2).mean(axis=1)
    steps = np.delete(steps, [cut - 1 for cut in cuts])
    off = np.linalg.norm(shown - np.median(shown, axis=0), axis=2).mean(axis=1)
    measured = Steadiness(cuts)
    for crop in found.crops("bgra"):
        measured.add(crop)
    away = float(np.sqrt((np.linalg.norm(shown - shown.mean(axis=0), axis=2) ** 2).mean()))
    return Crops(float(steps.mean()), float(off.max()), away, *figures(measured), cuts)


def figures(measured: Steadiness) -> tuple[float, float]:
    """Return jitter and slip, NaN if not measured."""
    found = measured.figures()
    jitter, slip = (float("nan") if found[name] is None else float(found[name] or 0) for name in ("jitter", "slip"))
    return jitter, slip


def write(path: Any, film: Pixels) -> None:
    """Write frames of the talker as a video with its speech."""
    synthetic.write_clip(path, film, talker(len(film))[1])
