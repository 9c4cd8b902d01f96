"""Similarity of generated frames to the real ones (Table 1): PSNR and SSIM, and also the mean absolute error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

WINDOW_SIDE = 11
WINDOW_SIGMA = 1.5
K1, K2 = 0.01, 0.03
"""Window in pixels and constants of SSIM, as Wang et al. 2004 have them."""
CHUNK = 16
"""Frames at once: in float64, SSIM takes about 20 MB for each frame of 256×256."""
SLACK = 1e-3
"""Tolerance of values outside [0, 1]: enough for rounding, too little for frames of another range."""


@dataclass(frozen=True)
class Reconstruction:
    """Means over frames."""

    psnr: float
    """In dB, over the frames that differ from the real ones, since identical ones have infinity; infinity if all do."""
    ssim: float
    l1: float
    """Mean absolute error; frames span 0 to 1."""
    identical: int
    """Number of frames that are identical to the ground truth, which `psnr` leaves out."""
    n_frames: int


class Reconstructions:
    """Measures frames batch by batch; keeps only sums."""

    def __init__(self) -> None:
        self._psnr = self._ssim = self._l1 = 0.0
        self._identical = self._n_frames = 0

    @torch.no_grad()
    def add(self, real: Tensor, generated: Tensor) -> None:
        """Add a batch of frames, float `[N, 3, H, W]` in [0, 1]; ValueError as in `ssim`, and then none is added."""
        ratios, similarities = psnr(real, generated), ssim(real, generated)
        differing = ratios.isfinite()
        self._psnr += float(ratios[differing].sum())
        self._ssim += float(similarities.sum())
        self._l1 += sum(float((x - y).abs().mean((1, 2, 3)).sum()) for x, y in _chunks(real, generated))
        self._identical += int((~differing).sum())
        self._n_frames += len(ratios)

    def result(self) -> Reconstruction:
        """Return the means over all frames so far; ValueError if there are none."""
        if not self._n_frames:
            raise ValueError("no frames to compare")
        differing = self._n_frames - self._identical
        return Reconstruction(
            psnr=self._psnr / differing if differing else math.inf,
            ssim=self._ssim / self._n_frames,
            l1=self._l1 / self._n_frames,
            identical=self._identical,
            n_frames=self._n_frames,
        )


@torch.no_grad()
def psnr(real: Tensor, generated: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each frame in dB, −10·log₁₀ of the mean squared error: float64 `[N]`.

    real, generated: float `[N, 3, H, W]` in [0, 1], with a peak of 1; computed in float64, on their device. Infinity
    for identical frames. Raises ValueError for shapes that differ, no frames, and values that are not finite or not in
    [0, 1].
    """
    # Here, since torchmetrics takes seconds to import that training does not need.
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return torch.cat(
        [
            peak_signal_noise_ratio(y, x, data_range=1.0, reduction="none", dim=(1, 2, 3))
            for x, y in _chunks(real, generated)
        ]
    )


@torch.no_grad()
def ssim(real: Tensor, generated: Tensor) -> Tensor:
    """Return the structural similarity of each frame, float64 `[N]`: at most 1, for identical frames.

    real, generated: as for `psnr`, at least 11×11; computed in float64, on their device.
    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", 2004, eq. 13, with means,
    variances and the covariance under a Gaussian window: averaged over the places where the window lies completely
    inside the image, and over the three colours. Raises ValueError as `psnr` does, and for smaller frames.
    torchmetrics has the same. But in float32, its variances of bright flat areas are so inaccurate that SSIM is off by
    up to .0007, and in float64 it is some ten times slower on a CPU.
    """
    if min(real.shape[-2:], default=0) < WINDOW_SIDE:
        raise ValueError(f"frames {list(real.shape)} are smaller than SSIM's window of {WINDOW_SIDE} pixels")
    return torch.cat([_ssim(x, y) for x, y in _chunks(real, generated)])


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return SSIM `[N]` of float64 frames `[N, 3, H, W]`."""
    down, across = (_averaging(side, x.device) for side in x.shape[-2:])

    def mean(pixels: Tensor) -> Tensor:
        return down @ pixels @ across.T

    c1, c2 = K1**2, K2**2  # (K·L)² with L = 1
    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x * mean_x, mean(y * y) - mean_y * mean_y
    covariance = mean(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x * mean_x + mean_y * mean_y + c1) * (variance_x + variance_y + c2)
    )
    # Matrix products of equal images may differ in the last bit.
    return torch.where((x == y).flatten(1).all(1), 1.0, similarity.mean((1, 2, 3)))


def _averaging(side: int, device: torch.device) -> Tensor:
    """Return the matrix that maps a line of pixels to its means under the window: float64 `[side − 10, side]`.

    A two-dimensional Gaussian is the product of two one-dimensional ones.
    """
    offsets = torch.arange(WINDOW_SIDE, dtype=torch.float64, device=device) - WINDOW_SIDE // 2
    weights = torch.exp(-(offsets**2) / (2 * WINDOW_SIGMA**2))
    matrix = torch.zeros(side - WINDOW_SIDE + 1, side, dtype=torch.float64, device=device)
    for offset, weight in enumerate(weights / weights.sum()):
        matrix.diagonal(offset).fill_(weight)
    return matrix


def _chunks(real: Tensor, generated: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Check frames, and yield pairs of real and generated ones in float64, `CHUNK` at a time."""
    if real.shape != generated.shape:
        raise ValueError(f"real frames {list(real.shape)} and generated ones {list(generated.shape)} differ in shape")
    if real.ndim != 4 or real.shape[1] != 3:
        raise ValueError(f"frames {list(real.shape)} should be [N, 3, H, W]")
    if real.numel() == 0:
        raise ValueError("no frames to compare")
    for name, frames in (("real", real), ("generated", generated)):
        if not frames.is_floating_point():
            raise ValueError(f"{name} frames are {frames.dtype}; they should be float, from 0 to 1")
        least, most = (float(value) for value in frames.aminmax())
        if not (math.isfinite(least) and math.isfinite(most)):
            raise ValueError(f"{name} frames are not finite: has training diverged?")
        if least < -SLACK or most > 1 + SLACK:
            raise ValueError(f"{name} frames span {least:g} to {most:g}; they should lie from 0 to 1")
    pairs = zip(real.split(CHUNK), generated.split(CHUNK), strict=True)
    return ((x.double(), y.double()) for x, y in pairs)
