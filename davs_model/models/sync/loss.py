"""The contrastive loss: each window of a clip against the other windows of that clip, in both directions (InfoNCE)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def contrast(video: Tensor, audio: Tensor, scale: Tensor, *, nearest: int, others: float) -> Tensor:
    """Return the cross-entropy of finding the window of the same instant, from video to audio and vice versa.

    video, audio: unit vectors `[B, N, F]` of N consecutive instants of B clips. scale: inverse temperature.
    nearest: minimum distance in frames of a negative from the same clip; nearer ones are left out, because a mouth
        moves slowly. others: weight of each window of another clip among the negatives.
    """
    batch, length = video.shape[:2]
    scores = scale * video.flatten(0, 1) @ audio.flatten(0, 1).T
    time = torch.arange(length, device=scores.device).repeat(batch)
    clip = torch.arange(batch, device=scores.device).repeat_interleave(length)
    apart, same = (time[:, None] - time).abs(), clip[:, None] == clip
    scores = scores.masked_fill(same & (apart > 0) & (apart < nearest), -math.inf)
    scores = torch.where(same, scores, scores + (math.log(others) if others else -math.inf))
    target = torch.arange(batch * length, device=scores.device)
    return (functional.cross_entropy(scores, target) + functional.cross_entropy(scores.T, target)) / 2
