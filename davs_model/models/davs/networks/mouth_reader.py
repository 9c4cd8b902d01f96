"""What reads from audio features how a mouth moves, so that they learn to tell it; in no paper."""

from __future__ import annotations

from torch import Tensor, nn

from davs_model.models.davs.networks.layers import FEATURES, expect

ROWS, COLUMNS = 8, 16
"""Pixels of the mouth box, made small, that are read."""


class MouthReader(nn.Linear):
    """A linear layer from f_w^a to a small grey picture of the mouth, whoever's, without what is always there."""

    def __init__(self) -> None:
        super().__init__(FEATURES, ROWS * COLUMNS)

    def forward(self, speech: Tensor) -> Tensor:
        """Map F_w^a `[B, T, 256]` to pictures `[B, T, ROWS, COLUMNS]`, 1 being from black to white."""
        expect(speech, "T", FEATURES)
        return super().forward(speech).unflatten(-1, (ROWS, COLUMNS))
