"""E_pos: the encoder of the position of the face in each frame, from landmarks and transforms that may be unknown."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from davs_model.data.positions import POSITION
from davs_model.models.davs.networks.layers import expect
from davs_model.models.etgan.dimensions import RUN_LENGTH

FEATURES = 64
"""Length of the features of a frame."""


class PositionEncoder(nn.Module):
    """A linear layer from 14 values and 14 flags that mark the known ones, and a bidirectional GRU (ours)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * POSITION, FEATURES)
        self.gru = nn.GRU(FEATURES, FEATURES // 2, batch_first=True, bidirectional=True)

    def forward(self, positions: Tensor) -> Tensor:
        """Encode positions `[B, T, 14]`, NaN where unknown, as `[B, T, 64]`."""
        expect(positions, "T", POSITION)
        known = positions.isfinite()
        given = torch.cat((positions.nan_to_num(0.0), known.to(positions.dtype)), dim=-1)
        return self.gru(self.fc(given).relu())[0]

    def neutral(self) -> Tensor:
        """Return the features `[1, 1, 64]` of a frame when no position is known.

        They are those of the middle frame of a run of unknown positions, for speech of any length. The GRU is
        bidirectional, and a video that is generated in parts must equal one that is generated at once.
        """
        unknown = self.fc.weight.new_full((1, RUN_LENGTH, POSITION), math.nan)
        return self(unknown)[:, RUN_LENGTH // 2 : RUN_LENGTH // 2 + 1]
