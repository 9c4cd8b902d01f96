"""G: the decoder, from a person's and a speech feature to a frame."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from davs_model.models.davs.networks.identity import Identity
from davs_model.models.davs.networks.layers import (
    FEATURES,
    channels,
    check_image_size,
    conv_bn_relu,
    double,
    fold,
    unfold,
)

BLOCKS = ((2, 512), (3, 512), (4, 256), (4, 256), (3, 128), (2, 64))
"""Convolutions and channels of each block; every block is followed by ×2 upsampling."""
JOINED = 3
"""Before this block (from 0) the identity maps of S/8 are put in front of its input."""


class Decoder(nn.Module):
    """G, convolutions and bilinear upsampling from a vector to a picture.

    width: channel multiplier; the features stay 256 long.
    image_size: S, 64, 128 or 256; the first maps are S/64 wide, so that six doublings give S.
    """

    def __init__(self, *, width: float = 1.0, image_size: int = 256) -> None:
        super().__init__()
        check_image_size(image_size)
        in_channels = channels(512, width)
        self.first = nn.Sequential(
            nn.ConvTranspose2d(2 * FEATURES, in_channels, image_size // 2 ** len(BLOCKS)),
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.ModuleList()
        for number, (count, out_channels) in enumerate(BLOCKS):
            if number == JOINED:
                in_channels += channels(160, width)
            out_channels = channels(out_channels, width)
            widths = (in_channels, *(out_channels,) * count)
            self.blocks.append(nn.Sequential(*(conv_bn_relu(*pair) for pair in pairwise(widths))))
            in_channels = out_channels
        c32 = channels(32, width)
        self.last = nn.Sequential(
            nn.ConvTranspose2d(in_channels, c32, 3, padding=1),
            nn.BatchNorm2d(c32),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(c32, 3, 3, padding=1),
        )

    def forward(self, identity: Identity, speech: Tensor) -> Tensor:
        """Draw RGB frames `[B, T, 3, S, S]` in [0, 1], float32.

        identity: of one frame of each clip, `[B, 1, …]`, or of T frames, `[B, T, …]`.
        speech: f_w^v or f_w^a, `[B, T, 256]`.
        """
        batch, n_frames = speech.shape[:2]
        person = identity.feature.expand(batch, n_frames, FEATURES)
        eighth = identity.eighth.expand(batch, n_frames, *identity.eighth.shape[2:]).flatten(0, 1)
        vectors = torch.cat((fold(person, FEATURES), fold(speech, FEATURES)), dim=1)
        maps = self.first(vectors[:, :, None, None])
        for number, block in enumerate(self.blocks):
            if number == JOINED:
                maps = torch.cat((eighth, maps), dim=1)
            maps = double(block(maps))
        # In float32 also under autocast: half precision has fewer steps than a picture has greys.
        return unfold((self.last(maps).float().tanh() + 1) / 2, batch)
