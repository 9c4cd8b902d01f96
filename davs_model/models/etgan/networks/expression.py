"""E_exp, from a few frames of any person to an expression, and the emotion classifier that supervises the model."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from davs_model.data.pictures import MOUTH_BOX, Box, grey_levels, region
from davs_model.models.amie.networks.image import CELLS, halvings
from davs_model.models.davs.networks.layers import LEAK, channels, fold, unfold

EXPRESSION = 64
"""Length of e_exp."""
CHANNELS = (32, 64, 128, 128, 256, 256)
"""Channels of each halving at width 1."""
HIDDEN = 128
"""Length of the features of a frame."""
FACE_BOX: Box = (48, 224, 44, 212)
"""What E_exp sees: eyebrows, eyes, nose and cheeks; the mouth is hidden. Hair, ears and background, which identify the
person, are outside."""
CONTRAST = 0.25
"""Standard deviation of the grey levels that E_exp sees, in [0, 1]."""


class FrameEncoder(nn.Module):
    """Convolutions of stride 2 from a frame to 4×4, and a linear layer: 128 features.

    It uses GroupNorm, so that the features of a clip do not depend on other clips, in training or after it.

    width: channel multiplier. image_size: S. colours: number of channels of an image.
    """

    def __init__(self, *, width: float = 1.0, image_size: int = 256, colours: int = 3) -> None:
        super().__init__()
        self.image_size, self.colours = image_size, colours
        counts = (colours, *(channels(count, width) for count in CHANNELS[: halvings(image_size)]))
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
        """Encode frames in [0, 1], RGB `[B, T, 3, S, S]` or grey `[B, T, 1, S, S]`, as `[B, T, 128]`."""
        maps = self.layers(fold(2 * frames - 1, self.colours, self.image_size, self.image_size))
        return unfold(self.fc(maps.flatten(1)), len(frames))


def expressive(frames: Tensor) -> Tensor:
    """Return what E_exp sees of RGB frames of clips `[B, T, 3, S, S]` in [0, 1]: `[B, T, 1, S, S]`, around ½.

    It is the face without the mouth, in grey, with brightness and contrast normalised over the clip. Surroundings and
    colour of a face say nothing about its expression, but would identify the person.
    """
    side = frames.shape[-1]
    seen = torch.zeros(side, side, device=frames.device)
    seen[region(FACE_BOX, side)] = 1
    seen[region(MOUTH_BOX, side)] = 0
    light = grey_levels(frames)[:, :, None]
    count = frames.shape[1] * seen.sum()
    level = seen * (light - (seen * light).sum((1, 2, 3, 4), keepdim=True) / count)
    spread = (level.square().sum((1, 2, 3, 4), keepdim=True) / count + 1e-6).sqrt()
    return (0.5 + CONTRAST * level / spread).to(frames.dtype)


class ExpressionEncoder(nn.Module):
    """E_exp: features of each `expressive` frame, their mean and standard deviation over time, and a linear layer.

    width: channel multiplier; e_exp stays 64 long. image_size: S. rank: number of values that e_exp is computed from.
    """

    def __init__(self, *, width: float = 1.0, image_size: int = 256, rank: int = 8) -> None:
        super().__init__()
        self.frame = FrameEncoder(width=width, image_size=image_size, colours=1)
        self.fc = nn.Sequential(nn.Linear(2 * HIDDEN, rank), nn.Linear(rank, EXPRESSION))

    def forward(self, frames: Tensor) -> Tensor:
        """Encode RGB frames of clips `[B, T, 3, S, S]` in [0, 1] as e_exp `[B, 64]`."""
        features = nn.functional.leaky_relu(self.frame(expressive(frames)), LEAK)
        mean = features.mean(1)
        deviation = ((features - mean[:, None]).square().mean(1) + 1e-6).sqrt()
        return self.fc(torch.cat((mean, deviation), dim=1))


class EmotionReader(nn.Module):
    """The judge: a classifier of the emotion in a frame, including the mouth.

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
    """Return a classifier from e_exp `[B, 64]` to logits `[B, N]`."""
    return nn.Sequential(nn.Linear(EXPRESSION, HIDDEN), nn.ReLU(inplace=True), nn.Linear(HIDDEN, n_classes))
