"""E_w^v and E_w^a: the speech encoders, from one frame or one MFCC window to the shared features (wid space)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from avprep.schema import N_COEFFICIENTS, WINDOW_STEPS
from davs_model.data.arrays import MIN_DEVIATION
from davs_model.data.sound import warped_voice
from davs_model.models.davs.networks.layers import (
    FEATURES,
    channels,
    check_image_size,
    conv_bn,
    double,
    expect,
    fold,
    unfold,
    unused,
)

LANDMARK_MAPS = 68
"""Number of maps at the end of FAN, one per facial landmark."""
NEAREST = 1e-3
"""Cost of a step of `Voice`: of equally likely steps the smallest is taken, and 0 without a reference."""
SPREAD = 1e-4
"""A clip holds a voice if the smallest eigenvalue of the correlation of its coefficients is above this (silence: 0)."""
DEPTH = 4
"""How often the hourglass halves its maps."""


class PreactivatedBlock(nn.Module):
    """FAN's block: three pre-activated 3×3 convolutions giving 1/2, 1/4 and 1/4 of the channels, plus a shortcut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half, quarter = out_channels // 2, out_channels // 4
        self.conv1 = self._preactivated(in_channels, half, 3)
        self.conv2 = self._preactivated(half, quarter, 3)
        self.conv3 = self._preactivated(quarter, quarter, 3)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else self._preactivated(in_channels, out_channels, 1)

    @staticmethod
    def _preactivated(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
        return nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Map `[N, in_channels, H, W]` to `[N, out_channels, H, W]`."""
        first = self.conv1(maps)
        second = self.conv2(first)
        third = self.conv3(second)
        return torch.cat((first, second, third), dim=1) + self.shortcut(maps)


class Hourglass(nn.Module):
    """The sum of a branch at full size and one at half size with the next hourglass in it; the innermost is a block."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.upper = PreactivatedBlock(width, width)
        self.dropout = nn.Dropout(0.5)
        self.before = PreactivatedBlock(width, width)
        self.inner = Hourglass(depth - 1, width) if depth > 1 else PreactivatedBlock(width, width)
        self.after = PreactivatedBlock(width, width)

    def forward(self, maps: Tensor) -> Tensor:
        """Map `[N, width, H, W]` to the same shape."""
        lower = self.after(self.inner(self.before(functional.max_pool2d(maps, 2))))
        return self.dropout(self.upper(maps)) + double(lower)


class VisualSpeechEncoder(nn.Module):
    """E_w^v, the front of a face-alignment network (FAN) with one hourglass, and a linear layer.

    width: channel multiplier; it does not change the 68 landmark maps and the 256 features.
    image_size: S, 64, 128 or 256, of the frames, or of the part of them that it sees.
    normalised: features have mean 0 and variance 1, by BatchNorm without parameters.
    """

    def __init__(self, *, width: float = 1.0, image_size: int = 256, normalised: bool = False) -> None:
        super().__init__()
        check_image_size(image_size)
        self.image_size = image_size
        self.norm = nn.BatchNorm1d(FEATURES, affine=False) if normalised else nn.Identity()
        c64, c128, c256 = (channels(count, width) for count in (64, 128, 256))
        self.stem = nn.Sequential(nn.Conv2d(3, c64, 7, 2, 3), nn.BatchNorm2d(c64), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(
            PreactivatedBlock(c64, c128), nn.MaxPool2d(2), PreactivatedBlock(c128, c128), PreactivatedBlock(c128, c256)
        )
        self.hourglass = Hourglass(DEPTH, c256)
        self.landmarks = nn.Sequential(
            PreactivatedBlock(c256, c256),
            nn.Conv2d(c256, c256, 1),
            nn.BatchNorm2d(c256),
            nn.ReLU(inplace=True),
            nn.Conv2d(c256, LANDMARK_MAPS, 1),
        )
        self.to_map = nn.Sequential(
            nn.BatchNorm2d(LANDMARK_MAPS),
            nn.ReLU(inplace=True),
            nn.Conv2d(LANDMARK_MAPS, 1, 3, 2, 1),
            nn.ReLU(inplace=True),
        )
        cells = (image_size // 8) ** 2
        self.fc = nn.Linear(cells, FEATURES)
        self.unused = unused(
            conv5=nn.Conv2d(c256, c256, 5), conv6=nn.Conv2d(LANDMARK_MAPS, 1, 3), fc=nn.Linear(cells, FEATURES)
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Encode RGB frames `[B, T, 3, S, S]` in [0, 1] as f_w^v `[B, T, 256]`."""
        maps = self.blocks(self.stem(fold(frames, 3, self.image_size, self.image_size)))
        maps = self.to_map(self.landmarks(self.hourglass(maps)))
        return unfold(self.norm(self.fc(maps.flatten(1))), len(frames))


class AudioSpeechEncoder(nn.Module):
    """E_w^a, two small convolutional branches over one window, similar to SyncNet's.

    width: channel multiplier; it does not change the 256 features.
    normalised: as in `VisualSpeechEncoder`.
    standardise: one of `STANDARDISE`: the statistics by which every coefficient is given mean 0 and variance 1. They
        are none, those of the training set, which the network stores, those of each clip, or the latter after `Voice`.
    """

    def __init__(self, *, width: float = 1.0, normalised: bool = False, standardise: str = "none") -> None:
        super().__init__()
        self.standardise = standardise
        self.norm = nn.BatchNorm1d(FEATURES, affine=False) if normalised else nn.Identity()
        self.mean: Tensor
        self.deviation: Tensor
        if standardise == "corpus":
            self.register_buffer("mean", torch.zeros(N_COEFFICIENTS))
            self.register_buffer("deviation", torch.ones(N_COEFFICIENTS))
        moves = standardise.startswith("voice")
        self.voice = Voice("syncnet" if standardise.endswith("syncnet") else "davs") if moves else None
        c64, c128, c256, c512 = (channels(count, width) for count in (64, 128, 256, 512))
        self.square = nn.Sequential(  # 20×12 → 7×7 → 4×4 → 2×2 → 1×1
            conv_bn(1, c64, 3, (3, 2), (1, 2), leaky=True),
            conv_bn(c64, c128, 3, 2, 1, leaky=True),
            conv_bn(c128, c256, 3, leaky=True),
            nn.Conv2d(c256, c512, 2, bias=False),
        )
        self.temporal = nn.Sequential(  # 20×12 → 18×1 → 6×1 → 6×1 → 3×1 → 1×1
            conv_bn(1, c64, (3, N_COEFFICIENTS), leaky=True),
            nn.MaxPool2d(1, (3, 1)),
            conv_bn(c64, c256, (3, 1), padding=(1, 0), leaky=True),
            nn.MaxPool2d(1, (2, 1)),
            nn.Conv2d(c256, c512, (3, 1), bias=False),
        )
        self.fc = nn.Linear(2 * c512, FEATURES)
        self.unused = unused(bn=nn.BatchNorm2d(c512))

    def forward(self, windows: Tensor, statistics: Tensor | None = None) -> Tensor:
        """Encode MFCC windows `[B, T, 12, 20]` (coefficient × time, as in the shards) as f_w^a `[B, T, 256]`.

        statistics: mean and standard deviation of each clip's coefficients, `[B, 2, 12]`, for `standardise` "clip";
        with their covariance, `[B, 14, 12]`, for "voice"; None: the statistics of the windows themselves.
        """
        expect(windows, "T", N_COEFFICIENTS, WINDOW_STEPS)
        windows = self._standardised(windows, statistics)
        images = fold(windows, N_COEFFICIENTS, WINDOW_STEPS).transpose(1, 2).unsqueeze(1)
        both = torch.cat((self.square(images).flatten(1), self.temporal(images).flatten(1)), dim=1)
        return unfold(self.norm(self.fc(both)), len(windows))

    def _standardised(self, windows: Tensor, statistics: Tensor | None) -> Tensor:
        if self.standardise == "none":
            return windows
        if self.standardise == "corpus":
            mean, deviation = self.mean, self.deviation
        else:
            statistics = sound_statistics(windows) if statistics is None else statistics
            if self.voice is not None:
                return self.voice(windows, statistics)
            mean, deviation = (one[:, None] for one in statistics[:, :2].unbind(1))
        return (windows - mean[..., None]) / deviation[..., None]


class Voice(nn.Module):
    """Moves the formants of a clip to those of a reference voice, and standardises its MFCC.

    This is vocal tract length normalisation (Lee and Rose, ICASSP 1996). Of the warps of `warped_voice` in steps of
    `STEP`, the one is chosen under which the clip is most likely, by one Gaussian of the reference's standardised
    coefficients. It therefore needs only the covariance of a clip. In training, a voice is moved by up to `MOVED` steps
    more, at random.

    preset: MFCC preset.
    """

    STEP, LOWEST, HIGHEST, MOVED = 0.05, -4, 6, 2
    """STEP is a difference of the logarithm of the vocal tract length; the others are numbers of steps."""

    def __init__(self, preset: str) -> None:
        super().__init__()
        self.precision: Tensor
        self.warps: Tensor
        steps = range(self.LOWEST - self.MOVED, self.HIGHEST + self.MOVED + 1)
        warps = np.stack([warped_voice(self.STEP * step, preset) for step in steps])
        self.register_buffer("warps", torch.from_numpy(warps), persistent=False)
        self.register_buffer("precision", torch.zeros(N_COEFFICIENTS, N_COEFFICIENTS))

    def forward(self, windows: Tensor, statistics: Tensor) -> Tensor:
        """Move and standardise windows `[B, T, 12, 20]` of clips with these statistics `[B, 14, 12]`."""
        # In float32 also under autocast: half precision cannot resolve single steps.
        with torch.no_grad(), torch.autocast(windows.device.type, enabled=False):
            mean, covariance = statistics[:, 0].float(), statistics[:, 2:].float()
            chosen = self.steps(covariance)
            if self.training:
                chosen = chosen + torch.randint(-self.MOVED, self.MOVED + 1, chosen.shape, device=chosen.device)
            matrix = self.warps[chosen + self.MOVED - self.LOWEST]
            deviation = _deviation(matrix @ covariance @ matrix.mT)
            return (matrix / deviation[..., None])[:, None] @ (windows.float() - mean[:, None, :, None])

    def steps(self, covariance: Tensor) -> Tensor:
        """Return by how many steps each clip is moved, int64 `[B]`; covariance: `[B, 12, 12]`."""
        count = self.HIGHEST - self.LOWEST + 1
        warps = self.warps[self.MOVED : self.MOVED + count]
        moved = warps @ covariance[:, None] @ warps.mT
        steps = torch.arange(self.LOWEST, self.HIGHEST + 1, device=covariance.device)
        unlikely = (self.precision * _correlation(moved)).sum((-2, -1))
        return steps[(unlikely + NEAREST * steps.abs()).argmin(1)]

    @staticmethod
    def heard(covariance: Tensor) -> Tensor:
        """Return which clips hold a voice and not only silence, bool `[B]`; covariance: `[B, 12, 12]`."""
        return torch.linalg.eigvalsh(_correlation(covariance.double()))[:, 0] > SPREAD

    def fit(self, covariance: Tensor) -> None:
        """Set the reference voice to the mean correlation of clips, all `heard`; covariance: `[B, 12, 12]`."""
        self.precision.copy_(torch.linalg.inv(_correlation(covariance.double()).mean(0)))


def _deviation(covariance: Tensor) -> Tensor:
    return covariance.diagonal(dim1=-2, dim2=-1).clamp(min=MIN_DEVIATION**2).sqrt()


def _correlation(covariance: Tensor) -> Tensor:
    deviation = _deviation(covariance)
    return covariance / (deviation[..., None] * deviation[..., None, :])


def sound_statistics(windows: Tensor) -> Tensor:
    """Return mean, standard deviation and covariance of the coefficients of windows `[B, T, 12, 20]`: `[B, 14, 12]`."""
    deviation, mean = torch.std_mean(windows.float(), dim=(1, 3), correction=0)
    steps = (windows.float() - mean[:, None, :, None]).transpose(1, 2).flatten(2)
    covariance = steps @ steps.mT / steps.shape[-1]
    return torch.cat((torch.stack((mean, deviation.clamp(min=MIN_DEVIATION)), dim=1), covariance), dim=1)
