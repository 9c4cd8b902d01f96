"""E_p^v: the identity encoder, from one frame to identity features (pid space)."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from davs_model.models.davs.networks.layers import FEATURES, channels, check_image_size, fold, unfold


class Identity(NamedTuple):
    """The output of E_p^v for frames `[B, T, 3, S, S]`; channel counts are those at width 1."""

    feature: Tensor
    """f_p^v, `[B, T, 256]`."""
    quarter: Tensor
    """`[B, T, 64, S/4, S/4]`, which C_p^w reads."""
    eighth: Tensor
    """`[B, T, 160, S/8, S/8]`, which the decoder reads."""
    sixteenth: Tensor
    """`[B, T, 320, S/16, S/16]`."""
    thirty_second: Tensor
    """`[B, T, 256, S/32, S/32]`, whose mean is the feature."""
    half: Tensor
    """`[B, T, 32, S/2, S/2]`, of the first layer."""
    frames: Tensor
    """The frames themselves, `[B, T, 3, S, S]`."""


class Maxout(nn.Module):
    """The element-wise maximum of two parallel convolutions with BatchNorm; no other non-linearity.

    The two are computed as one convolution with twice the channels: the same values, in one pass over the input.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 2 * out_channels, kernel, stride, kernel // 2)
        self.bn = nn.BatchNorm2d(2 * out_channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Map `[N, in_channels, H, W]` to `[N, out_channels, H/stride, W/stride]`."""
        first, second = self.bn(self.conv(maps)).chunk(2, dim=1)
        return torch.maximum(first, second)


def _stage(in_channels: int, *out_channels: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(*(Maxout(*pair, kernel=kernel) for pair in pairwise((in_channels, *out_channels))))


class IdentityEncoder(nn.Module):
    """E_p^v, a modified VGG-M of maxout blocks.

    width: channel multiplier; the feature stays 256 long.
    image_size: S, 64, 128 or 256.
    """

    def __init__(self, *, width: float = 1.0, image_size: int = 256) -> None:
        super().__init__()
        check_image_size(image_size)
        self.image_size = image_size
        c32, c64, c96, c128, c160, c320 = (channels(count, width) for count in (32, 64, 96, 128, 160, 320))
        self.stem = Maxout(3, c32, kernel=7, stride=2)
        self.quarter = _stage(c32, c32, c32, c64, c64)
        self.eighth = _stage(c64, c96, c96, c128, c128, c160, c160)
        self.sixteenth = _stage(c160, c320, c320, c320, c320)
        self.thirty_second = _stage(c320, FEATURES, FEATURES, kernel=5)
        self.pool = nn.MaxPool2d(2)

    def forward(self, frames: Tensor) -> Identity:
        """Encode RGB frames `[B, T, 3, S, S]` in [0, 1]."""
        maps = half = self.stem(fold(frames, 3, self.image_size, self.image_size))
        found = []
        for stage in (self.quarter, self.eighth, self.sixteenth, self.thirty_second):
            maps = stage(self.pool(maps))
            found.append(unfold(maps, len(frames)))
        quarter, eighth, sixteenth, thirty_second = found
        feature, half = thirty_second.mean((-2, -1)), unfold(half, len(frames))
        return Identity(feature, quarter, eighth, sixteenth, thirty_second, half, frames)
