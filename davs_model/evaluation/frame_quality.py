"""Similarity of generated frames and mouths to the real ones: Table 1 of the paper, and mouth landmarks."""

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
"""Detects mouth landmarks in crops, uint8 (N, 256, 256, 3): float32 (N, L, 2) in pixels, NaN where none is found."""


@dataclass
class FrameQuality:
    """Measures generated frames batch by batch.

    landmarks: landmark detector, or None. mouth_clips: maximum number of clips whose mouths are measured.
    """

    landmarks: Landmarks | None
    mouth_clips: int
    reconstructions: dict[str, Reconstructions] = field(default_factory=dict)
    mouths: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    _measured: int = 0

    def add(self, real: Tensor, generated: dict[str, Tensor]) -> None:
        """Add real frames `[B, T, 3, S, S]`, and generated ones by the name of their driver."""
        for name, frames in generated.items():
            self.reconstructions.setdefault(name, Reconstructions()).add(real.flatten(0, 1), frames.flatten(0, 1))
        clips = min(len(real), self.mouth_clips - self._measured)
        if self.landmarks is None or clips <= 0:
            return
        self._measured += clips
        for name, frames in {"real": real, **generated}.items():
            self.mouths.setdefault(name, []).append(self.landmarks(to_crops(frames[:clips].flatten(0, 1))))

    def tables(self, landmarks: tuple[Landmarks, str] | str, missing: dict[str, str]) -> dict[str, Any]:
        """Return `reconstruction` and `mouth` of metrics.json.

        landmarks: the landmark detector and its name; or the reason why there is none, which is added to `missing`.
        """
        tables: dict[str, Any] = {}
        if self.reconstructions:
            tables["reconstruction"] = {name: asdict(kept.result()) for name, kept in self.reconstructions.items()}
        if isinstance(landmarks, str):
            missing.setdefault("mouth", landmarks)
        elif self.mouths:
            mouths = {name: np.concatenate(parts) for name, parts in self.mouths.items()}
            tables["mouth"] = {"landmarks": landmarks[1]}
            for name in self.reconstructions:
                tables["mouth"][name] = asdict(mouth_distance(mouths["real"], mouths[name]))
        return tables
