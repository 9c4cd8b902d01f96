"""The two encoders: from five frames of the lower half of a face, and their 200 ms of audio, to unit vectors."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from avprep.schema import N_COEFFICIENTS, WINDOW_FRAMES, WINDOW_STEPS
from davs_model.data.pictures import Box, grey_levels

FEATURES = 256
"""Length of a feature."""
LOWER_HALF: Box = (128, 256, 32, 224)
"""The part of a crop that the visual encoder sees: from the tip of the nose to below the chin, without the ears."""
CONTEXT = WINDOW_FRAMES // 2
"""Number of frames before and after the one on which a window is centred."""
MIN_CONTRAST = 1e-3
"""Minimum standard deviation of the grey levels of a clip; that of a uniform colour is 0."""
MAX_SCALE = 100.0
"""Maximum inverse temperature."""


def channels(count: int, width: float) -> int:
    """Return `count` channels times the width, at least 8."""
    return max(8, 8 * round(count * width / 8))


class VisualEncoder(nn.Module):
    """From five consecutive frames, stacked as channels, to a unit vector."""

    def __init__(self, *, width: float, side: int) -> None:
        super().__init__()
        counts = [WINDOW_FRAMES, *(channels(count, width) for count in (32, 64, 128, 256))]
        layers: list[nn.Module] = []
        for before, after in pairwise(counts):
            kernel = 5 if before == WINDOW_FRAMES else 3
            convolution = nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(counts[-1] * (-(-side // 16)) ** 2, FEATURES)

    def forward(self, grey: Tensor) -> Tensor:
        """Map standardised grey images `[B, T, S, S]` to `[B, T, 256]`; the first and last are repeated."""
        batch, length = grey.shape[:2]
        # CONTEXT frames are added at each end, so that every frame has a window, as it does in the MFCC column.
        whole = torch.cat([grey[:, :1].expand(-1, CONTEXT, -1, -1), grey, grey[:, -1:].expand(-1, CONTEXT, -1, -1)], 1)
        stacked = whole.unfold(1, WINDOW_FRAMES, 1).flatten(0, 1).permute(0, 3, 1, 2)
        features = self.last(self.layers(stacked).flatten(1))
        return functional.normalize(features.float(), dim=-1).view(batch, length, FEATURES)


class AudioEncoder(nn.Module):
    """From an MFCC window, 12 coefficients × 20 steps, to a unit vector."""

    def __init__(self, *, width: float) -> None:
        super().__init__()
        first, second, third = (channels(count, width) for count in (128, 128, 256))
        self.layers = nn.Sequential(
            *_conv1d(N_COEFFICIENTS, first, 1), *_conv1d(first, second, 2), *_conv1d(second, third, 2)
        )
        self.last = nn.Linear(third * (WINDOW_STEPS // 4), FEATURES)

    def forward(self, windows: Tensor) -> Tensor:
        """Map standardised windows `[B, T, 12, 20]` to `[B, T, 256]`."""
        features = self.last(self.layers(windows.flatten(0, 1)).flatten(1))
        return functional.normalize(features.float(), dim=-1).view(*windows.shape[:2], FEATURES)


class Temperature(nn.Module):
    """The learned temperature, by which similarities are divided."""

    def __init__(self) -> None:
        super().__init__()
        self.inverse_log = nn.Parameter(torch.tensor(1 / 0.07).log())

    def scale(self) -> Tensor:
        """Return its inverse, at most `MAX_SCALE`."""
        return self.inverse_log.exp().clamp(max=MAX_SCALE)


def _conv1d(before: int, after: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv1d(before, after, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm1d(after), nn.ReLU(inplace=True)]


def standardised_grey(frames: Tensor) -> Tensor:
    """Convert frames `[B, T, 3, S, S]`, or grey `[B, T, 1, S, S]`, to grey with mean 0 and variance 1 in each clip.

    This removes the brightness and contrast of the lighting. Returns `[B, T, S, S]`, float32.
    """
    seen = frames[:, :, 0].float() if frames.shape[2] == 1 else grey_levels(frames)
    mean, deviation = seen.mean((1, 2, 3), keepdim=True), seen.std((1, 2, 3), keepdim=True)
    return (seen - mean) / deviation.clamp(min=MIN_CONTRAST)


def standardised_windows(windows: Tensor, statistics: Tensor) -> Tensor:
    """Standardise windows `[B, T, 12, 20]` by mean and standard deviation of their clip's coefficients `[B, 2, 12]`.

    This removes loudness and the microphone's response: both add a constant to each coefficient.
    """
    mean, deviation = (one[:, None, :, None] for one in statistics.unbind(1))
    return (windows - mean) / deviation


def moved(grey: Tensor, strength: float) -> Tensor:
    """Transform grey images `[B, T, S, S]` at random, all images of a clip alike.

    At strength 1, they are rotated by up to 8°, scaled by up to ±12 % and shifted by up to 8 % of the side.
    """
    batch, length = grey.shape[:2]
    draw = 2 * torch.rand(4, batch, device=grey.device) - 1
    angle, size, (x, y) = 0.14 * strength * draw[0], 1 + 0.12 * strength * draw[1], 0.16 * strength * draw[2:]
    cosine, sine = size * angle.cos(), size * angle.sin()
    theta = torch.stack([torch.stack([cosine, -sine, x], -1), torch.stack([sine, cosine, y], -1)], 1)
    grid = functional.affine_grid(theta, [batch, length, *grey.shape[2:]], align_corners=False)
    return functional.grid_sample(grey, grid, padding_mode="border", align_corners=False)
