"""Predicts the motion of the mouth from audio features, so that they learn to contain it; not from a paper."""

from __future__ import annotations

from torch import Tensor, nn

from davs_model.models.davs.networks.layers import FEATURES, expect

ROWS, COLUMNS = 8, 16
"""Size in pixels of the downscaled mouth box that is predicted."""


class MouthReader(nn.Linear):
    """A linear layer from f_w^a to a small grey image of the mouth of any person, without its mean over time."""

    def __init__(self) -> None:
        super().__init__(FEATURES, ROWS * COLUMNS)

    def forward(self, speech: Tensor) -> Tensor:
        """Map F_w^a `[B, T, 256]` to images `[B, T, ROWS, COLUMNS]`; 1 is the difference between black and white."""
        expect(speech, "T", FEATURES)
        return super().forward(speech).unflatten(-1, (ROWS, COLUMNS))
