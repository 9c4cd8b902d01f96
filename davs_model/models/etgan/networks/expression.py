"""E_exp, from a few frames of anybody to an expression, and the reader of emotions that the model is held to."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from davs_model.models.amie.networks.image import CELLS, halvings
from davs_model.models.davs.networks.layers import LEAK, channels, fold, unfold
from davs_model.models.etgan.corruption import hide_mouth

EXPRESSION = 64
"""Length of e_exp."""
CHANNELS = (32, 64, 128, 128, 256, 256)
"""Of each halving at width 1."""
HIDDEN = 128
"""Features of a frame."""


class FrameEncoder(nn.Module):
    """Convolutions of stride 2 from a frame to 4×4, and a linear layer: 128 features.

    With GroupNorm: what is seen of a clip does not depend on others, in training or after it.

    width: channel multiplier. image_size: S.
    """

    def __init__(self, *, width: float = 1.0, image_size: int = 256) -> None:
        super().__init__()
        self.image_size = image_size
        counts = (3, *(channels(count, width) for count in CHANNELS[: halvings(image_size)]))
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(inside, outside, 4, 2, 1, bias=False),
                    nn.GroupNorm(4, outside),
                    nn.LeakyReLU(LEAK, inplace=True),
                )
                for inside, outside in pairwise(counts)
            )
        )
        self.fc = nn.Linear(counts[-1] * CELLS**2, HIDDEN)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode RGB frames `[B, T, 3, S, S]` in [0, 1] as `[B, T, 128]`."""
        maps = self.layers(fold(2 * frames - 1, 3, self.image_size, self.image_size))
        return unfold(self.fc(maps.flatten(1)), len(frames))


class ExpressionEncoder(nn.Module):
    """E_exp: features of each frame with its mouth hidden, their mean and deviation over time, a linear layer.

    width: channel multiplier; e_exp stays 64 long. image_size: S. rank: numbers that it is made of; 0: 64.
    """

    def __init__(self, *, width: float = 1.0, image_size: int = 256, rank: int = 0) -> None:
        super().__init__()
        self.frame = FrameEncoder(width=width, image_size=image_size)
        sizes = (2 * HIDDEN, rank, EXPRESSION) if rank else (2 * HIDDEN, EXPRESSION)
        self.fc = nn.Sequential(*(nn.Linear(inside, outside) for inside, outside in pairwise(sizes)))

    def forward(self, frames: Tensor) -> Tensor:
        """Encode RGB frames of clips `[B, T, 3, S, S]` in [0, 1] as e_exp `[B, 64]`."""
        features = nn.functional.leaky_relu(self.frame(hide_mouth(frames)), LEAK)
        mean = features.mean(1)
        deviation = ((features - mean[:, None]).square().mean(1) + 1e-6).sqrt()
        return self.fc(torch.cat((mean, deviation), dim=1))


class EmotionReader(nn.Module):
    """The judge: which emotion does a frame show, mouth and all?

    n_emotions: N_e. width: channel multiplier. image_size: S.
    """

    def __init__(self, *, n_emotions: int, width: float = 1.0, image_size: int = 256) -> None:
        super().__init__()
        self.frame = FrameEncoder(width=width, image_size=image_size)
        self.fc = nn.Sequential(nn.LeakyReLU(LEAK), nn.Dropout(0.3), nn.Linear(HIDDEN, n_emotions))

    def forward(self, frames: Tensor) -> Tensor:
        """Map RGB frames `[B, T, 3, S, S]` in [0, 1] to logits `[B, T, N_e]`."""
        return self.fc(self.frame(frames))


def classifier(n_classes: int) -> nn.Sequential:
    """Return what reads classes in e_exp `[B, 64]`: logits `[B, N]`."""
    return nn.Sequential(nn.Linear(EXPRESSION, HIDDEN), nn.ReLU(inplace=True), nn.Linear(HIDDEN, n_classes))
