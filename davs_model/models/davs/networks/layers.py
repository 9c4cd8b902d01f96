"""What the networks share: the width of small models, and frames that pass all at once."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

FEATURES = 256
"""Length of every latent vector; does not change with the width."""
LEAK = 0.2
"""Slope of LeakyReLU below zero, everywhere."""
IMAGE_SIZES = (64, 128, 256)


def channels(count: int, width: float) -> int:
    """Return `count` channels times the width, a multiple of 4, so that halves and quarters of a block exist.

    ValueError for a width that is not above 0.
    """
    if not width > 0:
        raise ValueError(f"width {width}: above 0, 1 being the released networks")
    return max(4, 4 * round(count * width / 4))


def check_image_size(image_size: int) -> None:
    """Raise ValueError for an image size that the networks are not built for."""
    if image_size not in IMAGE_SIZES:
        raise ValueError(f"image_size {image_size}: one of {', '.join(map(str, IMAGE_SIZES))}")


def expect(batch: Tensor, *shape: int | str) -> None:
    """Raise ValueError unless a batch is `[B, *shape]`; a letter stands for any number."""
    if batch.dim() != 1 + len(shape) or any(
        isinstance(wanted, int) and found != wanted for found, wanted in zip(batch.shape[1:], shape, strict=True)
    ):
        raise ValueError(f"shape {list(batch.shape)} where [B, {', '.join(map(str, shape))}] is expected")


def fold(batch: Tensor, *shape: int) -> Tensor:
    """Return `[B, T, *shape]` as `[B·T, *shape]`: all frames of a batch go through a network in one pass.

    A loop over T gives the same numbers, with one exception: in training BatchNorm takes its mean over B·T frames, not
    over the B frames of one instant as in the released code. ValueError for any other shape.
    """
    expect(batch, "T", *shape)
    return batch.flatten(0, 1)


def unfold(frames: Tensor, batch: int) -> Tensor:
    """Return `[B·T, …]` as `[B, T, …]`."""
    return frames.view(batch, -1, *frames.shape[1:])


def double(maps: Tensor) -> Tensor:
    """Return maps `[N, C, H, W]` at twice their size, corners aligned: `bilinear` when the weights were made."""
    return functional.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=True)


def conv_bn_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a 3×3 convolution that keeps the size, BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    )


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    *,
    leaky: bool = False,
) -> nn.Sequential:
    """Return a convolution without bias, BatchNorm and, if `leaky`, LeakyReLU."""
    layers = nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False), nn.BatchNorm2d(out_channels)
    )
    return layers.append(nn.LeakyReLU(LEAK, inplace=True)) if leaky else layers


def unused(**layers: nn.Module) -> nn.ModuleDict:
    """Return layers that the released networks hold but never use: no gradients, no part in any forward pass.

    They are kept so that an imported checkpoint loses nothing and the parameter counts are the released ones.
    """
    return nn.ModuleDict(layers).requires_grad_(False)
