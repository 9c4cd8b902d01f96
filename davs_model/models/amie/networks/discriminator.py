"""D: the frame discriminator. Do a frame and its audio match, and is the frame real?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avprep.schema import N_COEFFICIENTS, WINDOW_STEPS
from davs_model.models.amie.networks.image import CELLS, CHANNELS, halving, halvings
from davs_model.models.davs.networks.layers import LEAK, channels, expect, fold, unfold


class FrameDiscriminator(nn.Module):
    """D, a classifier of the flattened output of an image CNN, concatenated with that of an audio layer.

    width: channel multiplier. image_size: S.
    """

    def __init__(self, *, width: float = 1.0, image_size: int = 256) -> None:
        super().__init__()
        self.image_size = image_size
        last = channels(CHANNELS[halvings(image_size) - 1], width)
        self.image = nn.Sequential(halving(image_size, width), nn.Flatten(), nn.Linear(last * CELLS**2, 512))
        self.sound = nn.Sequential(
            nn.Linear(N_COEFFICIENTS * WINDOW_STEPS, 256), nn.LeakyReLU(LEAK, inplace=True), nn.Linear(256, 256)
        )
        self.classifier = nn.Sequential(nn.Linear(768, 256), nn.LeakyReLU(LEAK, inplace=True), nn.Linear(256, 1))

    def forward(self, frames: Tensor, windows: Tensor) -> Tensor:
        """Return logits of `real` `[B, T]` of frames `[B, T, 3, S, S]` and their windows `[B, T, 12, 20]`."""
        expect(windows, frames.shape[1], N_COEFFICIENTS, WINDOW_STEPS)
        seen = self.image(fold(frames, 3, self.image_size, self.image_size))
        heard = self.sound(windows.flatten(0, 1).flatten(1))
        return unfold(self.classifier(torch.cat((seen, heard), dim=1)), len(frames))[..., 0]
