"""Attention to the lips: its boxes, its schedule, the mask that it gives, and its training target."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from avprep.schema import CROP_SIZE
from davs_model.data.pictures import MOUTH_BOX, Box, region

STEP = 4
"""Attention is predicted at the side of the frame divided by this."""
MARGIN = CROP_SIZE // 16
"""Pixels of a 256×256 crop by which the lips may lie outside the mouth box."""
_WIDE: Box = (MOUTH_BOX[0] - MARGIN, MOUTH_BOX[1] + MARGIN, MOUTH_BOX[2] - MARGIN, MOUTH_BOX[3] + MARGIN)


def first_attention(image_size: int) -> Tensor:
    """Return the initial attention P_1, the mouth box with soft edges, `[1, 1, S/4, S/4]` in [0, 1]."""
    return functional.avg_pool2d(_inside(MOUTH_BOX, image_size), 3, stride=1, padding=1)


def wide_box(image_size: int) -> Tensor:
    """Return the mouth box widened by S/16, outside which attention is 0, `[1, 1, S/4, S/4]`."""
    return _inside(_WIDE, image_size)


def _inside(box: Box, image_size: int) -> Tensor:
    side = image_size // STEP
    found = torch.zeros(1, 1, side, side)
    found[(..., *region(box, side))] = 1.0
    return found


def mask(attention: Tensor, rate: float, image_size: int) -> Tensor:
    """Return M_i = 1 − (1 − r)·P_i at the size of the frames, `[B, 1, S, S]`; a rate r of 1 masks nothing."""
    large = functional.interpolate(attention, image_size, mode="bilinear", align_corners=False)
    return 1 - (1 - rate) * large


def attention_range(progress: float) -> tuple[float, float]:
    """Return the minimum and maximum of the attention rate r at this fraction of the stage's steps.

    The values are the paper's: .7–.9 at first, step by step down to .1–.3, and 1 in the last epochs. The points of
    change, at .15, .70 and .90, are ours.
    """
    if progress >= 0.9:
        return 1.0, 1.0
    down = min(max((progress - 0.15) / 0.55, 0.0), 1.0)
    return 0.7 - 0.6 * down, 0.9 - 0.6 * down


def lips(corners: Tensor, real: Tensor) -> Tensor:
    """Return the training target of attention, `[B, T, S/4, S/4]` in [0, 1]: a soft ellipse on the mouth corners.

    corners: left and right, x and y in pixels of the 256×256 crop, `[B, T, 2, 2]`; NaN where unknown. There the target
        is the variation of each pixel of the box over the frames of the clip, scaled to a maximum of 1.
    real: frames `[B, T, 3, S, S]`. The paper gives no such target; this is ours.
    """
    side = real.shape[-1] // 4
    scale = side / CROP_SIZE
    left, right = (corners * scale).float().unbind(2)
    middle, half = (left + right) / 2, (right - left) / 2
    width = half.norm(dim=-1).clamp(min=1.0)[..., None, None]
    grid = torch.arange(side, device=real.device) + 0.5
    x = grid[None, None, None, :] - middle[..., 0, None, None]
    y = grid[None, None, :, None] - middle[..., 1, None, None]
    along = (x * half[..., 0, None, None] + y * half[..., 1, None, None]) / width
    across = (y * half[..., 0, None, None] - x * half[..., 1, None, None]) / width
    # An open mouth is half as high as wide; the edge of the target falls from 1 to 0 over a third of that.
    radius = ((along / (1.25 * width)).square() + (across / (0.75 * width)).square()).sqrt()
    ellipse = ((1.15 - radius) / 0.3).clamp(0, 1)
    small = functional.adaptive_avg_pool2d(real.float().flatten(0, 1), side).unflatten(0, real.shape[:2])
    moves = small.std(1, correction=0).mean(1, keepdim=True)
    moves = moves / moves.amax((-2, -1), keepdim=True).clamp(min=1e-6)
    known = corners.isfinite().all(-1).all(-1)[..., None, None]
    return torch.where(known, ellipse.nan_to_num(), moves.expand_as(ellipse)) * wide_box(real.shape[-1]).to(real)[0]
