"""The contrastive loss: each window of a clip against the other windows of that clip, in both directions (InfoNCE)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_LEFT_OUT = -100
"""Target of a window that is left out."""


def contrast(video: Tensor, audio: Tensor, valid: Tensor, scale: Tensor, *, nearest: int, others: float) -> Tensor:
    """Return the cross-entropy of finding the window of the same instant, from video to audio and vice versa.

    video, audio: unit vectors `[B, N, F]` of N consecutive instants of B clips. scale: inverse temperature.
    valid: bool `[B, N]`, whether a window is of real audio; others are left out on both sides. Without any, 0.
    nearest: minimum distance in frames of a negative from the same clip; nearer ones are left out, because a mouth
        moves slowly. others: weight of each window of another clip among the negatives.
    """
    batch, length = video.shape[:2]
    scores = scale * video.flatten(0, 1) @ audio.flatten(0, 1).T
    time = torch.arange(length, device=scores.device).repeat(batch)
    clip = torch.arange(batch, device=scores.device).repeat_interleave(length)
    apart, same = (time[:, None] - time).abs(), clip[:, None] == clip
    kept = valid.flatten()
    compared = kept[:, None] & kept & ~(same & (apart < nearest))
    itself = same & (apart == 0)  # also of windows that are left out: gradients of empty rows are not finite
    scores = scores.masked_fill(~(compared | itself), -math.inf)
    scores = torch.where(same, scores, scores + (math.log(others) if others else -math.inf))
    target = torch.arange(batch * length, device=scores.device).masked_fill(~kept, _LEFT_OUT)
    both = [
        functional.cross_entropy(each, target, ignore_index=_LEFT_OUT, reduction="sum") for each in (scores, scores.T)
    ]
    return (both[0] + both[1]) / 2 / kept.sum().clamp(min=1)
