"""D_seq: the sequence discriminator. Are six frames real, and is the mouth in sync with the audio?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from avprep.schema import N_COEFFICIENTS, WINDOW_STEPS
from davs_model.models.davs.networks.layers import LEAK, channels, check_image_size, conv_bn, expect, unused


class SequenceLogits(NamedTuple):
    """The output of D_seq, as logits of `real`."""

    patch: Tensor
    """`[B, 1, P, P]`, one per patch of the frames; P is 30 at 256 pixels."""
    in_step: Tensor
    """`[B, 1]`, for mouth and audio being in sync."""


class SequenceDiscriminator(nn.Module):
    """D_seq, a patch discriminator of frames stacked as channels, with a second head for audio-video sync.

    n_frames: number of consecutive frames, and of windows. width: channel multiplier. image_size: S, 64, 128 or 256.
    """

    def __init__(self, *, n_frames: int = 6, width: float = 1.0, image_size: int = 256) -> None:
        super().__init__()
        check_image_size(image_size)
        self.n_frames, self.image_size = n_frames, image_size
        c64, c128, c256, c512 = (channels(count, width) for count in (64, 128, 256, 512))
        self.trunk = nn.Sequential(
            nn.Conv2d(3 * n_frames, c64, 4, 2, 1),
            nn.LeakyReLU(LEAK, inplace=True),
            conv_bn(c64, c128, 4, 2, 1, leaky=True),
            conv_bn(c128, c256, 4, 2, 1, leaky=True),
            conv_bn(c256, c512, 4, 1, 1, leaky=True),
        )
        self.patch = nn.Conv2d(c512, 1, 4, 1, 1)
        # The mouth: rows 19:28 and columns 11:20 of the 31×31 maps at 256 pixels, else the same part of the frame.
        cells, side = image_size // 8 - 1, image_size // 32 + 1
        top, left = (round(centre / 31 * cells - side / 2) for centre in (23.5, 15.5))
        self.rows, self.columns = slice(top, top + side), slice(left, left + side)
        self.mouth = nn.Sequential(
            conv_bn(c512, c512, 3, leaky=True),
            nn.Conv2d(c512, c512, side - 2),
            nn.LeakyReLU(LEAK, inplace=True),
        )
        # The released network has no non-linearity in these four, nor between the two linear layers after them.
        self.sound = nn.Sequential(  # 20×12 → 7×7 → 4×4 → 2×2 → 1×1
            conv_bn(n_frames, c64, 3, (3, 2), (1, 2)),
            conv_bn(c64, c128, 3, 2, 1),
            conv_bn(c128, c256, 3),
            conv_bn(c256, c256, 2),
        )
        self.in_step = nn.Sequential(nn.Linear(c512 + c256, c512), nn.Linear(c512, 1))
        self.unused = unused(
            bn7=nn.BatchNorm2d(c512),
            conv8=nn.Conv2d(c512, 1, 1, bias=False),
            bn8=nn.BatchNorm2d(1),
            bn9=nn.BatchNorm2d(c512),
        )

    def forward(self, frames: Tensor, windows: Tensor) -> SequenceLogits:
        """Classify RGB frames `[B, 6, 3, S, S]` in [0, 1] and their MFCC windows `[B, 6, 12, 20]`."""
        expect(frames, self.n_frames, 3, self.image_size, self.image_size)
        expect(windows, self.n_frames, N_COEFFICIENTS, WINDOW_STEPS)
        maps = self.trunk(frames.flatten(1, 2))
        mouth = self.mouth(maps[:, :, self.rows, self.columns]).flatten(1)
        sound = self.sound(windows.transpose(2, 3)).flatten(1)
        return SequenceLogits(self.patch(maps), self.in_step(torch.cat((mouth, sound), dim=1)))
