"""Faces at known positions, without a detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avprep.faces.detectors.base import Face
from avprep.manifest import Clip


class Anywhere:
    """A detector that finds one face in the middle of every frame."""

    picture_side = 160
    close_up = None
    batch_size = 4

    def detect(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        """Return the same face for each frame."""
        height, width = frames.shape[1:3]
        side, middle = min(height, width), np.array([width / 2, height / 2])
        eyes_nose_mouth = [(-0.12, -0.04), (0.12, -0.04), (0, 0.08), (-0.08, 0.19), (0.08, 0.19)]
        points = (middle + side * np.array(eyes_nose_mouth)).astype(np.float32)
        box = np.concatenate([middle - 0.3 * side, middle + 0.3 * side]).astype(np.float32)
        return [[Face(box, 1.0, points)] for _ in frames]


def clip_of(video: Path, audio: Path | None = None, **span: float) -> Clip:
    """Return the manifest's line for a file in the root."""
    return Clip(key="a", video=video.name, audio=audio.name if audio else None, split="train", **span)


EYES_AND_MOUTH = np.array([[203.0, 101.0], [247.0, 104.0], [224.5, 141.5]])
"""Eyes and mouth of the portrait that scikit-image ships, located by eye; pixels."""
