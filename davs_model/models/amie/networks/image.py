"""E_img: the frame encoder, of strided convolutions; the estimator's image encoder has the same architecture."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from davs_model.models.davs.networks.layers import FEATURES, channels, conv_bn, fold, unfold

CELLS = 4
"""Side of the last maps in pixels."""
CHANNELS = (64, 128, 256, 512, 512, 512)
"""Channels of each halving at width 1; the paper gives none."""


def halvings(size: int) -> int:
    """Return the number of halvings from a side to 4; ValueError for a side that halving does not bring to 4."""
    count = (size // CELLS).bit_length() - 1
    if not 1 <= count <= len(CHANNELS) or CELLS << count != size:
        raise ValueError(f"size {size}: 4 times a power of two, from 8 to {CELLS << len(CHANNELS)}")
    return count


def halving(size: int, width: float) -> nn.Sequential:
    """Return convolutions of stride 2 from `[N, 3, size, size]` to `[N, C, 4, 4]`."""
    counts = (3, *(channels(count, width) for count in CHANNELS[: halvings(size)]))
    return nn.Sequential(*(conv_bn(inside, outside, 4, 2, 1, leaky=True) for inside, outside in pairwise(counts)))


class ImageEncoder(nn.Module):
    """E_img, from a frame to 256 features.

    width: channel multiplier. size: side of the frames.
    """

    def __init__(self, *, width: float = 1.0, size: int = 256) -> None:
        super().__init__()
        self.size = size
        self.layers = halving(size, width)
        self.fc = nn.Linear(channels(CHANNELS[halvings(size) - 1], width) * CELLS**2, FEATURES)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode RGB frames `[B, T, 3, size, size]` as `[B, T, 256]`."""
        maps = self.layers(fold(frames, 3, self.size, self.size))
        return unfold(self.fc(maps.flatten(1)), len(frames))
