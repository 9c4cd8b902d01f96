"""How the lips of whole generated clips open, by the landmarks of a detector; see `davs_model.evaluation.metrics.lips`.

Landmarks are those of the frames as the model sees them, enlarged to crops, generated and real ones alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from avprep.schema import CROP_SIZE
from davs_model.data.pictures import to_crops
from davs_model.evaluation.frame_quality import Landmarks
from davs_model.evaluation.metrics.lips import N_LIPS, LipScores
from davs_model.evaluation.talk import WholeClip


class LipMeasure:
    """Measures the generated clips that `talk.measure` shows it."""

    def __init__(self, landmarks: Landmarks, name: str, limit: int) -> None:
        """landmarks, name: a detector of lips, and its name. limit: maximum number of clips."""
        self._landmarks, self._name, self._left = landmarks, name, limit
        self._scores: dict[str, LipScores] = {}

    @classmethod
    def by(cls, landmarks: tuple[Landmarks, str] | str, limit: int) -> Self | None:
        """Return the measure by a detector and its name; None without one, or if it places only the mouth's corners."""
        if isinstance(landmarks, str):
            return None
        places = landmarks[0](np.zeros((1, CROP_SIZE, CROP_SIZE, 3), np.uint8)).shape[1]
        return cls(*landmarks, limit) if places == N_LIPS else None

    def __call__(self, clip: WholeClip, generated: Sequence[tuple[str, Tensor]]) -> None:
        """Measure a clip during speech."""
        if self._left <= 0:
            return
        self._left -= 1
        real = self._lips(clip, clip.real[0])
        for source, frames in generated:
            self._scores.setdefault(source, LipScores()).add(real, self._lips(clip, frames))

    def _lips(self, clip: WholeClip, frames: Tensor) -> NDArray[np.float32]:
        return self._landmarks(to_crops(frames[clip.spoken]))

    def table(self) -> dict[str, Any]:
        """Return `lips` of metrics.json; empty if nothing was measured."""
        found = {source: asdict(one) for source, kept in self._scores.items() if (one := kept.result())}
        return {"landmarks": self._name, **found} if found else {}
