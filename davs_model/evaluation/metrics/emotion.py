"""Emotion recognition that no model is trained with: a linear SVM of image gradients.

Each evaluation fits it to real frames of the train split. It uses only the gradients of frames (histograms of oriented
gradients, Dalal and Triggs 2005), so that it has nothing in common with a network that trains a model.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from davs_model.data.pictures import MOUTH_BOX, Frames, region
from davs_model.evaluation.metrics.leakage import linear_svm

SIDE = 96
"""Side in pixels to which frames are resized."""
CELL, BINS = 8, 9


def gradients(frames: Frames, *, mouth: bool) -> NDArray[np.float64]:
    """Return the mean histogram of frames uint8 (T, S, S, 3), RGB, of one clip: float64 `[D]`.

    mouth: if False, the mouth box is first filled with its mean colour.
    """
    cells = cv2.HOGDescriptor((SIDE, SIDE), (2 * CELL, 2 * CELL), (CELL, CELL), (CELL, CELL), BINS)
    found = []
    for frame in frames:
        shown = frame if mouth else covered(frame)
        grey = cv2.cvtColor(np.ascontiguousarray(shown), cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        found.append(np.ravel(cells.compute(small)))
    return np.asarray(np.mean(found, axis=0), np.float64)


def covered(frame: Frames) -> Frames:
    """Return a frame (S, S, 3) with the mouth box filled with its mean colour."""
    frame = frame.copy()
    rows, columns = region(MOUTH_BOX, len(frame))
    frame[rows, columns] = frame[rows, columns].mean((0, 1)).round()
    return frame


class EmotionSVM:
    """A linear SVM that predicts the emotion of clips from their gradients."""

    def __init__(self, svm: Any) -> None:
        self._svm = svm

    @classmethod
    def fit(cls, features: NDArray[np.float64], emotions: NDArray[np.int64], *, seed: int = 0) -> EmotionSVM:
        """Fit it to `gradients` of clips `[N, D]` and their emotions `[N]`; ValueError for fewer than two emotions."""
        return cls(linear_svm(features, emotions, seed=seed, choose=False))

    def read(self, features: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the predicted emotions `[N]` of clips `[N, D]`."""
        return np.asarray(self._svm.predict(features), np.int64)
