"""What is measured of generated frames themselves: how near they come to the real ones, and their mouths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from davs_model.data.pictures import to_crops
from davs_model.evaluation.metrics.mouth import mouth_distance
from davs_model.evaluation.metrics.reconstruction import Reconstructions

Landmarks = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Finds mouths in crops, uint8 (N, 256, 256, 3): landmarks float32 (N, L, 2) in pixels, NaN where there are none."""


@dataclass
class Drawn:
    """Measures clip by clip.

    landmarks: finds mouths, None: nothing does. mouth_clips: most clips whose mouths are measured.
    """

    landmarks: Landmarks | None
    mouth_clips: int
    quality: dict[str, Reconstructions] = field(default_factory=dict)
    mouths: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    _measured: int = 0

    def add(self, real: Tensor, drawn: dict[str, Tensor]) -> None:
        """Add frames `[B, T, 3, S, S]`, real ones and what was drawn in their place."""
        for name, frames in drawn.items():
            self.quality.setdefault(name, Reconstructions()).add(real.flatten(0, 1), frames.flatten(0, 1))
        clips = min(len(real), self.mouth_clips - self._measured)
        if self.landmarks is None or clips <= 0:
            return
        self._measured += clips
        for name, frames in {"real": real, **drawn}.items():
            self.mouths.setdefault(name, []).append(self.landmarks(to_crops(frames[:clips].flatten(0, 1))))


def drawn_tables(drawn: Drawn, landmarks: tuple[Landmarks, str] | str, missing: dict[str, str]) -> dict[str, Any]:
    """Return how near frames come to the real ones, and their mouths."""
    tables: dict[str, Any] = {}
    if drawn.quality:
        tables["reconstruction"] = {name: asdict(kept.result()) for name, kept in drawn.quality.items()}
    if isinstance(landmarks, str):
        missing.setdefault("mouth", landmarks)
    elif drawn.mouths:
        mouths = {name: np.concatenate(parts) for name, parts in drawn.mouths.items()}
        tables["mouth"] = {"landmarks": landmarks[1]}
        tables["mouth"] |= {name: asdict(mouth_distance(mouths["real"], mouths[name])) for name in drawn.quality}
    return tables
