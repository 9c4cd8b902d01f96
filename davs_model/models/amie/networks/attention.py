"""Dynamic attention (DA): the place of the lips in a frame, from the previous attention and the previous frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from davs_model.models.amie.masks import first_attention, wide_box

CHANNELS = 16
"""Channels between the convolutions; the paper gives none."""


class DynamicAttention(nn.Module):
    """DA: 3×3 convolutions 4 → 16 → 16 → 1 on the previous generated frame and its attention, at S/4.

    The paper states only that a mask is predicted from these two; the layers are ours.

    image_size: S.
    """

    def __init__(self, *, image_size: int = 256) -> None:
        super().__init__()
        self.image_size = image_size
        self.layers = nn.Sequential(
            nn.Conv2d(4, CHANNELS, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(CHANNELS, 1, 3, padding=1),
        )

    def forward(self, frames: Tensor, before: Tensor) -> Tensor:
        """Return the logits of P_i `[B, 1, S/4, S/4]` from f̂_{i−1} `[B, 3, S, S]` and P_{i−1}."""
        small = functional.adaptive_avg_pool2d(frames, before.shape[-1])
        return self.layers(torch.cat((small, before.to(small.dtype)), dim=1)).float()

    def attention(self, logits: Tensor) -> Tensor:
        """Return P_i in [0, 1], 0 outside the widened mouth box."""
        return logits.sigmoid() * wide_box(self.image_size).to(logits)

    def first(self, count: int, device: torch.device) -> Tensor:
        """Return P_1 of `count` clips, `[B, 1, S/4, S/4]`."""
        return first_attention(self.image_size).to(device).expand(count, -1, -1, -1)
