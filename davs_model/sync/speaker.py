"""Active speaker detection by a sync model: the confidence that the mouth of a face is in sync with the audio."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from davs_model.models.sync.scorer import Scorer
from davs_model.sync.load import load

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class SpeakerJudge:
    """Scores faces by the sync model of a run; see `avprep.speaking.JudgeBuilder`."""

    run: Path
    device: str = "cpu"

    def digest(self) -> str:
        """Return the digest of the model."""
        return _loaded(self.run, "cpu").digest

    def preset(self) -> Literal["davs", "syncnet"]:
        """Return the preset of its input windows."""
        return "syncnet" if _loaded(self.run, "cpu").mfcc_preset == "syncnet" else "davs"

    def __call__(self) -> Callable[[Iterable[NDArray[np.uint8]], NDArray[np.float32], Bools], float | None]:
        """Load the model, and return the function that scores a face."""
        torch.set_num_threads(1)
        return functools.partial(confidence, _loaded(self.run, self.device))


def confidence(
    scorer: Scorer, crops: Iterable[NDArray[np.uint8]], windows: NDArray[np.float32], valid: Bools
) -> float | None:
    """Return the confidence of a face with an audio track; None if there are too few windows.

    crops: (256, 256, 3 or 4) for each frame, RGB or RGBA. windows: (T, 12, 20). valid: (T,).
    """
    pictures = np.concatenate([scorer.grey(np.ascontiguousarray(crop[None, ..., :3])) for crop in crops])
    found = scorer.features(pictures, windows, valid).offset()
    return None if found is None else found.confidence


@functools.lru_cache(2)
def _loaded(run: Path, device: str) -> Scorer:
    return load(run, device=device)
