"""Shared layers and functions: channel counts of small models, and all frames of a batch in one pass."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

FEATURES = 256
"""Length of every latent vector, at any width."""
LEAK = 0.2
"""Slope of LeakyReLU below zero, everywhere."""
IMAGE_SIZES = (64, 128, 256)


def channels(count: int, width: float) -> int:
    """Return `count` channels times the width, as a multiple of 4, so that a block can be split in halves and quarters.

    ValueError for a width that is not above 0.
    """
    if not width > 0:
        raise ValueError(f"width {width}: above 0, 1 being the released networks")
    return max(4, 4 * round(count * width / 4))


def check_image_size(image_size: int) -> None:
    """Raise ValueError for an image size that the networks do not support."""
    if image_size not in IMAGE_SIZES:
        raise ValueError(f"image_size {image_size}: one of {', '.join(map(str, IMAGE_SIZES))}")


def expect(batch: Tensor, *shape: int | str) -> None:
    """Raise ValueError unless a batch is `[B, *shape]`; a letter stands for any number."""
    if batch.dim() != 1 + len(shape) or any(
        isinstance(wanted, int) and found != wanted for found, wanted in zip(batch.shape[1:], shape, strict=True)
    ):
        raise ValueError(f"shape {list(batch.shape)} where [B, {', '.join(map(str, shape))}] is expected")


def fold(batch: Tensor, *shape: int) -> Tensor:
    """Reshape `[B, T, *shape]` to `[B·T, *shape]`, so that all frames of a batch pass through a network at once.

    A loop over T gives the same values, with one exception: in training, BatchNorm takes its statistics over B·T
    frames, and not over the B frames of one instant as in the released code. ValueError for any other shape.
    """
    expect(batch, "T", *shape)
    return batch.flatten(0, 1)


def unfold(frames: Tensor, batch: int) -> Tensor:
    """Reshape `[B·T, …]` to `[B, T, …]`."""
    return frames.view(batch, -1, *frames.shape[1:])


def double(maps: Tensor) -> Tensor:
    """Upsample maps `[N, C, H, W]` ×2 with aligned corners, as `bilinear` did when the weights were trained."""
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
    """Return layers that the released networks have but never use: no gradients, no part in any forward pass.

    They are kept so that an imported checkpoint loses nothing and the parameter counts are those of the released ones.
    """
    return nn.ModuleDict(layers).requires_grad_(False)
