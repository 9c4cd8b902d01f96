"""Corruption of the inputs of a training step, and augmentation of expression clips; not from the papers.

The gate learns to shift weight between modalities only if they differ in quality. All random numbers are drawn on the
CPU, so that they do not depend on the device of the networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional

from davs_model.data.pictures import MOUTH_BOX, region
from davs_model.models.etgan.dimensions import MODALITIES

NOISE_DB = (-5.0, 10.0)
"""Minimum and maximum signal-to-noise ratio in dB, of each MFCC coefficient over the clip."""
SHIFT = 1 / 32
"""Maximum shift of an expression clip in each direction, as a fraction of its side."""
JITTER = 0.2
"""Maximum change of the gain of each of its colour channels; that of the offset is a third of this."""
BLUR = (4, 16)
"""Minimum and maximum factor by which an image is downscaled to blur it."""


@dataclass(frozen=True)
class Inputs:
    """What frames are generated from.

    views `[B, K, 3, S, S]`, expression `[B, 8, 3, S, S]`, windows `[B, T, 12, 20]`, positions `[B, T, 14]`.
    spoilt: int64 `[B]`, the index in `MODALITIES` of the corrupted modality of each clip, −1 if none is.
    """

    views: Tensor
    expression: Tensor
    windows: Tensor
    positions: Tensor
    spoilt: Tensor

    def whole(self, modality: str) -> Tensor:
        """Return in which clips a modality is not corrupted, bool `[B]`."""
        return self.spoilt != MODALITIES.index(modality)

    def copied(self) -> Inputs:
        """Return a copy that may be changed in place."""
        return Inputs(*(getattr(self, field.name).clone() for field in fields(self)))


def spoil(whole: Inputs, probability: float) -> Inputs:
    """Return a copy in which one modality of each clip is corrupted with this probability."""
    found, count = whole.copied(), len(whole.views)
    chosen = torch.where(torch.rand(count) < probability, torch.randint(len(MODALITIES), (count,)), -1)
    for clip, modality in enumerate(chosen.tolist()):
        if modality >= 0:
            _spoil(found, clip, MODALITIES[modality])
    return replace(found, spoilt=chosen.to(whole.views.device))


def spoil_all(whole: Inputs) -> Inputs:
    """Return a copy in which every modality of each clip is corrupted, `plainly`."""
    found = whole.copied()
    for clip in range(len(whole.views)):
        for modality in MODALITIES:
            _spoil(found, clip, modality, plainly=True)
    return found


def _spoil(inputs: Inputs, clip: int, modality: str, *, plainly: bool = False) -> None:
    """Corrupt a modality of a clip in place.

    plainly: so that the features of a single frame show it. All views are corrupted, because intact ones would make up
    for one; windows are not reordered. Noise is then three times as frequent as silence, which is easy to detect.
    """
    if modality == "identity":
        views = inputs.views[clip]
        for view in range(len(views)) if plainly else [int(torch.randint(len(views), ()))]:
            views[view] = _blurred(views[view : view + 1])[0] if _coin() else _covered(views[view])
    elif modality == "expression":
        expression = inputs.expression[clip]
        inputs.expression[clip] = _blurred(expression) if _coin() else expression.mean()
    elif modality == "audio":
        kind = int(torch.rand(()) < 0.75) if plainly else int(torch.randint(3, ()))
        inputs.windows[clip] = _spoilt_sound(inputs.windows[clip], kind)
    else:
        inputs.positions[clip] = math.nan


def masked(positions: Tensor, probability: float) -> Tensor:
    """Return positions `[B, T, 14]`, those of each clip set to NaN (unknown) with this probability."""
    hidden = torch.rand(len(positions), 1, 1) < probability
    return positions.masked_fill(hidden.to(positions.device), math.nan)


def hide_mouth(frames: Tensor) -> Tensor:
    """Fill the mouth box of frames `[B, T, 3, S, S]` with its mean colour over the clip, to hide the lips."""
    rows, columns = region(MOUTH_BOX, frames.shape[-1])
    hidden = frames.clone()
    hidden[..., rows, columns] = frames[..., rows, columns].mean((1, 3, 4), keepdim=True)
    return hidden


def disguised(frames: Tensor) -> Tensor:
    """Hide the mouths of expression clips `[B, T, 3, S, S]`; flip, shift and tint each clip independently.

    The result shows no lips and shares no pixel with the target.
    """
    frames = hide_mouth(frames)
    side = frames.shape[-1]
    most = max(1, round(side * SHIFT))
    found = []
    for clip in frames:
        x, y = torch.randint(-most, most + 1, (2,)).tolist()
        padded = functional.pad(clip, (most,) * 4, mode="replicate")
        moved = padded[..., most + y : most + y + side, most + x : most + x + side]
        found.append(moved.flip(-1) if _coin() else moved)
    gain = 1 + JITTER * (2 * torch.rand(len(frames), 1, 3, 1, 1) - 1)
    offset = JITTER / 3 * (2 * torch.rand(len(frames), 1, 3, 1, 1) - 1)
    return (torch.stack(found) * gain.to(frames.device) + offset.to(frames.device)).clamp(0, 1)


def noisy(windows: Tensor, ratio_db: float) -> Tensor:
    """Add noise to windows `[T, 12, 20]`; the ratio is that of each coefficient's deviation over them to the noise."""
    deviation = windows.std((0, 2), keepdim=True, correction=0)
    noise = torch.randn(windows.shape).to(windows)
    return windows + deviation * 10 ** (-ratio_db / 20) * noise


def blurred(frames: Tensor, factor: float) -> Tensor:
    """Blur images `[T, 3, S, S]`: downscale them by a factor, and upscale them again."""
    side = frames.shape[-1]
    small = functional.interpolate(frames, max(2, round(side / factor)), mode="bilinear", antialias=True)
    return functional.interpolate(small, side, mode="bilinear", align_corners=False)


def _coin() -> bool:
    return bool(torch.rand(()) < 0.5)


def _blurred(frames: Tensor) -> Tensor:
    least, most = BLUR
    return blurred(frames, least * (most / least) ** float(torch.rand(())))


def _covered(frame: Tensor) -> Tensor:
    """Return an image `[3, S, S]` with one half replaced by its mean colour."""
    side, kind = frame.shape[-1], int(torch.randint(4, ()))
    half = slice(side // 2) if kind % 2 else slice(side // 2, side)
    covered = frame.clone()
    part = (slice(None), half) if kind < 2 else (slice(None), slice(None), half)
    covered[part] = frame.mean((1, 2), keepdim=True)
    return covered


def _spoilt_sound(windows: Tensor, kind: int) -> Tensor:
    """Return windows `[T, 12, 20]` replaced by their mean, with noise, or in random order: kind 0, 1 or 2."""
    if kind == 0:
        return windows.mean((0, 2), keepdim=True).expand_as(windows)
    if kind == 1:
        least, most = NOISE_DB
        return noisy(windows, least + (most - least) * float(torch.rand(())))
    return windows[torch.randperm(len(windows)).to(windows.device)]
