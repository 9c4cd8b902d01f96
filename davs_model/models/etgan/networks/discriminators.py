"""D_frame and D_st: is a frame real, and does an expression move like a real one?"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from davs_model.models.davs.networks.layers import LEAK, channels, conv_bn, fold, unfold
from davs_model.models.etgan.dimensions import RUN_LENGTH


class FrameDiscriminator(nn.Module):
    """D_frame, a patch discriminator of single frames, with the trunk of DAVS's D_seq except for one layer.

    width: channel multiplier. image_size: S.
    """

    def __init__(self, *, width: float = 1.0, image_size: int = 256) -> None:
        super().__init__()
        self.image_size = image_size
        c64, c128, c256 = (channels(count, width) for count in (64, 128, 256))
        self.layers = nn.Sequential(
            nn.Conv2d(3, c64, 4, 2, 1),
            nn.LeakyReLU(LEAK, inplace=True),
            conv_bn(c64, c128, 4, 2, 1, leaky=True),
            conv_bn(c128, c256, 4, 2, 1, leaky=True),
            nn.Conv2d(c256, 1, 4, 1, 1),
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Return the logit of `real` `[B, T, P, P]` for each patch of frames `[B, T, 3, S, S]`."""
        return unfold(self.layers(fold(frames, 3, self.image_size, self.image_size))[:, 0], len(frames))


class ClipDiscriminator(nn.Module):
    """D_st, convolutions over space and time, 3×4×4, of 8 frames at half their size; without BatchNorm.

    width: channel multiplier.
    """

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()
        self.smaller = nn.AvgPool3d((1, 2, 2))
        counts = (3, *(channels(count, width) for count in (32, 64, 128)))
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv3d(inside, outside, (3, 4, 4), (1, 2, 2), (0, 1, 1)), nn.LeakyReLU(LEAK, inplace=True)
                )
                for inside, outside in pairwise(counts)
            ),
            nn.Conv3d(counts[-1], 1, (RUN_LENGTH - 6, 3, 3), padding=(0, 1, 1)),
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Return the logit of `real` `[B, P, P]` for each part of 8 consecutive frames `[B, 8, 3, S, S]`."""
        return self.layers(self.smaller(2 * frames.transpose(1, 2) - 1))[:, 0, 0]
